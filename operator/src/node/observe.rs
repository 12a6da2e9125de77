//! Everything that the plan of one GpuNode looks at.

use super::send::Launches;
use crate::context::Ctx;
use gpujob_crds::GpuNode;
use gpujob_crds::node::InstanceStatus;
use gpujob_crds::pool::GpuPoolSpec;
use gpujob_provider_core::{Instance, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// One GpuNode and what concerns it.
#[derive(Clone, Debug)]
pub(super) struct NodeWorld {
    pub(super) node: Arc<GpuNode>,
    /// Seconds of the pool's idle window. Zero when the pool is gone or going: nothing will come.
    pub(super) idle_after: i64,
    /// Seconds that the pool gives an instance to join, and a Ready Node to have its GPUs.
    pub(super) join_deadline: i64,
    pub(super) gpu_deadline: i64,
    /// GpuJob is being drained: every instance is given back, whatever it does.
    pub(super) draining: bool,
    /// Instances that carry this GpuNode's UID, by id.
    pub(super) instances: Vec<Instance>,
    /// Since when every listing was complete, and when the last one was asked for.
    pub(super) complete_since: Option<Timestamp>,
    pub(super) asked: Option<Timestamp>,
    /// Nodes that claim the instance's providerID, or carry our label.
    pub(super) claimants: Vec<Arc<Node>>,
    /// Reservations whose job is not in the cache (any more), by UID.
    pub(super) absent_jobs: Vec<String>,
    /// What the last send of the launch came to, when it was no success.
    pub(super) launch: Option<LaunchAnswer>,
    /// What this process's launch of this intent has brought.
    pub(super) brought: Option<InstanceStatus>,
    /// A launch of this intent is on the wire.
    pub(super) launching: bool,
    /// None was ever sent.
    pub(super) never_sent: bool,
}

/// The answer to the last send of a launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaunchAnswer {
    pub(super) class: gpujob_provider_core::ErrorClass,
    pub(super) message: String,
    /// The provider has decided, and nothing can exist: no earlier send of the same request may have been obeyed unseen.
    pub(super) definite: bool,
    /// Not sent again before.
    pub(super) retry_at: Timestamp,
}

pub(super) fn scope(node: &GpuNode) -> Scope {
    Scope { provider: node.spec.provider.clone(), region: node.spec.region.clone() }
}

pub(super) fn observe(ctx: &Ctx, node: Arc<GpuNode>, launches: &Launches, now: Timestamp) -> NodeWorld {
    let (launch, launching) = launches.known(&node, now);
    let seen = ctx.cloud_view.seen(&scope(&node));
    let mut instances: Vec<Instance> = seen.iter().flat_map(|s| s.of(node.metadata.uid.as_deref().unwrap_or_default())).cloned().collect();
    instances.sort_by(|a, b| a.id.cmp(&b.id));
    let provider_id = node.status.as_ref().and_then(|s| s.instance.as_ref()).and_then(|i| i.provider_id.as_deref());
    let claimants = ctx.stores.claimants(provider_id, node.metadata.name.as_deref().unwrap_or_default());
    let absent_jobs = node
        .reservations()
        .iter()
        .filter(|r| {
            let job = ctx.stores.jobs.get(&ObjectRef::new(&r.name).within(&r.namespace));
            job.is_none_or(|j| j.metadata.uid.as_deref() != Some(&r.job_uid))
        })
        .map(|r| r.job_uid.clone())
        .collect();
    let pool = ctx.stores.pools.state().into_iter().find(|p| p.metadata.uid.as_deref() == Some(&node.spec.pool_uid));
    NodeWorld {
        join_deadline: pool.as_ref().map_or_else(|| GpuPoolSpec::default().join_deadline(), |p| p.spec.join_deadline()),
        gpu_deadline: pool.as_ref().map_or_else(|| GpuPoolSpec::default().gpu_deadline(), |p| p.spec.gpu_deadline()),
        // A pool that goes waits for no more work either.
        idle_after: pool.filter(|p| p.metadata.deletion_timestamp.is_none()).map_or(0, |p| p.spec.idle_after()),
        draining: ctx.leader.is_draining(),
        instances,
        complete_since: seen.as_ref().and_then(|s| s.complete_since),
        asked: seen.as_ref().map(|s| s.asked),
        claimants,
        absent_jobs,
        brought: launches.brought(&node),
        never_sent: launches.never_sent(&node),
        launch,
        launching,
        node,
    }
}
