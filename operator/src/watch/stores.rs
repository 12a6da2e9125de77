//! The caches, and how what is in them is found.

use crate::index::{Index, Place};
use gpujob_crds::{GpuJob, GpuNode, GpuPool, names};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::ResourceExt;
use kube::runtime::reflector::{ObjectRef, Store};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

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
    pub(super) indexes: Arc<Indexes>,
}

/// Where to look in the caches.
#[derive(Debug, Default)]
pub(super) struct Indexes {
    /// By the job's UID, and by its namespace and name.
    pub(super) pods: Index,
    /// By the UIDs of the jobs that have a place there, and by provider id.
    pub(super) nodes: Index,
    /// By provider id, and by the GpuNode's name in our label.
    pub(super) k8s_nodes: Index,
    /// Of kinds that are looked up by name alone: always empty. One of its own, because a list that has been read again replaces all
    /// that its index holds.
    pub(super) none: Index,
}

/// The UIDs of GpuNodes that went since this was last read. A cache says of an object that it does not hold only that: the
/// scheduler has to know whether what it wrote has not come yet, or has gone already.
#[derive(Debug, Default)]
pub struct Departed(Mutex<BTreeSet<String>>);

impl Departed {
    pub(super) fn note(&self, uid: Option<String>) {
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

pub(super) fn place<K: kube::Resource>(object: &K) -> Place {
    let meta = object.meta();
    (meta.namespace.as_deref().map(Into::into), meta.name.as_deref().unwrap_or_default().into())
}

/// The objects of a cache that an index names under `key`, sorted by name.
pub(super) fn found<K: kube::Resource<DynamicType = ()> + Clone + 'static>(store: &Store<K>, index: &Index, key: &str) -> Vec<Arc<K>> {
    let at = |(namespace, name): Place| {
        let place = ObjectRef::<K>::new(&name);
        store.get(&match namespace {
            Some(namespace) => place.within(&namespace),
            None => place,
        })
    };
    index.find(key).into_iter().filter_map(at).collect()
}

pub(super) fn no_keys<K>(_: &K) -> Vec<String> {
    vec![]
}

pub(super) fn no_index(indexes: &Indexes) -> &Index {
    &indexes.none
}

pub(super) fn keys_of_pod(pod: &Pod) -> Vec<String> {
    let name = pod.labels().get(names::JOB).map(|job| format!("{}/{job}", pod.namespace().unwrap_or_default()));
    pod.labels().get(names::JOB_UID).cloned().into_iter().chain(name).collect()
}

pub(super) fn keys_of_node(node: &GpuNode) -> Vec<String> {
    let provider = node.status.as_ref().and_then(|s| s.instance.as_ref()).and_then(|i| i.provider_id.clone());
    node.reservations().iter().map(|r| r.job_uid.clone()).chain(provider).collect()
}

pub(super) fn keys_of_kube_node(node: &Node) -> Vec<String> {
    let label = node.labels().get(names::NODE_LABEL).map(|name| labelled(name));
    node.spec.as_ref().and_then(|s| s.provider_id.clone()).into_iter().chain(label).collect()
}

/// The key of Nodes that carry our label: no provider id looks like this.
pub(super) fn labelled(gpu_node: &str) -> String {
    format!("{}={gpu_node}", names::NODE_LABEL)
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
