//! What to do about one GpuNode. Pure: the same world and time give the same plan, and any prefix of it is safe.

use super::observe::{LaunchAnswer, NodeWorld};
use gpujob_crds::conditions::{self, Status, node as condition, want};
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::{GpuNode, Price, names};
use gpujob_provider_core::{ErrorClass, Instance, InstanceState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

/// How long an instance may take to join.
pub(super) const JOIN_DEADLINE: SignedDuration = SignedDuration::from_mins(15);
/// How long a Node may be without its GPUs.
pub(super) const GPU_DEADLINE: SignedDuration = SignedDuration::from_mins(5);
/// How long complete listings must show nothing before nothing is believed to exist: EC2's lag, see AWS "eventual consistency".
pub(super) const ABSENCE: SignedDuration = SignedDuration::from_mins(5);
/// How long pods of a dying GpuNode may take to stop.
pub(super) const DRAIN: SignedDuration = SignedDuration::from_secs(120);
/// How long an unresolved launch is replayed; after that it is only looked for.
pub(super) const REPLAY: SignedDuration = SignedDuration::from_hours(1);

/// One write or call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the recorded request.
    Launch,
    /// Find out whether the job of this reservation exists, and drop the reservation if not.
    VerifyReservation(String),
    /// Label this Node as ours and lift the registration taint.
    Adopt(String),
    /// Give the instance back: DELETE of this very version of the GpuNode.
    Reclaim(&'static str),
    /// End this instance.
    Terminate(String),
    /// Delete this Node object.
    DeleteNode(String),
    /// Nothing is left.
    RemoveFinalizer,
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) status: GpuNodeStatus,
    pub(super) actions: Vec<Action>,
    /// The earliest time at which the answer may change by itself.
    pub(super) wake: Option<Timestamp>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
    }
}

fn later(t: Timestamp, by: SignedDuration) -> Timestamp {
    t.saturating_add(by).unwrap_or(Timestamp::MAX)
}

/// The plan for one GpuNode.
pub(super) fn plan(world: &NodeWorld, now: Timestamp) -> Plan {
    let node = &world.node;
    let mut plan = Plan { status: node.status.clone().unwrap_or_default(), actions: vec![], wake: None };
    if node.status.as_ref().is_none_or(|s| s.assignments.is_none()) {
        // From the first write on the status is the truth; see GpuNode::reservations.
        plan.status.assignments = Some(node.spec.launched_for.clone());
    }
    adopt_instance(world, &mut plan);
    if node.metadata.deletion_timestamp.is_some() {
        finish(world, &mut plan, now);
        set_ready(node, &mut plan, now, Some("Terminating"));
        return plan;
    }
    for uid in &world.absent_jobs {
        plan.actions.push(Action::VerifyReservation(uid.clone()));
    }
    if plan.status.instance.is_some() {
        live(world, &mut plan, now);
    } else {
        launch(world, &mut plan, now);
    }
    set_ready(node, &mut plan, now, None);
    plan
}

/// Takes over what the cloud shows for this intent: after a crash between the launch and its record this finds the instance.
fn adopt_instance(world: &NodeWorld, plan: &mut Plan) {
    let spec = &world.node.spec;
    let ordinal = spec.launch.ordinal.to_string();
    let found = match &plan.status.instance {
        Some(recorded) => world.instances.iter().find(|i| i.id == recorded.id),
        None => world.instances.iter().find(|i| i.state < InstanceState::Terminating && i.tags.get(names::LAUNCH_TAG) == Some(&ordinal)),
    };
    if let Some(found) = found {
        let known = plan.status.instance.take();
        plan.status.instance = Some(record(world, found, known));
    }
}

fn record(world: &NodeWorld, found: &Instance, known: Option<InstanceStatus>) -> InstanceStatus {
    let offer = world.node.spec.launch.offers.iter().find(|o| o.instance_type == found.instance_type && o.zone == found.zone);
    InstanceStatus {
        id: found.id.clone(),
        instance_type: found.instance_type.clone(),
        zone: found.zone.clone(),
        market: found.market,
        price_per_hour: known.as_ref().map_or_else(|| offer.map_or(Price::ZERO, |o| o.price_per_hour), |k| k.price_per_hour),
        gpus: known.as_ref().map_or_else(|| offer.map_or(world.node.spec.gpus, |o| o.gpus), |k| k.gpus),
        // A dead instance loses its name and address; what it had stays on record.
        private_dns_name: found.private_dns_name.clone().or_else(|| known.as_ref().and_then(|k| k.private_dns_name.clone())),
        private_ip: found.private_ip.clone().or_else(|| known.as_ref().and_then(|k| k.private_ip.clone())),
        provider_id: Some(found.provider_id.clone()),
        launch_time: found.launch_time.map(Time).or_else(|| known.and_then(|k| k.launch_time)),
    }
}

fn launch(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    let node = &world.node;
    let created = node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    if world.launching {
        return;
    }
    match &world.launch {
        None if now <= later(created, REPLAY) => {
            note(node, plan, now, condition::LAUNCHED, Status::Unknown, "Launching", "the request is on its way to the provider");
            plan.actions.push(Action::Launch);
        }
        None => gone_or_wait(world, plan, now, created),
        Some(LaunchAnswer { class, message, .. })
            if !class.may_have_happened() && !matches!(class, ErrorClass::Throttled | ErrorClass::NotFound) =>
        {
            note(node, plan, now, condition::LAUNCHED, Status::False, class.reason(), message);
            plan.actions.push(Action::Reclaim("the provider refused the launch"));
        }
        Some(LaunchAnswer { class, message, retry_at }) => {
            note(node, plan, now, condition::LAUNCHED, Status::Unknown, class.reason(), message);
            if matches!(class, ErrorClass::Mismatch) || now > later(created, REPLAY) {
                gone_or_wait(world, plan, now, created);
            } else if now >= *retry_at {
                plan.actions.push(Action::Launch);
            } else {
                plan.wake_at(*retry_at);
            }
        }
    }
}

/// For an intent that is only looked for: given up when complete listings have shown nothing for long enough.
fn gone_or_wait(world: &NodeWorld, plan: &mut Plan, now: Timestamp, since: Timestamp) {
    let shown = |asked: Timestamp| world.complete_since.is_some_and(|from| asked >= later(from.max(since), ABSENCE));
    if world.instances.is_empty() && world.asked.is_some_and(shown) {
        plan.actions.push(Action::Reclaim("the launch was never answered and complete listings show no instance"));
    } else {
        plan.wake_at(later(now, SignedDuration::from_secs(15)));
    }
}

fn live(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    let node = &world.node;
    let Some(instance) = plan.status.instance.clone() else { return };
    note(
        node,
        plan,
        now,
        condition::LAUNCHED,
        Status::True,
        "Launched",
        &format!("{} {} in {}", instance.id, instance.instance_type, instance.zone),
    );
    let launched = transition(&plan.status, condition::LAUNCHED, now);

    // Gone under us: shown as ending, or long absent from complete listings.
    let shown = world.instances.iter().find(|i| i.id == instance.id);
    let dying = shown.is_some_and(|i| i.state >= InstanceState::Terminating);
    let absent = shown.is_none()
        && world.complete_since.is_some_and(|from| world.asked.is_some_and(|asked| asked >= later(from.max(launched), ABSENCE)));
    // A kubelet that still reports outranks a cloud API that forgot: absence alone needs a Node that is not Ready.
    if dying || (absent && !world.claimants.iter().any(|n| is_ready(n))) {
        return plan.actions.push(Action::Reclaim("the instance is gone"));
    }

    if plan.status.node_name.is_none() {
        match proved(world, &instance) {
            Some(name) => {
                plan.actions.push(Action::Adopt(name.clone()));
                plan.status.node_name = Some(name);
            }
            None if now >= later(launched, JOIN_DEADLINE) => return plan.actions.push(Action::Reclaim("it did not join in 15 minutes")),
            None => {
                let text = if world.claimants.len() > 1 {
                    "more than one Node claims this instance: none is accepted"
                } else {
                    "waiting for the Node to join"
                };
                note(node, plan, now, condition::REGISTERED, Status::Unknown, "NotJoined", text);
                plan.wake_at(later(launched, JOIN_DEADLINE));
            }
        }
    }
    if let Some(name) = plan.status.node_name.clone() {
        note(node, plan, now, condition::REGISTERED, Status::True, "Joined", &format!("Node {name} is {}", instance.id));
        initialized(world, plan, now, &instance, &name);
    }
    idle(world, plan, now);
}

fn initialized(world: &NodeWorld, plan: &mut Plan, now: Timestamp, instance: &InstanceStatus, name: &str) {
    let node = &world.node;
    let Some(kube_node) = world.claimants.iter().find(|n| n.name_any() == *name) else {
        return note(node, plan, now, condition::INITIALIZED, Status::Unknown, "NodeMissing", "the Node object is not there");
    };
    if !kube_node.labels().contains_key(names::NODE_LABEL) {
        // Recorded, but the label write was lost.
        plan.actions.push(Action::Adopt(name.to_owned()));
    }
    let gpus = allocatable(kube_node, &node.spec.resource_name);
    if !is_ready(kube_node) {
        note(node, plan, now, condition::INITIALIZED, Status::Unknown, "NodeNotReady", "waiting for the kubelet to be Ready");
    } else if gpus < instance.gpus {
        let registered = transition(&plan.status, condition::REGISTERED, now);
        let was = conditions::is_true(&plan.status.conditions, condition::INITIALIZED);
        note(
            node,
            plan,
            now,
            condition::INITIALIZED,
            if was { Status::True } else { Status::Unknown },
            "NoGpu",
            &format!("the Node is Ready with {gpus} of {} GPUs: its device plugin has not answered yet", instance.gpus),
        );
        if !was && now >= later(registered, GPU_DEADLINE) {
            plan.actions.push(Action::Reclaim("its GPUs did not appear in 5 minutes"));
        } else if !was {
            plan.wake_at(later(registered, GPU_DEADLINE));
        }
    } else {
        note(node, plan, now, condition::INITIALIZED, Status::True, "Initialized", &format!("Ready with {gpus} GPUs"));
    }
}

/// The idle window: no reservation since a recorded time, and never before the node was usable.
fn idle(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    if !plan.status.assignments.as_ref().is_none_or(Vec::is_empty) {
        plan.status.idle_since = None;
        return;
    }
    let since = plan.status.idle_since.get_or_insert(Time(now)).0;
    if !conditions::is_true(&plan.status.conditions, condition::INITIALIZED) {
        return; // the window does not run while it boots; the deadlines above do
    }
    let ready = transition(&plan.status, condition::INITIALIZED, now);
    let end = later(since.max(ready), SignedDuration::from_secs(world.idle_after));
    if now >= end {
        plan.actions.push(Action::Reclaim("it was empty for the idle window"));
    } else {
        plan.wake_at(end);
    }
}

/// The end: drain, terminate, prove, clean, let go. Each step is looked at afresh.
fn finish(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
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
        None => refused || (!world.launching && absent_long(world, deleted)),
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

fn absent_long(world: &NodeWorld, since: Timestamp) -> bool {
    world.complete_since.is_some_and(|from| world.asked.is_some_and(|asked| asked >= later(from.max(since), ABSENCE)))
}

/// The one Node that is this instance: providerID, name and address all match, and nobody else claims it.
fn proved(world: &NodeWorld, instance: &InstanceStatus) -> Option<String> {
    let [only] = world.claimants.as_slice() else { return None };
    let addresses = only.status.as_ref().and_then(|s| s.addresses.as_ref());
    let has = |kind: &str, value: &str| addresses.into_iter().flatten().any(|a| a.type_ == kind && a.address == value);
    let dns = instance.private_dns_name.as_deref()?;
    let named = only.name_any() == dns || has("InternalDNS", dns) || has("Hostname", dns);
    let same_id = only.spec.as_ref().and_then(|s| s.provider_id.as_ref()) == instance.provider_id.as_ref();
    (same_id && named && has("InternalIP", instance.private_ip.as_deref()?)).then(|| only.name_any())
}

fn is_ready(node: &Node) -> bool {
    node.status.iter().flat_map(|s| s.conditions.iter().flatten()).any(|c| c.type_ == "Ready" && c.status == "True")
}

fn allocatable(node: &Node, resource: &str) -> i32 {
    node.status.as_ref().and_then(|s| s.allocatable.as_ref()).and_then(|a| a.get(resource)).and_then(|q| q.0.parse().ok()).unwrap_or(0)
}

fn transition(status: &GpuNodeStatus, type_: &str, now: Timestamp) -> Timestamp {
    conditions::find(&status.conditions, type_).map_or(now, |c| c.last_transition_time.0)
}

fn note(node: &GpuNode, plan: &mut Plan, now: Timestamp, type_: &'static str, status: Status, reason: &str, message: &str) {
    conditions::set(&mut plan.status.conditions, &want(type_, status, reason, message), node.metadata.generation.unwrap_or(1), now);
}

fn set_ready(node: &GpuNode, plan: &mut Plan, now: Timestamp, ending: Option<&str>) {
    let steps = [condition::LAUNCHED, condition::REGISTERED, condition::INITIALIZED];
    let (status, reason, message) = match ending {
        Some(reason) => (Status::False, reason.to_owned(), "the instance is being given back".to_owned()),
        None => match steps.iter().find(|s| !conditions::is_true(&plan.status.conditions, s)) {
            None => (Status::True, "Ready".to_owned(), "pods may run here".to_owned()),
            Some(step) => {
                let why = conditions::find(&plan.status.conditions, step);
                (
                    Status::False,
                    why.map_or_else(|| format!("Not{step}"), |c| c.reason.clone()),
                    why.map_or_else(String::new, |c| c.message.clone()),
                )
            }
        },
    };
    note(node, plan, now, condition::READY, status, &reason, &message);
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
