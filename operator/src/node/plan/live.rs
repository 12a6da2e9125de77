//! An instance that was bought: does it join, have its GPUs, and have work?

use super::proof::{allocatable, is_ready, proved, ready_since, unready_since};
use super::{
    ABSENCE, Action, Failed, NEVER_JOINED, NO_GPU, NODE_GONE, NOT_READY_DEADLINE, Plan, SILENT, UNWANTED, later, note, transition,
};
use crate::node::observe::NodeWorld;
use gpujob_crds::conditions::{self, Status, node as condition};
use gpujob_crds::names;
use gpujob_crds::node::InstanceStatus;
use gpujob_provider_core::{Instance, InstanceState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

pub(super) fn live(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    let node = &world.node;
    let Some(instance) = plan.status.instance.clone() else { return };
    let shown = world.instances.iter().find(|i| i.id == instance.id);
    if let Some(failed) = shown.and_then(|i| failed(i, &instance, plan)) {
        // Before the request for its end: after that nobody looks at why it went.
        let said = format!("{} was made and ended by the provider before it joined: {}", instance.id, failed.said);
        note(node, plan, now, condition::LAUNCHED, Status::False, "CreatedButFailed", &said);
        plan.actions.push(Action::Blame(Box::new(failed)));
    } else {
        let what = format!("{} {} in {}", instance.id, instance.instance_type, instance.zone);
        note(node, plan, now, condition::LAUNCHED, Status::True, "Launched", &what);
    }
    let launched = transition(&plan.status, condition::LAUNCHED, now);

    // Gone under us: shown as ending, or long absent from complete listings.
    let dying = shown.is_some_and(|i| i.state >= InstanceState::Terminating);
    let absent = shown.is_none()
        && world.complete_since.is_some_and(|from| world.asked.is_some_and(|asked| asked >= later(from.max(launched), ABSENCE)));
    // A kubelet that still reports outranks a cloud API that forgot: absence alone needs a Node that is not Ready.
    if dying || (absent && !world.claimants.iter().any(|n| is_ready(n))) {
        return plan.actions.push(Action::Reclaim("the instance is gone"));
    }
    if plan.status.interrupted.is_some() {
        return super::taken::taken(world, plan);
    }

    if plan.status.node_name.is_none() {
        let join_by = later(launched, SignedDuration::from_secs(world.join_deadline));
        match proved(world, &instance) {
            Some(name) => {
                plan.actions.push(Action::Adopt(name.clone()));
                plan.status.node_name = Some(name);
            }
            None if now >= join_by => {
                note(node, plan, now, condition::REGISTERED, Status::False, "NeverJoined", NEVER_JOINED_HINT);
                return plan.actions.push(Action::Reclaim(NEVER_JOINED));
            }
            None => {
                let text = if world.claimants.len() > 1 {
                    "more than one Node claims this instance: none is accepted"
                } else {
                    "waiting for the Node to join"
                };
                note(node, plan, now, condition::REGISTERED, Status::Unknown, "NotJoined", text);
                plan.wake_at(join_by);
            }
        }
    }
    if let Some(name) = plan.status.node_name.clone() {
        joined(world, plan, now, &instance, &name);
    }
    idle(world, plan, now);
}

/// Whether the provider ended it by itself, before it was a Node and without having announced that it takes it back.
fn failed(shown: &Instance, recorded: &InstanceStatus, plan: &Plan) -> Option<Failed> {
    let class = shown.failed.clone().filter(|_| shown.state >= InstanceState::Terminating)?;
    let useless = plan.status.node_name.is_none() && plan.status.interrupted.is_none();
    let said = shown.state_reason.clone().unwrap_or_default();
    useless.then(|| Failed { instance: recorded.clone(), class, said })
}

/// What to look at when an instance has not become a Node.
const NEVER_JOINED_HINT: &str = "it did not join the cluster in time: look at its role's access to the cluster, at the pool's endpoint, \
     certificate and cidr, at its subnet's route, and at the last lines of its console in its events";

/// The Node of the instance is known: is it there, and of use?
fn joined(world: &NodeWorld, plan: &mut Plan, now: Timestamp, instance: &InstanceStatus, name: &str) {
    let node = &world.node;
    let Some(kube_node) = world.claimants.iter().find(|n| n.name_any() == *name) else {
        // Of its own, so that its transition says since when: a Node may be deleted while its GPUs were still waited for.
        note(node, plan, now, condition::REGISTERED, Status::Unknown, "NodeMissing", "the Node object is not there");
        note(node, plan, now, condition::INITIALIZED, Status::Unknown, "NodeMissing", "the Node object is not there");
        let since = transition(&plan.status, condition::REGISTERED, now);
        return borne(plan, now, since, NODE_GONE, "its Node was deleted");
    };
    note(node, plan, now, condition::REGISTERED, Status::True, "Joined", &format!("Node {name} is {}", instance.id));
    if !kube_node.labels().contains_key(names::NODE_LABEL) {
        // Recorded, but the label write was lost.
        plan.actions.push(Action::Adopt(name.to_owned()));
    }
    let gpus = allocatable(kube_node, &node.spec.resource_name);
    if !is_ready(kube_node) {
        note(node, plan, now, condition::INITIALIZED, Status::Unknown, "NodeNotReady", "waiting for the kubelet to be Ready");
        // A kubelet that was Ready before its GPUs came and then fell silent has the same time as any other.
        let since = transition(&plan.status, condition::REGISTERED, now).max(transition(&plan.status, condition::INITIALIZED, now));
        borne(plan, now, unready_since(kube_node).map_or(since, |at| at.max(since)), NOT_READY_DEADLINE, SILENT);
    } else if gpus < instance.gpus {
        // A kubelet that comes back has its plugins register again: the deadline runs from its latest start.
        let registered = transition(&plan.status, condition::REGISTERED, now);
        let registered = ready_since(kube_node).map_or(registered, |ready| registered.max(ready));
        let gpus_by = later(registered, SignedDuration::from_secs(world.gpu_deadline));
        let was = conditions::is_true(&plan.status.conditions, condition::INITIALIZED);
        note(
            node,
            plan,
            now,
            condition::INITIALIZED,
            if was { Status::True } else { Status::Unknown },
            "NoGpu",
            &format!(
                "the Node is Ready with {gpus} of {} GPUs: its device plugin has not answered yet. Does the cluster run NVIDIA's, and does it tolerate the node's taints?",
                instance.gpus
            ),
        );
        if !was && now >= gpus_by {
            plan.actions.push(Action::Reclaim(NO_GPU));
        } else if !was {
            plan.wake_at(gpus_by);
        }
    } else {
        note(node, plan, now, condition::INITIALIZED, Status::True, "Initialized", &format!("Ready with {gpus} GPUs"));
    }
}

/// A Node that was accepted and does not work costs money all the same: borne for a while, then given back.
fn borne(plan: &mut Plan, now: Timestamp, since: Timestamp, limit: SignedDuration, why: &'static str) {
    let end = later(since, limit);
    if now >= end {
        plan.actions.push(Action::Reclaim(why));
    } else {
        plan.wake_at(end);
    }
}

/// The idle window: no reservation since a recorded time, and never before the node was usable.
pub(super) fn idle(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    if !plan.status.assignments.as_ref().is_none_or(Vec::is_empty) {
        plan.status.idle_since = None;
        return;
    }
    let since = plan.status.idle_since.get_or_insert(Time(now)).0;
    if !conditions::is_true(&plan.status.conditions, condition::INITIALIZED) {
        // What it was bought for is not wanted any more, and nothing was pulled or cached yet that would make it worth keeping. Jobs
        // that wait are given it within a second, so after a moment nobody needs it.
        let end = later(since, UNWANTED.min(SignedDuration::from_secs(world.idle_after)));
        return if now >= end { plan.actions.push(Action::Reclaim("nobody needs it any more")) } else { plan.wake_at(end) };
    }
    let ready = transition(&plan.status, condition::INITIALIZED, now);
    let end = later(since.max(ready), SignedDuration::from_secs(world.idle_after));
    if now >= end {
        plan.actions.push(Action::Reclaim("it was empty for the idle window"));
    } else {
        plan.wake_at(end);
    }
}
