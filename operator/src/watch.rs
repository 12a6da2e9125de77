//! One watch per kind, shared by all controllers: each feeds a cache, and announces which objects are worth a look.
//!
//! Caches hold what is needed and no more: a job's template is cut down to what scheduling reads (the pod is made from a
//! fresh GET), managed fields and last-applied copies are dropped.

use crate::index::{Index, Place};
use crate::queue::Queues;
use futures::{Stream, StreamExt};
use gpujob_crds::{GpuJob, GpuNode, GpuPool, names};
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod};
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The caches.
#[derive(Clone)]
pub struct Stores {
    /// GpuJobs, templates cut down.
    pub jobs: Store<GpuJob>,
    /// GpuNodes.
    pub nodes: Store<GpuNode>,
    /// GpuPools.
    pub pools: Store<GpuPool>,
    /// Pods that we made.
    pub pods: Store<Pod>,
    /// Nodes.
    pub k8s_nodes: Store<Node>,
    /// Namespaces, for pools that admit some.
    pub namespaces: Store<Namespace>,
    /// GpuNodes that were seen to go.
    pub departed: Arc<Departed>,
    indexes: Arc<Indexes>,
}

/// Where to look in the caches.
#[derive(Debug, Default)]
struct Indexes {
    /// By the job's UID, and by its namespace and name.
    pods: Index,
    /// By the UIDs of the jobs that have a place there, and by provider id.
    nodes: Index,
    /// By provider id, and by the GpuNode's name in our label.
    k8s_nodes: Index,
    /// Of kinds that are looked up by name alone: always empty. One of its own, because a list that has been read again replaces all
    /// that its index holds.
    none: Index,
}

/// The UIDs of GpuNodes that went since this was last read. A cache says of an object that it does not hold only that: the
/// scheduler has to know whether what it wrote has not come yet, or has gone already.
#[derive(Debug, Default)]
pub struct Departed(Mutex<BTreeSet<String>>);

impl Departed {
    fn note(&self, uid: Option<String>) {
        self.0.lock().expect("no panic holds this lock").extend(uid);
    }

    /// Those that went since the last call.
    #[must_use]
    pub fn take(&self) -> BTreeSet<String> {
        std::mem::take(&mut *self.0.lock().expect("no panic holds this lock"))
    }
}

impl Stores {
    /// Pods of the job with this UID.
    #[must_use]
    pub fn pods_of(&self, job_uid: &str) -> Vec<Arc<Pod>> {
        found(&self.pods, &self.indexes.pods, job_uid)
    }

    /// Pods of any job of this name, of those that are gone too.
    #[must_use]
    pub fn pods_named(&self, namespace: &str, job: &str) -> Vec<Arc<Pod>> {
        found(&self.pods, &self.indexes.pods, &format!("{namespace}/{job}"))
    }

    /// GpuNodes on which the job with this UID has a place.
    #[must_use]
    pub fn nodes_of(&self, job_uid: &str) -> Vec<Arc<GpuNode>> {
        found(&self.nodes, &self.indexes.nodes, job_uid)
    }

    /// Nodes that claim to be this instance, or that carry our label with this GpuNode's name.
    #[must_use]
    pub fn claimants(&self, provider_id: Option<&str>, gpu_node: &str) -> Vec<Arc<Node>> {
        let mut all = found(&self.k8s_nodes, &self.indexes.k8s_nodes, &labelled(gpu_node));
        all.extend(provider_id.into_iter().flat_map(|id| found(&self.k8s_nodes, &self.indexes.k8s_nodes, id)));
        all.sort_by_key(|n| n.name_any());
        all.dedup_by_key(|n| n.name_any());
        all
    }

    /// Waits until every cache has been filled once.
    ///
    /// # Errors
    /// When a watch has ended.
    pub async fn ready(&self) -> anyhow::Result<()> {
        tokio::try_join!(
            self.jobs.wait_until_ready(),
            self.nodes.wait_until_ready(),
            self.pools.wait_until_ready(),
            self.pods.wait_until_ready(),
            self.k8s_nodes.wait_until_ready(),
            self.namespaces.wait_until_ready()
        )?;
        Ok(())
    }
}

/// Starts all watches. They end with `shutdown`.
#[must_use]
pub fn start(client: &kube::Client, queues: &Queues, shutdown: &CancellationToken) -> Stores {
    let client = &crate::stalled::limited(client);
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let all = watcher::Config::default;
    let indexes = Arc::new(Indexes::default());
    let departed = Arc::new(Departed::default());
    let (q, gone_nodes) = (queues.clone(), departed.clone());
    let nodes = Reflector { api: Api::<GpuNode>::all(client.clone()), config: all(), trim, keys: keys_of_node, index: |i| &i.nodes };
    let nodes = nodes.start(&indexes, shutdown, move |node, gone| {
        if gone {
            gone_nodes.note(node.uid());
        }
        let _ = q.nodes.send(node.name_any());
        let _ = q.pools.send(node.spec.pool.clone());
        for r in node.reservations().iter().chain(&node.spec.launched_for) {
            let _ = q.jobs.send((r.namespace.clone(), r.name.clone()));
        }
        let _ = q.scheduler.send(());
    });
    let (q, known, look) = (queues.clone(), nodes.clone(), indexes.clone());
    let jobs = Reflector { api: Api::<GpuJob>::all(client.clone()), config: all(), trim: trim_job, keys: no_keys, index: no_index };
    let jobs = jobs.start(&indexes, shutdown, move |job, gone| {
        if gone {
            // Its reservation, if one is left, has nobody else to say so.
            for node in found(&known, &look.nodes, &job.uid().unwrap_or_default()) {
                let _ = q.nodes.send(node.name_any());
            }
        }
        let _ = q.jobs.send((job.namespace().unwrap_or_default(), job.name_any()));
        let _ = q.scheduler.send(());
    });
    let q = queues.clone();
    let pools = Reflector { api: Api::<GpuPool>::all(client.clone()), config: all(), trim, keys: no_keys, index: no_index };
    let pools = pools.start(&indexes, shutdown, move |pool, _| {
        let _ = q.pools.send(pool.name_any());
        let _ = q.scheduler.send(());
    });
    let q = queues.clone();
    let pods = Reflector { api: Api::<Pod>::all(client.clone()), config: ours, trim: trim_pod, keys: keys_of_pod, index: |i| &i.pods };
    let pods = pods.start(&indexes, shutdown, move |pod, _| {
        if let Some(job) = pod.labels().get(names::JOB) {
            let _ = q.jobs.send((pod.namespace().unwrap_or_default(), job.clone()));
        }
    });
    // A Node may concern the GpuNode whose instance it claims to be, or whose name it carries, until it is proved whose it is.
    let (q, known, look) = (queues.clone(), nodes.clone(), indexes.clone());
    let k8s_nodes = Reflector {
        api: Api::<Node>::all(client.clone()),
        config: all(),
        trim: trim_node,
        keys: keys_of_kube_node,
        index: |i| &i.k8s_nodes,
    };
    let k8s_nodes = k8s_nodes.start(&indexes, shutdown, move |node, _| {
        if let Some(provider) = node.spec.as_ref().and_then(|s| s.provider_id.as_deref()) {
            for known in found(&known, &look.nodes, provider) {
                let _ = q.nodes.send(known.name_any());
            }
        }
        if let Some(label) = node.labels().get(names::NODE_LABEL) {
            let _ = q.nodes.send(label.clone());
        }
    });
    let q = queues.clone();
    let namespaces = Reflector { api: Api::<Namespace>::all(client.clone()), config: all(), trim, keys: no_keys, index: no_index };
    let namespaces = namespaces.start(&indexes, shutdown, move |_, _| {
        let _ = q.scheduler.send(());
    });
    Stores { jobs, nodes, pools, pods, k8s_nodes, namespaces, departed, indexes }
}

/// One kind's way from the API server to its cache and its index.
struct Reflector<K> {
    api: Api<K>,
    config: watcher::Config,
    trim: fn(&mut K),
    keys: fn(&K) -> Vec<String>,
    index: fn(&Indexes) -> &Index,
}

trait Kept: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static {}
impl<K> Kept for K where K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static {}

impl<K: Kept> Reflector<K> {
    fn start(self, indexes: &Arc<Indexes>, shutdown: &CancellationToken, announce: impl Fn(&K, bool) + Send + 'static) -> Store<K> {
        let (store, writer) = reflector::store();
        let events = watcher(self.api, self.config).backoff(Backoff::default()).modify(self.trim).reflect(writer);
        let (indexes, cache) = (indexes.clone(), store.clone());
        let note = move |event: &watcher::Event<K>| {
            let index = (self.index)(&indexes);
            match event {
                watcher::Event::Apply(object) => index.set(place(object), (self.keys)(object)),
                // Not in the cache before all of them are.
                watcher::Event::InitApply(object) => index.add(place(object), (self.keys)(object)),
                watcher::Event::Delete(object) => index.remove(&place(object)),
                watcher::Event::InitDone => index.replace(cache.state().iter().map(|object| (place(object.as_ref()), (self.keys)(object)))),
                watcher::Event::Init => {}
            }
        };
        tokio::spawn(feed(events, shutdown.clone(), note, announce));
        store
    }
}

/// Pauses between two tries of a watch: client-go's 0.8 s to 30 s, doubling, without its jitter. Two replicas are no crowd, and a
/// simulation must replay.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(800 << self.0.min(6)).min(Duration::from_secs(30));
        self.0 += 1;
        Some(pause)
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

async fn feed<K: kube::Resource<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    shutdown: CancellationToken,
    note: impl Fn(&watcher::Event<K>),
    announce: impl Fn(&K, bool),
) {
    let mut events = Box::pin(events);
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.next() => {
                // Announced after the cache has it, as `reflect` comes first in the stream, and after the index has.
                if let Some(Ok(event)) = &event {
                    note(event);
                    trouble.over(&K::kind(&()));
                }
                match event {
                    Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => announce(&object, false),
                    Some(Ok(watcher::Event::Delete(object))) => announce(&object, true),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => trouble.with(&K::kind(&()), &error.to_string()),
                    None => return,
                }
            }
        }
    }
}

/// Caches that a test fills.
#[cfg(test)]
pub(crate) struct ByHand {
    nodes: reflector::store::Writer<GpuNode>,
    pools: reflector::store::Writer<GpuPool>,
    indexes: Arc<Indexes>,
    _rest: (
        reflector::store::Writer<GpuJob>,
        reflector::store::Writer<Pod>,
        reflector::store::Writer<Node>,
        reflector::store::Writer<Namespace>,
    ),
}

#[cfg(test)]
impl ByHand {
    pub(crate) fn node(&mut self, node: GpuNode) {
        self.indexes.nodes.set(place(&node), keys_of_node(&node));
        self.nodes.apply_watcher_event(&watcher::Event::Apply(node));
    }

    pub(crate) fn pool(&mut self, pool: GpuPool) {
        self.pools.apply_watcher_event(&watcher::Event::Apply(pool));
    }
}

#[cfg(test)]
impl Stores {
    pub(crate) fn by_hand() -> (Self, ByHand) {
        let (jobs, job_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let (pools, pool_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (k8s_nodes, k8s_writer) = reflector::store();
        let (namespaces, namespace_writer) = reflector::store();
        let indexes = Arc::new(Indexes::default());
        let rest = (job_writer, pod_writer, k8s_writer, namespace_writer);
        let by_hand = ByHand { nodes: node_writer, pools: pool_writer, indexes: indexes.clone(), _rest: rest };
        (Stores { jobs, nodes, pools, pods, k8s_nodes, namespaces, departed: Arc::default(), indexes }, by_hand)
    }
}

/// What a watch last complained of: said when it changes and each minute, not with every try.
#[derive(Debug, Default)]
struct Trouble(Option<(String, tokio::time::Instant)>);

impl Trouble {
    fn with(&mut self, kind: &str, error: &str) {
        let now = tokio::time::Instant::now();
        if self.is_news(error, now) {
            tracing::warn!(kind, error, "watch: what is known may be old until it works again");
            self.0 = Some((error.to_owned(), now));
        }
    }

    fn is_news(&self, error: &str, now: tokio::time::Instant) -> bool {
        self.0.as_ref().is_none_or(|(said, at)| said != error || now.duration_since(*at) >= std::time::Duration::from_secs(60))
    }

    fn over(&mut self, kind: &str) {
        if self.0.take().is_some() {
            tracing::info!(kind, "watch: it works again");
        }
    }
}

fn place<K: kube::Resource>(object: &K) -> Place {
    let meta = object.meta();
    (meta.namespace.as_deref().map(Into::into), meta.name.as_deref().unwrap_or_default().into())
}

/// The objects of a cache that an index names under `key`, sorted by name.
fn found<K: kube::Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, index: &Index, key: &str) -> Vec<Arc<K>> {
    let at = |(namespace, name): Place| {
        let place = ObjectRef::<K>::new(&name);
        store.get(&match namespace {
            Some(namespace) => place.within(&namespace),
            None => place,
        })
    };
    index.find(key).into_iter().filter_map(at).collect()
}

fn no_keys<K>(_: &K) -> Vec<String> {
    vec![]
}

fn no_index(indexes: &Indexes) -> &Index {
    &indexes.none
}

fn keys_of_pod(pod: &Pod) -> Vec<String> {
    let name = pod.labels().get(names::JOB).map(|job| format!("{}/{job}", pod.namespace().unwrap_or_default()));
    pod.labels().get(names::JOB_UID).cloned().into_iter().chain(name).collect()
}

fn keys_of_node(node: &GpuNode) -> Vec<String> {
    let provider = node.status.as_ref().and_then(|s| s.instance.as_ref()).and_then(|i| i.provider_id.clone());
    node.reservations().iter().map(|r| r.job_uid.clone()).chain(provider).collect()
}

fn keys_of_kube_node(node: &Node) -> Vec<String> {
    let label = node.labels().get(names::NODE_LABEL).map(|name| labelled(name));
    node.spec.as_ref().and_then(|s| s.provider_id.clone()).into_iter().chain(label).collect()
}

/// The key of Nodes that carry our label: no provider id looks like this.
fn labelled(gpu_node: &str) -> String {
    format!("{}={gpu_node}", names::NODE_LABEL)
}

fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = object.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn trim_job(job: &mut GpuJob) {
    trim(job);
    // What runs on the GPUs: its image may be pulled while the instance still boots.
    let main = job.spec.gpu.container.clone();
    let main = main.or_else(|| job.spec.template.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.clone()));
    let keep = |c: Container| Container {
        image: c.image.filter(|_| main.as_ref() == Some(&c.name)),
        name: c.name,
        resources: c.resources,
        restart_policy: c.restart_policy,
        ..Default::default()
    };
    if let Some(spec) = job.spec.template.spec.take() {
        job.spec.template = Default::default();
        job.spec.template.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            containers: spec.containers.into_iter().map(keep).collect(),
            init_containers: spec.init_containers.map(|c| c.into_iter().map(keep).collect()),
            overhead: spec.overhead,
            ..Default::default()
        });
    }
}

fn trim_pod(pod: &mut Pod) {
    trim(pod);
    if let Some(spec) = pod.spec.as_mut() {
        spec.volumes = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            *container = Container { name: std::mem::take(&mut container.name), ..Default::default() };
        }
    }
}

fn trim_node(node: &mut Node) {
    trim(node);
    if let Some(status) = node.status.as_mut() {
        status.images = None;
    }
}

/// All objects of a cache in the order of their names: caches are hash maps, and a plan must not depend on chance.
#[must_use]
pub fn sorted<K>(store: &Store<K>) -> Vec<Arc<K>>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    let mut all = store.state();
    all.sort_by(|a, b| (&a.meta().namespace, &a.meta().name).cmp(&(&b.meta().namespace, &b.meta().name)));
    all
}

/// The image that runs on the GPUs of this job, as its cached template says.
#[must_use]
pub fn main_image(job: &GpuJob) -> Option<&str> {
    job.spec.template.spec.as_ref()?.containers.iter().find_map(|c| c.image.as_deref())
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
