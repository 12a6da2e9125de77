//! What to do about one GpuNode. Pure: the same world and time give the same plan, and any prefix of it is safe.

mod finish;
mod launch;
mod live;
mod proof;
mod taken;

pub(in crate::node) use taken::never_joined;

use super::observe::NodeWorld;
use gpujob_crds::conditions::{self, Status, node as condition, want};
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::{GpuNode, names};
use gpujob_provider_core::{ErrorClass, Instance, InstanceState};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Why an instance is given back that did not become what was bought. Counted by [`crate::metrics::Metrics::gave_up`].
pub(in crate::node) const NEVER_JOINED: &str = "it did not join the cluster in time";
pub(in crate::node) const NO_GPU: &str = "its GPUs did not appear in time";
pub(in crate::node) const SILENT: &str = "its Node was not Ready for 10 minutes";
/// How long a Node that was accepted may be missing or not Ready.
const NOT_READY_DEADLINE: SignedDuration = SignedDuration::from_mins(10);
/// How long the Node of an instance may be absent. A kubelet registers once: a Node that somebody deleted does not come back.
const NODE_GONE: SignedDuration = SignedDuration::from_secs(30);
/// How long complete listings must show nothing before nothing is believed to exist: EC2's lag, see AWS "eventual consistency".
const ABSENCE: SignedDuration = SignedDuration::from_mins(5);
/// How long an instance that still boots may be without work.
const UNWANTED: SignedDuration = SignedDuration::from_secs(15);
/// How long pods of a dying GpuNode may take to stop.
const DRAIN: SignedDuration = SignedDuration::from_secs(120);
/// How long an unresolved launch is replayed; after that it is only looked for.
const REPLAY: SignedDuration = SignedDuration::from_hours(1);

/// One write or call.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::node) enum Action {
    /// Send the recorded request.
    Launch,
    /// Find out whether the job of this reservation exists, and drop the reservation if not.
    VerifyReservation(String),
    /// Label this Node as ours and lift the registration taint.
    Adopt(String),
    /// Hold against this offer that its instance was made and failed, in the provider's words.
    Blame(Box<Failed>),
    /// Put nothing new on this Node.
    Cordon(String),
    /// Give the instance back: DELETE of this very version of the GpuNode.
    Reclaim(&'static str),
    /// End this instance.
    Terminate(String),
    /// Delete this Node object.
    DeleteNode(String),
    /// Nothing is left.
    RemoveFinalizer,
}

/// An instance that the provider has made and ended before it was of any use.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::node) struct Failed {
    pub(in crate::node) instance: InstanceStatus,
    /// `Capacity` where another offer may do, `Invalid` where a person has to act.
    pub(in crate::node) class: ErrorClass,
    /// The provider's words.
    pub(in crate::node) said: String,
}

#[derive(Debug)]
pub(in crate::node) struct Plan {
    pub(in crate::node) status: GpuNodeStatus,
    pub(in crate::node) actions: Vec<Action>,
    /// The earliest time at which the answer may change by itself.
    pub(in crate::node) wake: Option<Timestamp>,
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
pub(in crate::node) fn plan(world: &NodeWorld, now: Timestamp) -> Plan {
    let node = &world.node;
    let mut plan = Plan { status: node.status.clone().unwrap_or_default(), actions: vec![], wake: None };
    if node.status.as_ref().is_none_or(|s| s.assignments.is_none()) {
        // From the first write on the status is the truth; see GpuNode::reservations.
        plan.status.assignments = Some(node.spec.launched_for.clone());
    }
    adopt_instance(world, &mut plan);
    if node.metadata.deletion_timestamp.is_some() {
        finish::finish(world, &mut plan, now);
        set_ready(node, &mut plan, now, Some("Terminating"));
        return plan;
    }
    if world.draining {
        plan.actions.push(Action::Reclaim("GpuJob is being drained"));
    } else if plan.status.instance.is_some() {
        live::live(world, &mut plan, now);
    } else {
        launch::launch(world, &mut plan, now);
    }
    for uid in &world.absent_jobs {
        plan.actions.push(Action::VerifyReservation(uid.clone()));
    }
    let ending = plan.status.interrupted.is_some().then_some("Interrupted");
    set_ready(node, &mut plan, now, ending);
    plan
}

/// Takes over what the launch has brought, or what the cloud shows for this intent: after a crash between the launch and its record
/// that finds the instance.
fn adopt_instance(world: &NodeWorld, plan: &mut Plan) {
    let spec = &world.node.spec;
    let ordinal = spec.launch.ordinal.to_string();
    if plan.status.instance.is_none() {
        plan.status.instance.clone_from(&world.brought);
    }
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
        price_per_hour: known
            .as_ref()
            .map_or_else(|| offer.map_or_else(|| world.node.dearest(), |o| o.price_per_hour), |k| k.price_per_hour),
        gpus: known.as_ref().map_or_else(|| offer.map_or(world.node.spec.gpus, |o| o.gpus), |k| k.gpus),
        // A dead instance loses its name and address; what it had stays on record.
        private_dns_name: found.private_dns_name.clone().or_else(|| known.as_ref().and_then(|k| k.private_dns_name.clone())),
        private_ip: found.private_ip.clone().or_else(|| known.as_ref().and_then(|k| k.private_ip.clone())),
        provider_id: Some(found.provider_id.clone()),
        launch_time: found.launch_time.map(whole).or_else(|| known.and_then(|k| k.launch_time)),
    }
}

/// As the API writes times. A part of a second would never be read back, and be written again at every look.
pub(in crate::node) fn whole(at: Timestamp) -> Time {
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn transition(status: &GpuNodeStatus, type_: &str, now: Timestamp) -> Timestamp {
    conditions::find(&status.conditions, type_).map_or(now, |c| c.last_transition_time.0)
}

fn note(node: &GpuNode, plan: &mut Plan, now: Timestamp, type_: &'static str, status: Status, reason: &str, message: &str) {
    conditions::set(&mut plan.status.conditions, &want(type_, status, reason, message), node.metadata.generation.unwrap_or(1), now);
}

fn set_ready(node: &GpuNode, plan: &mut Plan, now: Timestamp, ending: Option<&str>) {
    let (status, reason, message) = match ending {
        Some(reason) => (Status::False, reason.to_owned(), "the instance is being given back".to_owned()),
        None => match condition::STEPS.iter().find(|s| !conditions::is_true(&plan.status.conditions, s)) {
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
mod tests;
