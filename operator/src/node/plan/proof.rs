//! What a Node says of itself, and whether it is the instance that it claims to be.

use crate::node::observe::NodeWorld;
use gpujob_crds::node::InstanceStatus;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

/// The one Node that is this instance: providerID, name and address all match, and nobody else claims it.
pub(super) fn proved(world: &NodeWorld, instance: &InstanceStatus) -> Option<String> {
    let [only] = world.claimants.as_slice() else { return None };
    let addresses = only.status.as_ref().and_then(|s| s.addresses.as_ref());
    let has = |kind: &str, value: &str| addresses.into_iter().flatten().any(|a| a.type_ == kind && a.address == value);
    let dns = instance.private_dns_name.as_deref()?;
    let named = only.name_any() == dns || has("InternalDNS", dns) || has("Hostname", dns);
    let same_id = only.spec.as_ref().and_then(|s| s.provider_id.as_ref()) == instance.provider_id.as_ref();
    (same_id && named && has("InternalIP", instance.private_ip.as_deref()?)).then(|| only.name_any())
}

pub(super) fn is_ready(node: &Node) -> bool {
    node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True")
}

pub(super) fn allocatable(node: &Node, resource: &str) -> i32 {
    node.status.as_ref().and_then(|s| s.allocatable.as_ref()).and_then(|a| a.get(resource)).and_then(|q| q.0.parse().ok()).unwrap_or(0)
}

/// Since when the kubelet has reported that it is Ready, if it does.
pub(super) fn ready_since(node: &Node) -> Option<jiff::Timestamp> {
    ready_for(node, |status| status == "True")
}

/// Since when it has reported that it is not, or nobody has heard of it.
pub(super) fn unready_since(node: &Node) -> Option<jiff::Timestamp> {
    ready_for(node, |status| status != "True")
}

fn ready_for(node: &Node, status: impl Fn(&str) -> bool) -> Option<jiff::Timestamp> {
    let mut conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.find(|c| c.type_ == "Ready" && status(&c.status)).and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0)
}
