//! What goes once an attempt's end is on record: its pod, its reservation, the pod's finalizer, the job's.
//!
//! All of it looks at the *recorded* status only, each property by itself: whatever a crash left half done is found again.

use super::draft::{Draft, between, later};
use super::{Action, preflight, release};
use crate::job::facts::{NodeFact, PodFact, Role};
use crate::job::next::{ended, unsettled};
use crate::job::observe::{last_ended, open};
use gpujob_crds::job_status::Outcome;
use gpujob_crds::{Reservation, names};
use kube::ResourceExt;

/// Seconds that an attempt's pod gets when it is taken away and nobody says when: as long as a spot notice gives, less a margin.
const NOTICE: u32 = 100;
/// Seconds before the instance goes in which the pod must be over: the sidecar seals, the kubelet reports.
const SEALING: i64 = 5;
/// The least seconds of grace: the kubelet's own minimum.
const LEAST: i64 = 2;
/// Seconds for a pod whose results nobody wants.
const SHORT: u32 = 10;
/// Seconds after which a reservation goes though the pod has not ended.
const STUBBORN: i64 = 120;

pub(super) fn run(d: &mut Draft<'_>) {
    give_back(d);
    delete_pods(d);
    pod_finalizers(d);
    job_finalizer(d);
}

/// Whether this attempt's end is on record.
fn over(d: &Draft<'_>, attempt: i32) -> bool {
    attempt <= last_ended(&d.recorded) || (ended(&d.recorded) && open(&d.recorded).is_none())
}

fn give_back(d: &mut Draft<'_>) {
    let world = d.world;
    for node in &world.nodes {
        let remaining: Vec<Reservation> = node.reservations.iter().filter(|r| keep(d, node, r)).cloned().collect();
        if remaining.len() < node.reservations.len() {
            d.act(Action::Release { node: node.name.clone(), resource_version: node.resource_version.clone(), remaining });
            // What follows waits for this write, and a GpuNode that was launched for another job names us no more: nobody would wake us.
            d.wake_at(later(d.now, 1));
        }
    }
}

fn keep(d: &mut Draft<'_>, node: &NodeFact, r: &Reservation) -> bool {
    if r.job_uid != d.world.uid() {
        return true;
    }
    if over(d, r.attempt) {
        let pod = d.world.pod(r.attempt, Role::Attempt);
        let end = d.recorded.attempts.iter().find(|a| a.number == r.attempt).and_then(|a| a.end_time.as_ref()).map(|t| t.0);
        // The GPUs are not free while the program still runs. A node that goes, taken back or deleted, is held until the sidecar has
        // ended too: its GPUs are nobody's any more, and given back it would take the last checkpoint with it. But a pod that never
        // ends must not hold a node for ever.
        let busy = |p: &PodFact| if node.dying() { !p.over() } else { !p.gpus_free() };
        return pod.is_some_and(busy) && !end.is_none_or(|at| d.due(at, STUBBORN));
    }
    match open(&d.recorded) {
        Some(a) => a.number == r.attempt && a.node.as_deref() == Some(&node.name),
        // The first of two nodes for one attempt begins it; the other goes when it is recorded.
        None => r.attempt == last_ended(&d.recorded) + 1 && d.world.job.spec.suspend != Some(true) && !d.world.deleting() && !node.dying(),
    }
}

fn delete_pods(d: &mut Draft<'_>) {
    let world = d.world;
    let last = d.recorded.attempts.last().cloned();
    let owed = release::owed(d);
    for pod in world.pods.iter().filter(|p| p.deleting.is_none() && !p.over()) {
        let grace = match pod.role {
            Role::Attempt if !over(d, pod.attempt) => continue,
            Role::Attempt => attempt_grace(d, pod),
            // A commit belongs to an open attempt; the others to the last one until its storage is known.
            Role::Commit if !over(d, pod.attempt) => continue,
            Role::Check if preflight::wanted(d, pod) => continue,
            Role::Release if owed || (!over(d, pod.attempt) && !world.deleting()) => continue,
            Role::Discard | Role::Resolve
                if !ended(&d.recorded)
                    && !world.deleting()
                    && unsettled(&world.job, &d.recorded)
                    && last.as_ref().is_some_and(|a| a.number == pod.attempt) =>
            {
                continue;
            }
            Role::Check | Role::Commit | Role::Discard | Role::Release | Role::Resolve => {
                // It has told its end to us already, or will to nobody.
                SHORT
            }
        };
        d.act(Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), grace: Some(grace) });
    }
}

fn attempt_grace(d: &Draft<'_>, pod: &PodFact) -> u32 {
    let attempt = d.recorded.attempts.iter().find(|a| a.number == pod.attempt);
    if attempt.is_none_or(|a| a.outcome != Some(Outcome::Interrupted)) || d.world.deleting() {
        return SHORT; // what has failed, or is not wanted any more, has nothing to save
    }
    // A program that is taken away may use all the time that is left, but for what the sidecar needs at the end.
    let taken = attempt.and_then(|a| a.node.as_ref()).and_then(|n| d.world.node(n)).and_then(|n| n.taken_at);
    let left = taken.map(|at| between(d.now, at) - SEALING);
    left.map_or(NOTICE, |seconds| u32::try_from(seconds.max(LEAST)).unwrap_or(NOTICE))
}

fn pod_finalizers(d: &mut Draft<'_>) {
    let world = d.world;
    for pod in world.pods.iter().filter(|p| p.held()) {
        let reserved = world.nodes.iter().flat_map(|n| &n.reservations).any(|r| r.job_uid == world.uid() && r.attempt == pod.attempt);
        let recorded = over(d, pod.attempt) || (world.deleting() && open(&d.recorded).is_none());
        if recorded && !reserved {
            let position = pod.finalizers.iter().position(|f| f == names::POD_FINALIZER).unwrap_or(0);
            d.act(Action::RemovePodFinalizer { name: pod.name.clone(), uid: pod.uid.clone(), position });
        }
    }
}

fn job_finalizer(d: &mut Draft<'_>) {
    let world = d.world;
    let ours = world.job.finalizers().iter().any(|f| f == names::JOB_FINALIZER);
    let done = (ended(&d.recorded) || world.deleting() || world.draining) && open(&d.recorded).is_none();
    let reserved = world.nodes.iter().any(|n| n.reservations.iter().any(|r| r.job_uid == world.uid()));
    let owed = world.deleting() && release::owed(d);
    if ours && done && !reserved && !owed && !world.pods.iter().any(PodFact::held) {
        d.act(Action::RemoveJobFinalizer);
    }
}
