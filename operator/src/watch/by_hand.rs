//! Caches that a test fills.

use super::stores::{Indexes, Stores, keys_of_node, keys_of_pod, place};
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::reflector::{self, store::Writer};
use kube::runtime::watcher;
use std::sync::Arc;

/// Caches that a test fills.
pub(crate) struct ByHand {
    nodes: Writer<GpuNode>,
    pools: Writer<GpuPool>,
    pods: Writer<Pod>,
    indexes: Arc<Indexes>,
    _rest: (Writer<GpuJob>, Writer<Node>, Writer<Namespace>),
}

impl ByHand {
    pub(crate) fn node(&mut self, node: GpuNode) {
        self.indexes.nodes.set(place(&node), keys_of_node(&node));
        self.nodes.apply_watcher_event(&watcher::Event::Apply(node));
    }

    pub(crate) fn pod(&mut self, pod: Pod) {
        self.indexes.pods.set(place(&pod), keys_of_pod(&pod));
        self.pods.apply_watcher_event(&watcher::Event::Apply(pod));
    }

    pub(crate) fn pool(&mut self, pool: GpuPool) {
        self.pools.apply_watcher_event(&watcher::Event::Apply(pool));
    }
}

impl Stores {
    pub(crate) fn by_hand() -> (Self, ByHand) {
        let (jobs, job_writer) = reflector::store();
        let (nodes, node_writer) = reflector::store();
        let (pools, pool_writer) = reflector::store();
        let (pods, pod_writer) = reflector::store();
        let (k8s_nodes, k8s_writer) = reflector::store();
        let (namespaces, namespace_writer) = reflector::store();
        let indexes = Arc::new(Indexes::default());
        let rest = (job_writer, k8s_writer, namespace_writer);
        let by_hand = ByHand { nodes: node_writer, pools: pool_writer, pods: pod_writer, indexes: indexes.clone(), _rest: rest };
        (Stores { jobs, nodes, pools, pods, k8s_nodes, namespaces, departed: Arc::default(), indexes }, by_hand)
    }
}
