//! Everything that the scheduler's plan looks at, sorted and complete.

use super::demand::{Pending, pending};
use crate::capacity::{Believed, Blocked};
use crate::context::Ctx;
use crate::watch::sorted;
use gpujob_crds::{GpuJob, GpuNode, GpuPool, conditions};
use gpujob_provider_core::{Offer, Prepared};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The scheduler's view.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// By priority, then age, then UID.
    pub(super) pending: Vec<Pending>,
    /// Jobs that ask for nothing now and whose status still says what they wait for.
    pub(super) silent: Vec<Arc<GpuJob>>,
    pub(super) nodes: Vec<Arc<GpuNode>>,
    pub(super) pools: Vec<PoolView>,
    /// Labels of each namespace.
    pub(super) namespaces: BTreeMap<String, BTreeMap<String, String>>,
}

/// A pool and what it can sell.
#[derive(Clone, Debug)]
pub(super) struct PoolView {
    pub(super) pool: Arc<GpuPool>,
    pub(super) ready: bool,
    pub(super) why_not: String,
    pub(super) prepared: Option<Prepared>,
    pub(super) offers: Vec<(Offer, Option<Believed>)>,
    pub(super) blocked: Option<Blocked>,
}

/// `own` holds GpuNodes that this scheduler has written and that the cache may not show yet.
pub(super) fn observe(ctx: &Ctx, own: &BTreeMap<String, Arc<GpuNode>>, now: Timestamp) -> World {
    let mut nodes = sorted(&ctx.stores.nodes);
    for mine in own.values() {
        match nodes.iter_mut().find(|n| n.metadata.name == mine.metadata.name) {
            Some(cached) if is_older(cached, mine) => *cached = mine.clone(),
            Some(_) => {}
            None => nodes.push(mine.clone()),
        }
    }
    nodes.sort_by_key(|n| n.name_any());
    let (mut waiting, mut silent) = (Vec::<Pending>::new(), vec![]);
    for job in sorted(&ctx.stores.jobs) {
        match pending(&job, now) {
            Some(one) if nodes.iter().any(|n| n.reservation_of(&one.uid).is_some()) => {}
            Some(one) => waiting.push(one),
            None if job.status.as_ref().is_some_and(|s| s.waiting.is_some()) => silent.push(job),
            None => {}
        }
    }
    waiting.sort_by(|a, b| (-a.priority, a.created, &a.uid).cmp(&(-b.priority, b.created, &b.uid)));
    let pools = sorted(&ctx.stores.pools).into_iter().map(|pool| view(ctx, pool, now)).collect();
    let namespaces = ctx.stores.namespaces.state().iter().map(|n| (n.name_any(), n.labels().clone())).collect();
    World { pending: waiting, silent, nodes, pools, namespaces }
}

/// Whether `cached` is from before `mine`. Resource versions of one kind may be compared as numbers (Kubernetes 1.35 API
/// concepts); older servers happen to keep to it too.
pub(super) fn is_older(cached: &GpuNode, mine: &GpuNode) -> bool {
    let version = |n: &GpuNode| n.resource_version().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    cached.metadata.uid == mine.metadata.uid && version(cached) < version(mine)
}

fn view(ctx: &Ctx, pool: Arc<GpuPool>, now: Timestamp) -> PoolView {
    let status = pool.status.as_ref();
    let condition = status.and_then(|s| conditions::find(&s.conditions, conditions::pool::READY));
    let known = ctx.capacity.offers(&pool.name_any()).filter(|o| pool.metadata.uid.as_deref() == Some(&o.uid));
    let deleted = pool.metadata.deletion_timestamp.is_some();
    let region = pool.spec.region();
    PoolView {
        ready: condition.is_some_and(|c| c.status == "True") && known.is_some() && !deleted,
        why_not: if deleted {
            "is being deleted".into()
        } else {
            condition.map_or_else(|| "is being checked".into(), |c| c.message.clone())
        },
        prepared: known.as_ref().map(|k| k.prepared.clone()),
        offers: known
            .map(|k| k.offers.into_iter().map(|o| (o.clone(), ctx.capacity.refusal(region, &o, now))).collect())
            .unwrap_or_default(),
        blocked: ctx.capacity.blocked(&pool.name_any(), now),
        pool,
    }
}

impl World {
    /// Whether this pool serves this job at all.
    pub(super) fn admits(&self, pool: &GpuPool, job: &Pending) -> bool {
        let named = job.pools.is_empty() || job.pools.contains(&pool.name_any());
        let labels = self.namespaces.get(&job.namespace);
        named && pool.spec.namespaces.as_ref().is_none_or(|selector| labels.is_some_and(|l| matches(selector, l)))
    }
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}
