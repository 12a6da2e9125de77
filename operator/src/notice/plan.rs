//! What to do about notices. Pure.

use super::observe::World;
use gpujob_crds::names;
use gpujob_provider_core::{Notice, NoticeKind};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// How long an instance has when the notice does not say: EC2 gives two minutes.
const USUAL: SignedDuration = SignedDuration::from_secs(120);
/// A checkpoint that was asked for so recently is not asked for again.
const FRESH: SignedDuration = SignedDuration::from_secs(60);

/// One write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Record on this GpuNode that its instance will be taken then.
    Record { node: String, instance: String, taken_at: Timestamp, code: String },
    /// Tell this pod of an attempt to save a checkpoint, and when its node goes if that is known.
    Checkpoint { namespace: String, pod: String, uid: String, node: String, taken_at: Option<Timestamp> },
}

impl Action {
    /// The GpuNode that it is about.
    pub(super) fn node(&self) -> &str {
        match self {
            Action::Record { node, .. } | Action::Checkpoint { node, .. } => node,
        }
    }
}

/// Everything that follows from what one source said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// By index of the notice: what has to be done before its queue may forget it. Nothing: it may at once.
    pub(super) wanted: BTreeMap<usize, Vec<Action>>,
}

/// What to do about these notices. Notices that must come again (their instance may be one that is not recorded yet) are left out.
pub(super) fn plan(world: &World, notices: &[Notice], now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let nameless = world.nodes.iter().any(|n| n.status.as_ref().is_none_or(|s| s.instance.is_none()));
    for (index, notice) in notices.iter().enumerate() {
        let recorded = |n: &&std::sync::Arc<gpujob_crds::GpuNode>| {
            n.status.as_ref().and_then(|s| s.instance.as_ref()).is_some_and(|i| i.id == notice.instance)
        };
        let Some(node) = world.nodes.iter().find(recorded) else {
            // Another cluster's, or one of ours whose launch has just been answered.
            if !nameless {
                plan.wanted.insert(index, vec![]);
            }
            continue;
        };
        // One that is leaving was told when that began.
        let mut actions = vec![];
        if !node.is_leaving() {
            let taken = notice.kind == NoticeKind::Interruption;
            let taken_at = taken.then(|| notice.at.unwrap_or_else(|| now.saturating_add(USUAL).unwrap_or(now)));
            // The pods first: the record has them deleted, and from then on their kubelet tells them nothing more.
            actions.extend(checkpoints(world, node, now, taken_at));
            actions.extend(taken_at.map(|taken_at| Action::Record {
                node: node.name_any(),
                instance: notice.instance.clone(),
                taken_at,
                code: notice.code.clone(),
            }));
        }
        plan.wanted.insert(index, actions);
    }
    plan
}

fn checkpoints<'a>(
    world: &'a World,
    node: &'a gpujob_crds::GpuNode,
    now: Timestamp,
    taken_at: Option<Timestamp>,
) -> impl Iterator<Item = Action> + 'a {
    let here = move |p: &&std::sync::Arc<k8s_openapi::api::core::v1::Pod>| {
        let label = |key| p.labels().get(key).map(String::as_str);
        node.reservations()
            .iter()
            .any(|r| Some(r.job_uid.as_str()) == label(names::JOB_UID) && Some(r.attempt.to_string().as_str()) == label(names::ATTEMPT))
    };
    let told = move |p: &&std::sync::Arc<k8s_openapi::api::core::v1::Pod>| {
        let time = |key| p.annotations().get(key).and_then(|at| at.parse::<Timestamp>().ok());
        let fresh = time(names::CHECKPOINT).is_some_and(|at| now.duration_since(at) < FRESH);
        // That its node goes is news to one that has just been asked because it might.
        fresh && (taken_at.is_none() || time(names::TAKEN_AT).is_some())
    };
    world.pods.iter().filter(here).filter(move |p| !told(p)).map(move |p| Action::Checkpoint {
        namespace: p.namespace().unwrap_or_default(),
        pod: p.name_any(),
        uid: p.uid().unwrap_or_default(),
        node: node.name_any(),
        taken_at,
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(super) mod tests;
