//! Runs the scheduler: at once on the first change, and at most every 50 ms after it.

use super::observe::{Memory, PoolView, World, is_older, observe};
use super::offers::Rung;
use super::plan::{Action, Plan, plan};
use super::tell::Teller;
use super::why::Why;
use crate::context::{ApiError, Ctx, within};
use futures::StreamExt;
use gpujob_crds::node::LaunchIntent;
use gpujob_crds::{GpuNode, GpuNodeSpec, Reservation, names};
use gpujob_provider_core::{ProviderError, Rendering, Scope};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, PostParams};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio_util::sync::CancellationToken;

const PACE: Duration = Duration::from_millis(50);
pub(super) const MANAGER: &str = "gpujob/scheduler";
/// Writes at a time: a burst of jobs is not served one round trip after the other.
const WRITES: usize = 16;

/// The scheduler and what it remembers from one pass to the next. Without its own writes among that, a second pass on a cache
/// that is behind would reserve twice.
#[derive(Debug, Default)]
pub struct Scheduler {
    memory: Memory,
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
    let teller = Teller::start(ctx.clone(), shutdown.clone());
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
        let departed = ctx.stores.departed.take();
        scheduler.memory.own.retain(|_, (node, _)| node.metadata.uid.as_ref().is_none_or(|uid| !departed.contains(uid)));
        if ctx.leader.is_leader() {
            wake = scheduler.pass(&ctx, &teller).await;
        }
        tokio::time::sleep(PACE).await;
    }
}

impl Scheduler {
    /// One pass: observe, plan, act. Returns when to plan again by itself.
    async fn pass(&mut self, ctx: &Arc<Ctx>, teller: &Teller) -> Option<Duration> {
        let now = ctx.clock.now();
        self.forget(ctx, now);
        let world = observe(ctx, &mut self.memory, now);
        let mut plan = if world.pending.is_empty() { Plan::default() } else { plan(&world, now) };
        let groups = by_node(std::mem::take(&mut plan.actions));
        // Whose place is not on record. One that somebody else's write came before is planned anew when the cache shows that write.
        let mut without: BTreeSet<usize> = groups.iter().flatten().flat_map(|action| action.jobs().to_vec()).collect();
        let mut failed = false;
        let mut done = futures::stream::iter(groups.into_iter().map(|group| act_in_turn(ctx, &world, group))).buffer_unordered(WRITES);
        while let Some(results) = done.next().await {
            for (action, result) in results {
                match result {
                    Ok(node) => {
                        without.retain(|job| !action.jobs().contains(job));
                        self.memory.own.insert(node.name_any(), (Arc::new(node), now));
                    }
                    Err(error) => {
                        failed = true;
                        if let (Action::Reserve { node, .. }, ActError::Api(error)) = (&action, &error)
                            && error.is_not_found()
                        {
                            self.memory.own.remove(&node.name_any());
                        }
                        // Somebody else wrote first: the watch brings it, and there is nothing to tell.
                        if !matches!(&error, ActError::Api(error) if error.is_conflict() || error.is_not_found()) {
                            tracing::warn!(%error, "scheduling");
                            let message = format!("a node could not be reserved: {error}; it is tried again");
                            let why = Arc::new(Why::new("WriteFailed", message));
                            plan.waiting.extend(action.jobs().iter().map(|job| (*job, why.clone())));
                        }
                    }
                }
            }
        }
        drop(done);
        teller.tell(&world, &plan, &without, now);
        let wake = plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default() + Duration::from_millis(10));
        self.failures = if failed { (self.failures + 1).min(7) } else { 0 };
        let retry = failed.then(|| Duration::from_millis(125 << self.failures));
        [wake, retry].into_iter().flatten().min()
    }

    /// Drops what the cache has caught up with, and what it has not shown for so long that it must be gone.
    fn forget(&mut self, ctx: &Ctx, now: Timestamp) {
        self.memory.own.retain(|name, (mine, written)| match ctx.stores.nodes.get(&kube::runtime::reflector::ObjectRef::new(name)) {
            Some(cached) => is_older(&cached, mine),
            None => now.duration_since(*written) < jiff::SignedDuration::from_secs(30),
        });
    }
}

/// The actions by the GpuNode that they write, each group and the actions in it in their order.
fn by_node(actions: Vec<Action>) -> Vec<Vec<Action>> {
    let mut groups: Vec<Vec<Action>> = vec![];
    let mut known: BTreeMap<String, usize> = BTreeMap::new();
    for action in actions {
        match &action {
            Action::Launch { .. } => groups.push(vec![action]),
            Action::Reserve { node, .. } => match known.get(&node.name_any()) {
                Some(n) => groups[*n].push(action),
                None => {
                    known.insert(node.name_any(), groups.len());
                    groups.push(vec![action]);
                }
            },
        }
    }
    groups
}

/// Several reservations on one GpuNode: each on the version that the one before has made, up to the first that fails.
async fn act_in_turn(ctx: &Arc<Ctx>, world: &World, group: Vec<Action>) -> Vec<(Action, Result<GpuNode, ActError>)> {
    let mut results: Vec<(Action, Result<GpuNode, ActError>)> = vec![];
    for mut action in group {
        match (&mut action, results.last()) {
            (Action::Reserve { node, .. }, Some((_, Ok(newer)))) => *node = Arc::new(newer.clone()),
            (_, Some((_, Err(_)))) => break,
            _ => {}
        }
        let result = act(ctx, world, &action).await;
        results.push((action, result));
    }
    results
}

async fn act(ctx: &Arc<Ctx>, world: &World, action: &Action) -> Result<GpuNode, ActError> {
    match action {
        Action::Reserve { node, reservation, .. } => {
            let written = crate::reservation::add(ctx, node, reservation).await?;
            tracing::info!(node = node.name_any(), job = reservation.name, attempt = reservation.attempt, "reserved");
            Ok(written)
        }
        Action::Launch { name, reservations, rung, .. } => {
            let view = &world.pools[rung.pool];
            let intent = intent(ctx, view, name, reservations, rung)?;
            let first = &reservations[0];
            let api = Api::<GpuNode>::all(ctx.client.clone());
            match within(api.create(&PostParams { field_manager: Some(MANAGER.into()), ..Default::default() }, &intent)).await {
                Ok(written) => {
                    let best = &rung.offers[0];
                    tracing::info!(node = name, job = first.name, jobs = reservations.len(), offer = best.label(), price = %best.price, offers = rung.offers.len(), "buying");
                    Ok(written)
                }
                // An answer that was lost, or another leader: the name says that it is the same intent; the UID says whose.
                Err(error) if error.is_conflict() => match within(api.get(name)).await {
                    Ok(there) if there.reservation_of(&first.job_uid).is_some() => Ok(there),
                    _ => Err(error.into()),
                },
                Err(error) => Err(error.into()),
            }
        }
    }
}

/// The whole intent: finalizer, reservation and rendered request in one write. The launch follows from it alone.
fn intent(ctx: &Arc<Ctx>, view: &PoolView, name: &str, reservations: &[Reservation], rung: &Rung) -> Result<GpuNode, ActError> {
    let pool = &view.pool;
    let scope = Scope { provider: pool.spec.provider().into(), region: pool.spec.region().into() };
    let Some(provider) = ctx.clouds.ready(&scope) else { return Err(ActError::NotConnected(scope)) };
    let first = reservations.first();
    let job = first.and_then(|r| ctx.stores.jobs.get(&kube::runtime::reflector::ObjectRef::new(&r.name).within(&r.namespace)));
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
            launched_for: reservations.to_vec(),
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
