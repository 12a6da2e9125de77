//! Tells jobs why they wait, beside the scheduler: ten thousand status writes must not hold up the next reservation.

use super::act::MANAGER;
use super::observe::World;
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
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio_util::sync::CancellationToken;

/// Writes at a time.
const WRITES: usize = 8;

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
    /// only where that changes something.
    pub(super) fn tell(&self, world: &World, plan: &Plan, now: Timestamp) {
        let reserved = Arc::new(Why::new("Reserved", "a node is reserved".into()));
        let over = Arc::new(Why::new("NotWaiting", "the job asks for no node".into()));
        let asking = world.jobs.iter().enumerate().map(|(n, job)| match plan.waiting.get(&n) {
            Some(why) => (job, Status::False, why),
            None => (job, Status::True, &reserved),
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
    let mut next: BTreeMap<String, Saying> = BTreeMap::new();
    let mut writing = FuturesUnordered::new();
    loop {
        while writing.len() < WRITES
            && let Some((_, saying)) = next.pop_first()
        {
            writing.push(write(&ctx, saying));
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            more = sayings.recv() => match more {
                Some(more) => next.extend(more.into_iter().map(|s| (s.job.uid().unwrap_or_default(), s))),
                None => return,
            },
            Some(()) = writing.next() => {}
        }
    }
}

async fn write(ctx: &Ctx, saying: Saying) {
    if !ctx.leader.is_leader() {
        return;
    }
    if let Err(error) = patch(ctx, &saying).await {
        tracing::debug!(job = saying.job.name_any(), %error, "saying why it waits");
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
