//! A pod on its way to its program. Its node is paid for meanwhile: whatever keeps it is waited for so long and no longer.

use super::draft::Draft;
use super::ending;
use crate::job::facts::PodFact;
use crate::job::next::{MISFIT, NOT_STARTED, UNSCHEDULABLE};
use gpujob_crds::job_status::Attempt;
use jiff::Timestamp;
use kube::ResourceExt;

/// Seconds that a pod may wait for an image or a setting before the job is given up: the node is paid for meanwhile.
const HUNG_FOR: i64 = 300;
/// Seconds that a pod's volumes and network may take on its node. A disk that a node died with is let go after 6 min.
const UNPREPARED: i64 = 600;
/// Seconds after which that is said.
const SLOW: i64 = 60;
/// Seconds that a pod may be refused by its own node, GPUs and all being there.
const REFUSED_FOR: i64 = 120;

/// It waits for something that only a person can mend.
pub(super) fn hung(d: &mut Draft<'_>, a: &Attempt, pod: &PodFact, reason: &str, message: String) {
    let since = pod.progressed().max(usable(d, a)).unwrap_or(d.now);
    if reason == "InvalidImageName" || d.due(since, HUNG_FOR) {
        return ending::fail(d, reason, &message);
    }
    d.why = message;
}

/// It has not come to its program; `message` says where it is.
pub(super) fn run(d: &mut Draft<'_>, a: &Attempt, pod: &PodFact, message: String) {
    let there = usable(d, a);
    if let (Some(words), Some(there)) = (&pod.unschedulable, there) {
        let since = pod.created.map_or(there, |c| c.max(there));
        if d.due(since, REFUSED_FOR) {
            return ending::interrupt(d, if too_small(words) { MISFIT } else { UNSCHEDULABLE }, &message);
        }
    }
    d.why = message;
    if let (true, Some(bound)) = (pod.unprepared(), pod.bound) {
        unprepared(d, pod, there.map_or(bound, |there| bound.max(there)));
    }
}

/// Since when its node has its GPUs.
fn usable(d: &Draft<'_>, a: &Attempt) -> Option<Timestamp> {
    a.node.as_ref().and_then(|n| d.world.node(n)).and_then(|n| n.initialized)
}

/// A pod whose volumes or network are not to be had: the node may be to blame, or what the pod asks for. Another node tells.
fn unprepared(d: &mut Draft<'_>, pod: &PodFact, since: Timestamp) {
    let namespace = d.world.job.namespace().unwrap_or_default();
    let ask = format!("kubectl events -n {namespace} --for pod/{}", pod.name);
    let before = d.recorded.attempts.iter().rev().find(|b| b.number < pod.attempt);
    let again = before.is_some_and(|b| b.reason.as_deref() == Some(NOT_STARTED));
    if !d.due(since, UNPREPARED) {
        if d.due(since, SLOW) {
            d.why = format!("Pod {} waits for its volumes and network on its node: {ask} says for what.", pod.name);
        }
    } else if again {
        let message =
            format!("Two nodes in a row could not give its pod its volumes and network in {} min: {ask} says why.", UNPREPARED / 60);
        ending::fail(d, NOT_STARTED, &message);
    } else {
        let message = format!("Its node could not give its pod its volumes and network in {} min: {ask} says why.", UNPREPARED / 60);
        ending::interrupt(d, NOT_STARTED, &message);
    }
}

/// Whether the kube-scheduler refuses the node for its size, which every other of the type has too. All else is about this one node:
/// a taint, a pressure, a device plugin that does not answer. Other nodes' sizes are never among the words: the pod may only go to its
/// own, and that is looked at first.
fn too_small(words: &str) -> bool {
    let sizes = ["Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage", "Too many pods"];
    sizes.iter().any(|size| words.contains(size))
}
