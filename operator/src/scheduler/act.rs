//! Runs the scheduler: at once on the first change, and at most every 50 ms after it.

use super::observe::{PoolView, World, is_older, observe};
use super::offers::{Rung, Why};
use super::plan::{Action, Plan, plan};
use crate::context::{ApiError, Ctx, within};
use futures::StreamExt;
use gpujob_crds::conditions::{self, Status, job as condition, want};
use gpujob_crds::node::LaunchIntent;
use gpujob_crds::{GpuJob, GpuNode, GpuNodeSpec, Reservation, names};
use gpujob_provider_core::{ProviderError, Rendering, Scope};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

const PACE: Duration = Duration::from_millis(50);
const MANAGER: &str = "gpujob/scheduler";

/// The scheduler's own memory: GpuNodes that it wrote and that the cache may not show yet. Without it a second pass on a
/// cache that is behind would reserve twice.
#[derive(Debug, Default)]
pub struct Scheduler {
    own: BTreeMap<String, (Arc<GpuNode>, Timestamp)>,
    /// Passes in a row in which a write failed.
    failures: u32,
}

/// Why a write of the plan failed.
#[derive(Debug, thiserror::Error)]
enum ActError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
    #[error("the provider {0:?} is not connected yet")]
    NotConnected(Scope),
    #[error("the pool is not prepared yet")]
    NotPrepared,
}

/// Plans whenever something changes, until `shutdown`.
pub async fn run(ctx: Arc<Ctx>, mut changes: UnboundedReceiver<()>, shutdown: CancellationToken) {
    let mut scheduler = Scheduler::default();
    let mut wake: Option<Duration> = None;
    loop {
        let pause = wake.unwrap_or(Duration::from_secs(60));
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            change = changes.recv() => if change.is_none() { return },
            () = tokio::time::sleep(pause) => {}
        }
        while changes.try_recv().is_ok() {}
        if ctx.leader.is_leader() {
            wake = scheduler.pass(&ctx).await;
        }
        tokio::time::sleep(PACE).await;
    }
}

impl Scheduler {
    /// One pass: observe, plan, act. Returns when to plan again by itself.
    pub async fn pass(&mut self, ctx: &Arc<Ctx>) -> Option<Duration> {
        let now = ctx.clock.now();
        self.forget(ctx, now);
        let own = self.own.iter().map(|(name, (node, _))| (name.clone(), node.clone())).collect();
        let world = observe(ctx, &own, now);
        let mut plan = if world.pending.is_empty() { Plan::default() } else { plan(&world, now) };
        let mut failed = false;
        for action in std::mem::take(&mut plan.actions) {
            match act(ctx, &world, &action).await {
                Ok(node) => {
                    self.own.insert(node.name_any(), (Arc::new(node), now));
                }
                Err(error) => {
                    failed = true;
                    if let (Action::Reserve { node, .. }, ActError::Api(error)) = (&action, &error)
                        && error.is_not_found()
                    {
                        self.own.remove(&node.name_any());
                    }
                    // Somebody else wrote first: the watch brings it, and there is nothing to tell.
                    if !matches!(&error, ActError::Api(error) if error.is_conflict() || error.is_not_found()) {
                        tracing::warn!(%error, "scheduling");
                        let message = format!("a node could not be reserved: {error}; it is tried again");
                        plan.waiting.insert(action.job_uid().to_owned(), Why { reason: "WriteFailed".into(), message, ..Why::default() });
                    }
                }
            }
        }
        say_why(ctx, &world, &plan, now).await;
        let wake = plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10));
        self.failures = if failed { (self.failures + 1).min(7) } else { 0 };
        let retry = failed.then(|| Duration::from_millis(125 << self.failures));
        [wake, retry].into_iter().flatten().min()
    }

    /// Drops what the cache has caught up with, and what it has not shown for so long that it must be gone.
    fn forget(&mut self, ctx: &Ctx, now: Timestamp) {
        self.own.retain(|name, (mine, written)| match ctx.stores.nodes.get(&kube::runtime::reflector::ObjectRef::new(name)) {
            Some(cached) => is_older(&cached, mine),
            None => now.duration_since(*written) < jiff::SignedDuration::from_secs(30),
        });
    }
}

async fn act(ctx: &Arc<Ctx>, world: &World, action: &Action) -> Result<GpuNode, ActError> {
    match action {
        Action::Reserve { node, reservation } => {
            let written = crate::reservation::add(ctx, node, reservation).await?;
            tracing::info!(node = node.name_any(), job = reservation.name, attempt = reservation.attempt, "reserved");
            Ok(written)
        }
        Action::Launch { name, reservation, rung } => {
            let view = &world.pools[rung.pool];
            let intent = intent(ctx, view, name, reservation, rung)?;
            let api = Api::<GpuNode>::all(ctx.client.clone());
            match within(api.create(&PostParams { field_manager: Some(MANAGER.into()), ..Default::default() }, &intent)).await {
                Ok(written) => {
                    let best = &rung.offers[0];
                    tracing::info!(node = name, job = reservation.name, offer = best.label(), price = %best.price, offers = rung.offers.len(), "buying");
                    Ok(written)
                }
                // An answer that was lost, or another leader: the name says that it is the same intent; the UID says whose.
                Err(error) if error.is_conflict() => match within(api.get(name)).await {
                    Ok(there) if there.reservation_of(&reservation.job_uid).is_some() => Ok(there),
                    _ => Err(error.into()),
                },
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// The whole intent: finalizer, reservation and rendered request in one write. The launch follows from it alone.
fn intent(ctx: &Arc<Ctx>, view: &PoolView, name: &str, reservation: &Reservation, rung: &Rung) -> Result<GpuNode, ActError> {
    let pool = &view.pool;
    let scope = Scope { provider: pool.spec.provider().into(), region: pool.spec.region().into() };
    let Some(provider) = ctx.clouds.ready(&scope) else { return Err(ActError::NotConnected(scope)) };
    let job = ctx.stores.jobs.get(&kube::runtime::reflector::ObjectRef::new(&reservation.name).within(&reservation.namespace));
    let image = job.as_ref().and_then(|job| crate::watch::main_image(job));
    let prepared = crate::prefetch::prepared(ctx, pool, view.prepared.as_ref().ok_or(ActError::NotPrepared)?, image);
    let request = provider.render(&Rendering {
        pool,
        prepared: &prepared,
        cluster: &ctx.settings.cluster,
        node: name,
        market: rung.market,
        offers: &rung.offers,
        max_price: rung.max_price,
    })?;
    let mut node = GpuNode::new(
        name,
        GpuNodeSpec {
            pool: pool.name_any(),
            pool_uid: pool.uid().unwrap_or_default(),
            provider: pool.spec.provider().into(),
            region: pool.spec.region().into(),
            launched_for: vec![reservation.clone()],
            launch: LaunchIntent {
                ordinal: 1,
                market: Some(rung.market),
                offers: rung.offers.iter().map(gpujob_provider_core::Offer::reference).collect(),
                request,
            },
            gpus: rung.offers.iter().map(|o| o.gpus).min().unwrap_or(0),
            resource_name: pool.spec.resource_name().into(),
        },
    );
    node.metadata.finalizers = Some(vec![names::NODE_FINALIZER.into()]);
    node.metadata.labels =
        Some([(names::POOL_LABEL, pool.name_any()), (names::MANAGED_BY, names::MANAGER.to_owned())].map(|(k, v)| (k.to_owned(), v)).into());
    Ok(node)
}

/// Writes why each job waits, that those which got a reservation do not, and that those which no longer ask wait for nothing:
/// only where that changes something, and several at a time.
async fn say_why(ctx: &Ctx, world: &World, plan: &Plan, now: Timestamp) {
    let reserved = Why { reason: "Reserved".into(), message: "a node is reserved".into(), ..Why::default() };
    let over = Why { reason: "NotWaiting".into(), message: "the job asks for no node".into(), ..Why::default() };
    let asking = world.pending.iter().filter_map(|pending| {
        let key = kube::runtime::reflector::ObjectRef::<GpuJob>::new(&pending.name).within(&pending.namespace);
        let job = ctx.stores.jobs.get(&key).filter(|j| j.metadata.uid.as_deref() == Some(&pending.uid))?;
        let (status, why) = plan.waiting.get(&pending.uid).map_or((Status::True, &reserved), |why| (Status::False, why));
        Some((job, status, why))
    });
    let silent = world.silent.iter().map(|job| (job.clone(), Status::False, &over));
    let writes = asking.chain(silent).map(|(job, status, why)| async move {
        if let Err(error) = write_why(ctx, &job, status, why, now).await {
            tracing::debug!(job = job.name_any(), %error, "saying why it waits");
        }
    });
    futures::stream::iter(writes).buffer_unordered(8).collect::<()>().await;
}

async fn write_why(ctx: &Ctx, job: &GpuJob, status: Status, why: &Why, now: Timestamp) -> Result<(), ApiError> {
    let old = job.status.clone().unwrap_or_default();
    let mut all: Vec<_> = old.conditions.iter().filter(|c| c.type_ == condition::ASSIGNED).cloned().collect();
    conditions::set(
        &mut all,
        &want(condition::ASSIGNED, status, &why.reason, why.message.clone()),
        job.metadata.generation.unwrap_or(1),
        now,
    );
    let waiting = (status == Status::False && why.reason != "NotWaiting")
        .then(|| gpujob_crds::job_status::Waiting { next_try: why.next_try.map(whole_second), tried: why.tried.clone() });
    if conditions::find(&old.conditions, condition::ASSIGNED) == all.first() && old.waiting == waiting {
        return Ok(());
    }
    let mut value = json!({"conditions": all});
    if let Some(waiting) = waiting {
        value["waiting"] = json!(waiting);
    }
    let patch = json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": job.name_any(), "uid": job.uid()}, "status": value});
    let api = Api::<GpuJob>::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default());
    within(api.patch_status(&job.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch))).await?;
    Ok(())
}

/// As the API writes times: what is compared with the next read must survive the way there.
fn whole_second(at: Timestamp) -> k8s_openapi::apimachinery::pkg::apis::meta::v1::Time {
    k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}
