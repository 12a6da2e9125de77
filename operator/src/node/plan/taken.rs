//! An instance that the cloud takes back, and one that never came.

use super::{Action, Plan, later};
use crate::node::observe::NodeWorld;
use gpujob_crds::conditions::{self, node as condition};
use jiff::SignedDuration;
use kube::ResourceExt;

/// Notice was given: nothing new lands there, what runs is ended by its job ([`crate::job`]), and what is empty is given back. The
/// cloud is not waited for: it may take minutes, and they are paid for.
pub(super) fn taken(world: &NodeWorld, plan: &mut Plan) {
    let kube_node = plan.status.node_name.as_ref().and_then(|name| world.claimants.iter().find(|n| n.name_any() == *name));
    if let Some(open) = kube_node.filter(|n| n.spec.as_ref().is_none_or(|s| s.unschedulable != Some(true))) {
        plan.actions.push(Action::Cordon(open.name_any()));
    }
    if plan.status.assignments.as_ref().is_none_or(Vec::is_empty) {
        plan.actions.push(Action::Reclaim("the cloud takes it back, and it is empty"));
    }
}

/// How far the API server's clock, which says when it was deleted, may be behind ours.
const CLOCKS: SignedDuration = SignedDuration::from_secs(5);

/// Whether an instance is being ended because it had its time and no Node came of it: then its console says why.
pub(in crate::node) fn never_joined(world: &NodeWorld) -> bool {
    let node = &world.node;
    let (Some(deleted), Some(status)) = (node.metadata.deletion_timestamp.as_ref(), node.status.as_ref()) else { return false };
    let launched = conditions::find(&status.conditions, condition::LAUNCHED).filter(|c| c.status == "True");
    let joined = status.node_name.is_some() || status.interrupted.is_some();
    let deadline = SignedDuration::from_secs(world.join_deadline) - CLOCKS;
    !joined && launched.is_some_and(|c| deleted.0 >= later(c.last_transition_time.0, deadline))
}
