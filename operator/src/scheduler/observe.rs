//! Everything that the scheduler's plan looks at, sorted and complete.

use super::demand::{Pending, Read, Wants, pending};
use super::room::Room;
use crate::capacity::{Blocked, Record};
use crate::context::Ctx;
use crate::pool::LAUNCHES_REFUSED;
use crate::watch::sorted;
use gpujob_crds::{GpuJob, GpuNode, GpuPool, conditions};
use gpujob_provider_core::{Offer, Prepared};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::ResourceExt;
use kube::core::{Selector, SelectorExt};
use kube::runtime::reflector::ObjectRef;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The scheduler's view.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    /// GpuJob is being drained: nobody gets anything.
    pub(super) draining: bool,
    /// By priority, then age, then UID.
    pub(super) pending: Vec<Pending>,
    /// The jobs of `pending`, in its order.
    pub(super) jobs: Vec<Arc<GpuJob>>,
    /// Jobs that ask for nothing now and whose status still says what they wait for.
    pub(super) silent: Vec<Arc<GpuJob>>,
    /// By name.
    pub(super) nodes: Vec<Arc<GpuNode>>,
    /// What the Nodes that have joined really offer, by the GpuNode's name.
    pub(super) offered: BTreeMap<String, Room>,
    /// GpuNodes whose Node somebody has cordoned: pods go there no more.
    pub(super) cordoned: BTreeSet<String>,
    /// GpuNodes that had their GPUs and show fewer now: since when this scheduler sees that.
    pub(super) short: BTreeMap<String, Timestamp>,
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
    pub(super) offers: Arc<Vec<Offer>>,
    /// What is remembered of each offer, in their order.
    pub(super) records: Vec<Record>,
    /// What Nodes of a type really offered, with the settings that the pool has now.
    pub(super) learned: BTreeMap<String, Room>,
    pub(super) blocked: Option<Blocked>,
}

/// What the scheduler remembers from one look to the next. All of it can be lost.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// GpuNodes that this scheduler has written and that the cache may not show yet.
    pub(super) own: BTreeMap<String, (Arc<GpuNode>, Timestamp)>,
    pub(super) read: Read,
    /// See [`World::short`]. Their condition has stayed True, so its own time is that of the boot.
    short: BTreeMap<String, Timestamp>,
    /// What Nodes really offered: by the pool's UID, the time since which its settings are what they are, and the type. After a
    /// restart the Nodes that are there teach it again.
    learned: BTreeMap<(String, Option<Timestamp>), BTreeMap<String, Room>>,
}

pub(super) fn observe(ctx: &Ctx, memory: &mut Memory, now: Timestamp) -> World {
    let mut nodes: BTreeMap<String, Arc<GpuNode>> = ctx.stores.nodes.state().into_iter().map(|n| (n.name_any(), n)).collect();
    for (name, (mine, _)) in &memory.own {
        if nodes.get(name).is_none_or(|cached| is_older(cached, mine)) {
            nodes.insert(name.clone(), mine.clone());
        }
    }
    let nodes: Vec<Arc<GpuNode>> = nodes.into_values().collect();
    let pools = sorted(&ctx.stores.pools);
    let joined = joined(ctx, &nodes);
    let offered = learn(&joined, &pools, &mut memory.learned);
    let is_cordoned = |node: &Node| node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
    let cordoned = joined.iter().filter(|(_, node)| is_cordoned(node)).map(|(known, _)| known.name_any()).collect();
    let since = |name: String| (memory.short.get(&name).copied().unwrap_or(now), name);
    memory.short = nodes.iter().filter(|n| is_short(n)).map(|n| since(n.name_any())).map(|(at, name)| (name, at)).collect();
    let held = held(&nodes);
    let (mut waiting, mut silent) = (Vec::<(Pending, Arc<GpuJob>)>::new(), vec![]);
    for job in ctx.stores.jobs.state() {
        match pending(&job, &mut memory.read, now) {
            Some(one) if held.get(one.uid.as_str()).is_some_and(|last| last.is_none_or(|attempt| attempt >= one.attempt)) => {}
            Some(one) => waiting.push((one, job)),
            None if job.status.as_ref().is_some_and(|s| s.waiting.is_some()) => silent.push(job),
            None => {}
        }
    }
    silent.sort_by_cached_key(|job| (job.namespace(), job.name_any()));
    waiting.sort_by(|(a, _), (b, _)| (-a.priority, a.created, &a.uid).cmp(&(-b.priority, b.created, &b.uid)));
    let (pending, jobs): (Vec<Pending>, Vec<Arc<GpuJob>>) = waiting.into_iter().unzip();
    memory.read.keep(&pending);
    let pools = pools.into_iter().map(|pool| view(ctx, pool, &memory.learned, now)).collect();
    let namespaces = ctx.stores.namespaces.state().iter().map(|n| (n.name_any(), n.labels().clone())).collect();
    World {
        draining: ctx.leader.is_draining(),
        pending,
        jobs,
        silent,
        nodes,
        offered,
        cordoned,
        short: memory.short.clone(),
        pools,
        namespaces,
    }
}

/// Whether its Node is Ready with fewer GPUs than it had: its device plugin is down, or just being restarted.
fn is_short(node: &GpuNode) -> bool {
    let known = node.status.as_ref().and_then(|s| conditions::find(&s.conditions, conditions::node::INITIALIZED));
    known.is_some_and(|c| c.reason == "NoGpu" && c.status == "True")
}

/// The jobs that hold a reservation, by UID: `None` for one that counts for every attempt. One on a GpuNode whose end has begun
/// counts for the attempts up to its own, and for none if no pod could be made there: the job gets another node at once, and not
/// when the old one's end is proved.
fn held(nodes: &[Arc<GpuNode>]) -> BTreeMap<&str, Option<i32>> {
    let mut held = BTreeMap::new();
    for node in nodes {
        let status = node.status.as_ref();
        let ending = node.metadata.deletion_timestamp.is_some() || status.is_some_and(|s| s.interrupted.is_some());
        let used = status.is_some_and(|s| s.node_name.is_some());
        for r in node.reservations() {
            let entry = held.entry(r.job_uid.as_str());
            if !ending {
                *entry.or_default() = None;
            } else if used {
                entry.and_modify(|last: &mut Option<i32>| *last = last.map(|l| l.max(r.attempt))).or_insert(Some(r.attempt));
            }
        }
    }
    held
}

/// The GpuNodes that have joined, each with its Node.
fn joined<'a>(ctx: &Ctx, nodes: &'a [Arc<GpuNode>]) -> Vec<(&'a GpuNode, Arc<Node>)> {
    let node = |known: &GpuNode| ctx.stores.k8s_nodes.get(&ObjectRef::new(known.status.as_ref()?.node_name.as_ref()?));
    nodes.iter().filter_map(|known| Some((known.as_ref(), node(known)?))).collect()
}

/// Notes what every Node that has joined offers, and returns it by GpuNode.
fn learn(
    joined: &[(&GpuNode, Arc<Node>)],
    pools: &[Arc<GpuPool>],
    learned: &mut BTreeMap<(String, Option<Timestamp>), BTreeMap<String, Room>>,
) -> BTreeMap<String, Room> {
    let current: BTreeSet<(String, Option<Timestamp>)> = pools.iter().map(|p| (p.uid().unwrap_or_default(), settled(p))).collect();
    learned.retain(|key, _| current.contains(key));
    let since: BTreeMap<&str, Option<Timestamp>> = current.iter().map(|(uid, since)| (uid.as_str(), *since)).collect();
    let mut offered = BTreeMap::new();
    for (node, there) in joined {
        let Some(room) = Room::offered(there) else { continue };
        offered.insert(node.name_any(), room);
        // Bought with the settings of now: another image or disk has another room.
        let created = node.metadata.creation_timestamp.as_ref().map(|t| t.0);
        let Some(since) = since.get(node.spec.pool_uid.as_str()).filter(|since| created >= **since) else { continue };
        if let Some(instance) = node.status.as_ref().and_then(|s| s.instance.as_ref()) {
            learned.entry((node.spec.pool_uid.clone(), *since)).or_default().insert(instance.instance_type.clone(), room);
        }
    }
    offered
}

/// Since when the pool's settings are what they are.
fn settled(pool: &GpuPool) -> Option<Timestamp> {
    pool.status.as_ref().and_then(|s| s.prepared_time.as_ref()).map(|t| t.0)
}

/// Whether `cached` is from before `mine`. Resource versions of one kind may be compared as numbers (Kubernetes 1.35 API
/// concepts); older servers happen to keep to it too.
pub(super) fn is_older(cached: &GpuNode, mine: &GpuNode) -> bool {
    let version = |n: &GpuNode| n.resource_version().and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    cached.metadata.uid == mine.metadata.uid && version(cached) < version(mine)
}

fn view(
    ctx: &Ctx,
    pool: Arc<GpuPool>,
    learned: &BTreeMap<(String, Option<Timestamp>), BTreeMap<String, Room>>,
    now: Timestamp,
) -> PoolView {
    let name = pool.name_any();
    let condition = pool.status.as_ref().and_then(|s| conditions::find(&s.conditions, conditions::pool::READY));
    let known = ctx.capacity.offers(&name).filter(|o| pool.metadata.uid.as_deref() == Some(&o.uid));
    let deleted = pool.metadata.deletion_timestamp.is_some();
    let offers = known.as_ref().map(|k| k.offers.clone()).unwrap_or_default();
    PoolView {
        // Launches that were refused are tried again when their time has come, whatever the status still says of them.
        ready: condition.is_some_and(|c| c.status == "True" || c.reason == LAUNCHES_REFUSED) && known.is_some() && !deleted,
        why_not: if deleted {
            "is being deleted".into()
        } else {
            condition.map_or_else(|| "is being checked".into(), |c| c.message.clone())
        },
        prepared: known.map(|k| k.prepared),
        records: ctx.capacity.records(&name, pool.spec.region(), &offers, now),
        offers,
        learned: learned.get(&(pool.uid().unwrap_or_default(), settled(&pool))).cloned().unwrap_or_default(),
        blocked: ctx.capacity.blocked(&name, now),
        pool,
    }
}

impl World {
    /// Whether this pool serves jobs that want this at all.
    pub(super) fn admits(&self, pool: &GpuPool, wants: &Wants) -> bool {
        let named = wants.pools.is_empty() || wants.pools.contains(&pool.name_any());
        let labels = self.namespaces.get(&wants.namespace);
        named && pool.spec.namespaces.as_ref().is_none_or(|selector| labels.is_some_and(|l| matches(selector, l)))
    }
}

impl PoolView {
    /// What an instance of this offer's type has for pods, empty.
    pub(super) fn room(&self, offer: &Offer) -> Room {
        self.learned.get(&offer.instance_type).copied().unwrap_or_else(|| Room::estimate(offer, self.pool.spec.disk_gib()))
    }
}

fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    Selector::try_from(selector.clone()).is_ok_and(|s| s.matches(labels))
}
