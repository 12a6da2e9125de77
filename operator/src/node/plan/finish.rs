//! The end of a GpuNode.

use super::{ABSENCE, Action, DRAIN, Plan, later, note};
use crate::node::observe::NodeWorld;
use gpujob_crds::conditions::{self, Status, node as condition};
use gpujob_crds::names;
use gpujob_provider_core::{Instance, InstanceState};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

/// The end: drain, terminate, prove, clean, let go. Each step is looked at afresh.
pub(super) fn finish(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    let node = &world.node;
    let deleted = node.metadata.deletion_timestamp.as_ref().map_or(now, |t| t.0);
    if !node.finalizers().iter().any(|f| f == names::NODE_FINALIZER) {
        return;
    }
    let alive: Vec<&Instance> = world.instances.iter().filter(|i| i.state < InstanceState::Terminating).collect();
    let draining = !plan.status.assignments.as_ref().is_none_or(Vec::is_empty) && now < later(deleted, DRAIN);
    if draining && !alive.is_empty() {
        return plan.wake_at(later(deleted, DRAIN));
    }
    for instance in &alive {
        plan.actions.push(Action::Terminate(instance.id.clone()));
    }
    let refused = conditions::find(&plan.status.conditions, condition::LAUNCHED).is_some_and(|c| c.status == "False");
    let gone = match &plan.status.instance {
        Some(recorded) => match world.instances.iter().find(|i| i.id == recorded.id) {
            Some(shown) => shown.state == InstanceState::Terminated,
            None => {
                // Not listed: end it by id all the same, and believe in its absence only after complete listings.
                plan.actions.push(Action::Terminate(recorded.id.clone()));
                absent_long(world, deleted)
            }
        },
        None => refused || world.never_sent || (!world.launching && absent_long(world, deleted)),
    };
    if !gone || !alive.is_empty() {
        note(
            node,
            plan,
            now,
            condition::TERMINATED,
            Status::False,
            "Terminating",
            "waiting for the provider to say that the instance is gone",
        );
        return plan.wake_at(later(now, SignedDuration::from_secs(5)));
    }
    for kube_node in &world.claimants {
        if kube_node.metadata.deletion_timestamp.is_none() {
            plan.actions.push(Action::DeleteNode(kube_node.name_any()));
        }
    }
    plan.actions.push(Action::RemoveFinalizer);
}

/// Whether listings have been complete for long enough since then: what they do not show is not there.
pub(super) fn absent_long(world: &NodeWorld, since: Timestamp) -> bool {
    world.complete_since.is_some_and(|from| world.asked.is_some_and(|asked| asked >= later(from.max(since), ABSENCE)))
}
