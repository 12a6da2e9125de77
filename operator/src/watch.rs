//! One watch per kind, shared by all controllers: each feeds a cache, and announces which objects are worth a look.
//!
//! Caches hold what is needed and no more: a job's template is cut down to what scheduling reads (the pod is made from a
//! fresh GET), managed fields and last-applied copies are dropped.

use crate::queue::Queues;
use futures::{Stream, StreamExt};
use gpujob_crds::{GpuJob, GpuNode, GpuPool, names};
use k8s_openapi::api::core::v1::{Container, Namespace, Node, Pod};
use kube::runtime::reflector::{self, Store};
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
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let all = watcher::Config::default;
    let departed = Arc::new(Departed::default());
    let (q, gone_nodes) = (queues.clone(), departed.clone());
    let nodes = reflect(Api::<GpuNode>::all(client.clone()), all(), trim, shutdown, move |node, gone| {
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
    let (q, known) = (queues.clone(), nodes.clone());
    let jobs = reflect(Api::<GpuJob>::all(client.clone()), all(), trim_job, shutdown, move |job, gone| {
        if gone {
            // Its reservation, if one is left, has nobody else to say so.
            let uid = job.uid().unwrap_or_default();
            for node in sorted(&known).iter().filter(|n| n.reservation_of(&uid).is_some()) {
                let _ = q.nodes.send(node.name_any());
            }
        }
        let _ = q.jobs.send((job.namespace().unwrap_or_default(), job.name_any()));
        let _ = q.scheduler.send(());
    });
    let q = queues.clone();
    let pools = reflect(Api::<GpuPool>::all(client.clone()), all(), trim, shutdown, move |pool, _| {
        let _ = q.pools.send(pool.name_any());
        let _ = q.scheduler.send(());
    });
    let q = queues.clone();
    let pods = reflect(Api::<Pod>::all(client.clone()), ours, trim_pod, shutdown, move |pod, _| {
        if let Some(job) = pod.labels().get(names::JOB) {
            let _ = q.jobs.send((pod.namespace().unwrap_or_default(), job.clone()));
        }
    });
    // A Node may concern any GpuNode of its pool until it is proved whose it is: they are few, all of the pool look.
    let (q, known) = (queues.clone(), nodes.clone());
    let k8s_nodes = reflect(Api::<Node>::all(client.clone()), all(), trim_node, shutdown, move |node, _| {
        let (label, provider) = (node.labels().get(names::NODE_LABEL), node.spec.as_ref().and_then(|s| s.provider_id.as_deref()));
        for known in sorted(&known) {
            let instance = known.status.as_ref().and_then(|s| s.instance.as_ref());
            let same = provider.is_some() && instance.and_then(|i| i.provider_id.as_deref()) == provider;
            if same || label.is_some_and(|l| *l == known.name_any()) {
                let _ = q.nodes.send(known.name_any());
            }
        }
    });
    let q = queues.clone();
    let namespaces = reflect(Api::<Namespace>::all(client.clone()), all(), trim, shutdown, move |_, _| {
        let _ = q.scheduler.send(());
    });
    Stores { jobs, nodes, pools, pods, k8s_nodes, namespaces, departed }
}

fn reflect<K>(
    api: Api<K>,
    config: watcher::Config,
    trim: fn(&mut K),
    shutdown: &CancellationToken,
    announce: impl Fn(&K, bool) + Send + 'static,
) -> Store<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static,
{
    let (store, writer) = reflector::store();
    let events = watcher(api, config).backoff(Backoff::default()).modify(trim).reflect(writer);
    tokio::spawn(feed(events, shutdown.clone(), announce));
    store
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

async fn feed<K: kube::Resource>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    shutdown: CancellationToken,
    announce: impl Fn(&K, bool),
) {
    let mut events = Box::pin(events);
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.next() => match event {
                // Announced after the cache has it: `reflect` comes first in the stream.
                Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => announce(&object, false),
                Some(Ok(watcher::Event::Delete(object))) => announce(&object, true),
                Some(Ok(_)) => {}
                Some(Err(error)) => tracing::debug!(%error, "watch"),
                None => return,
            }
        }
    }
}

fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = object.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

fn trim_job(job: &mut GpuJob) {
    trim(job);
    let keep = |c: Container| Container { name: c.name, resources: c.resources, restart_policy: c.restart_policy, ..Default::default() };
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
