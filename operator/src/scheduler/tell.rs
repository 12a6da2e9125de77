//! Tells jobs why they wait, beside the scheduler: ten thousand status writes must not hold up the next reservation.

use super::act::MANAGER;
use super::observe::World;
use super::outbox::{Outbox, Told};
use super::plan::Plan;
use super::why::Why;
use crate::context::{ApiError, Ctx, within};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gpujob_crds::GpuJob;
use gpujob_crds::conditions::{self, Status, job as condition, want};
use gpujob_crds::job_status::Waiting;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What one job is to be told.
#[derive(Clone, Debug)]
struct Saying {
    job: Arc<GpuJob>,
    status: Status,
    why: Arc<Why>,
    now: Timestamp,
}

/// The one who tells. Of several things that wait to be said to a job only the last is.
#[derive(Debug)]
pub(super) struct Teller(UnboundedSender<Vec<Saying>>);

impl Teller {
    /// Starts telling, until `shutdown`.
    pub(super) fn start(ctx: Arc<Ctx>, shutdown: CancellationToken) -> Self {
        let (send, receive) = unbounded_channel();
        tokio::spawn(write_all(ctx, receive, shutdown));
        Teller(send)
    }

    /// Says why each job waits, that those which got a reservation do not, and that those which no longer ask wait for nothing:
    /// only where that changes something. `without`: those for whom a reservation was planned and could not be written.
    pub(super) fn tell(&self, world: &World, plan: &Plan, without: &BTreeSet<usize>, now: Timestamp) {
        let reserved = Arc::new(Why::new("Reserved", "a node is reserved".into()));
        let over = Arc::new(Why::new("NotWaiting", "the job asks for no node".into()));
        let asking = world.jobs.iter().enumerate().filter_map(|(n, job)| match plan.waiting.get(&n) {
            Some(why) => Some((job, Status::False, why)),
            None => (!without.contains(&n)).then_some((job, Status::True, &reserved)),
        });
        let silent = world.silent.iter().map(|job| (job, Status::False, &over));
        let sayings: Vec<Saying> = asking
            .chain(silent)
            .filter(|(job, status, why)| !is_said(job, *status, why, now))
            .map(|(job, status, why)| Saying { job: job.clone(), status, why: why.clone(), now })
            .collect();
        if !sayings.is_empty() {
            let _ = self.0.send(sayings); // closed at shutdown
        }
    }
}

/// Whether the job has been told so. The same reason with a next try that is still to come stands until then: every refusal moves
/// the times of all jobs that wait for the same offers.
fn is_said(job: &GpuJob, status: Status, why: &Why, now: Timestamp) -> bool {
    let Some(old) = &job.status else { return false };
    let Some(told) = conditions::find(&old.conditions, condition::ASSIGNED) else { return false };
    if told.status != status.as_str() || told.reason != why.reason || told.observed_generation != job.metadata.generation {
        return false;
    }
    if !waits(status, why) {
        return old.waiting.is_none() && told.message == why.message;
    }
    let Some(waiting) = &old.waiting else { return false };
    let promised = waiting.next_try.as_ref().map(|t| t.0);
    let stands = why.next_try.is_some() && promised.is_some_and(|at| at > now);
    stands || (told.message == why.message && waiting.tried == why.tried && promised == why.next_try.map(|at| whole_second(at).0))
}

fn waits(status: Status, why: &Why) -> bool {
    status == Status::False && why.reason != "NotWaiting"
}

async fn write_all(ctx: Arc<Ctx>, mut sayings: UnboundedReceiver<Vec<Saying>>, shutdown: CancellationToken) {
    let mut outbox: Outbox<Saying> = Outbox::default();
    let mut writing = FuturesUnordered::new();
    loop {
        while let Some((uid, saying)) = outbox.take(Instant::now()) {
            writing.push(async {
                let told = write(&ctx, &saying).await;
                (uid, saying, told)
            });
        }
        let again = outbox.next_try();
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            more = sayings.recv() => match more {
                Some(more) => {
                    for saying in more {
                        let namespace = saying.job.namespace().unwrap_or_default();
                        outbox.put(&namespace, saying.job.uid().unwrap_or_default(), saying);
                    }
                }
                None => return,
            },
            Some((uid, saying, told)) = writing.next() => outbox.done(&uid, saying, told, Instant::now()),
            () = async { match again { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {}
        }
    }
}

async fn write(ctx: &Ctx, saying: &Saying) -> Told {
    if !ctx.leader.is_leader() {
        return Told::Over;
    }
    match patch(ctx, saying).await {
        Ok(()) => Told::Over,
        Err(error) if error.is_conflict() || error.is_not_found() => Told::Over,
        Err(error) => {
            tracing::debug!(job = saying.job.name_any(), %error, "saying why it waits");
            Told::Failed
        }
    }
}

async fn patch(ctx: &Ctx, Saying { job, status, why, now }: &Saying) -> Result<(), ApiError> {
    let old = job.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
    let mut all: Vec<_> = old.iter().filter(|c| c.type_ == condition::ASSIGNED).cloned().collect();
    let wanted = want(condition::ASSIGNED, *status, &why.reason, why.message.clone());
    conditions::set(&mut all, &wanted, job.metadata.generation.unwrap_or(1), *now);
    let mut value = json!({"conditions": all});
    if waits(*status, why) {
        value["waiting"] = json!(Waiting { next_try: why.next_try.map(whole_second), tried: why.tried.clone() });
    }
    // With the version that was read: one field manager never conflicts with itself, and a request that was long on its way would
    // undo what was said since. The job's newer version brings another look.
    let metadata = json!({"name": job.name_any(), "uid": job.uid(), "resourceVersion": job.resource_version()});
    let patch = json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": metadata, "status": value});
    let api = Api::<GpuJob>::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default());
    within(api.patch_status(&job.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch))).await?;
    Ok(())
}

/// As the API writes times: what is compared with the next read must survive the way there.
fn whole_second(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ctx_test::Surroundings;
    use std::time::Duration;

    fn path(namespace: &str, name: &str) -> String {
        format!("/apis/gpujob.dev/v1alpha1/namespaces/{namespace}/gpujobs/{name}")
    }

    fn job(s: &Surroundings, namespace: &str, name: &str) -> Arc<GpuJob> {
        let mut job = GpuJob::new(name, Default::default());
        (job.metadata.uid, job.metadata.resource_version) = (Some(format!("{namespace}-{name}")), Some("7".into()));
        job.metadata.namespace = Some(namespace.into());
        s.api.put(&path(namespace, name), &job);
        Arc::new(job)
    }

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_hangs_keeps_no_word_from_the_jobs_of_others() {
        let s = Surroundings::new();
        let mut jobs: Vec<Arc<GpuJob>> = (0..40).map(|n| job(&s, "a-hangs", &format!("j{n}"))).collect();
        jobs.push(job(&s, "well", "j"));
        s.api.hang("/namespaces/a-hangs/");
        let shutdown = CancellationToken::new();
        let teller = Teller::start(s.ctx.clone(), shutdown.clone());
        let why = Arc::new(Why::new("PoolLimit", "the pool is full".into()));
        let plan = Plan { waiting: (0..jobs.len()).map(|n| (n, why.clone())).collect(), ..Plan::default() };
        let world = World { jobs, ..World::default() };
        let said = |namespace: &str, name: &str| s.api.get(&path(namespace, name))["status"]["conditions"].is_array();
        // Every pass says again what is not on record.
        teller.tell(&world, &plan, &BTreeSet::new(), s.ctx.clock.now());
        teller.tell(&world, &plan, &BTreeSet::new(), s.ctx.clock.now());
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(said("well", "j"), "it waits for nobody");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert!(!said("a-hangs", "j0"));
        s.api.hang("nothing");
        tokio::time::sleep(Duration::from_secs(75)).await;
        let silent = (0..40).filter(|n| !said("a-hangs", &format!("j{n}"))).count();
        assert_eq!(silent, 0, "each is tried again by itself, within a minute and the ten seconds of a call");
        shutdown.cancel();
    }
}
