//! An intent without an instance: sent, sent again, looked for, or given up.

use super::finish::absent_long;
use super::{Action, Plan, REPLAY, later, note};
use crate::node::observe::{LaunchAnswer, NodeWorld};
use gpujob_crds::conditions::{Status, node as condition};
use gpujob_provider_core::ErrorClass;
use jiff::{SignedDuration, Timestamp};

pub(super) fn launch(world: &NodeWorld, plan: &mut Plan, now: Timestamp) {
    let node = &world.node;
    let created = node.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    if !matches!(world.launch, Some(LaunchAnswer { definite: true, .. })) {
        // Nobody may want it any more: what still waits for its turn is not sent then, and what was sent the listings show.
        super::live::idle(world, plan, now);
        if plan.status.idle_since.is_some() {
            return;
        }
    }
    if world.launching {
        return;
    }
    match &world.launch {
        None if now <= later(created, REPLAY) => {
            note(node, plan, now, condition::LAUNCHED, Status::Unknown, "Launching", "the request is on its way to the provider");
            plan.actions.push(Action::Launch);
        }
        None => gone_or_wait(world, plan, now, created),
        Some(LaunchAnswer { class, message, definite: true, .. }) => {
            note(node, plan, now, condition::LAUNCHED, Status::False, class.reason(), message);
            plan.actions.push(Action::Reclaim("the provider refused the launch"));
        }
        Some(LaunchAnswer { class, message, retry_at, .. }) => {
            note(node, plan, now, condition::LAUNCHED, Status::Unknown, class.reason(), message);
            // Refused now, though an earlier send may have been obeyed: what complete listings do not show either is not there.
            // What a request names may be gone for good, such as a launch template of settings that the pool no longer has.
            let refused = class.is_refusal() || matches!(class, ErrorClass::Unauthorized | ErrorClass::Invalid | ErrorClass::NotFound);
            if matches!(class, ErrorClass::Mismatch) || now > later(created, REPLAY) || (refused && absent_long(world, created)) {
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
pub(super) fn gone_or_wait(world: &NodeWorld, plan: &mut Plan, now: Timestamp, since: Timestamp) {
    if world.instances.is_empty() && absent_long(world, since) {
        plan.actions.push(Action::Reclaim("the launch was never answered and complete listings show no instance"));
    } else {
        plan.wake_at(later(now, SignedDuration::from_secs(15)));
    }
}
