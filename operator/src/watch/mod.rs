//! One watch per kind, shared by all controllers: each feeds a cache, and announces which objects are worth a look.
//!
//! Caches hold what is needed and no more: a job's template is cut down to what scheduling reads (the pod is made from a
//! fresh GET), managed fields and last-applied copies are dropped.

mod feed;
mod stores;
mod trim;

#[cfg(test)]
mod by_hand;
#[cfg(test)]
mod tests;

#[cfg(test)]
pub(crate) use by_hand::ByHand;
pub use stores::{Departed, Stores, sorted};
pub use trim::main_image;

use crate::queue::Queues;
use feed::Reflector;
use gpujob_crds::{GpuJob, GpuNode, GpuPool, names};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::watcher;
use kube::{Api, ResourceExt};
use std::sync::Arc;
use stores::{Indexes, found, keys_of_kube_node, keys_of_node, keys_of_pod, no_index, no_keys};
use tokio_util::sync::CancellationToken;
use trim::{trim, trim_job, trim_node, trim_pod};

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
