//! The attempt that goes on: from its reservation to the recorded exit of its program.

use super::draft::Draft;
use super::outcome::{Exit, Seen, look};
use super::{Action, abandoned, delivery, ending, preflight, starting};
use crate::job::facts::{PodFact, Role};
use crate::job::next::{NOT_MADE, NOTICED};
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_crds::names;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

/// `disruption` of an attempt that we stop because the job's time is up: what it left is committed as Failed.
pub(super) const DEADLINE: &str = "DeadlineExceeded";
/// Seconds that a recorded end may wait for its pod: no longer than a notice.
const HANDOVER: i64 = 120;
/// Seconds that the API server may refuse an attempt's pod, its node being there.
const UNMADE: i64 = 300;

/// One step of the open attempt.
pub(super) fn run(d: &mut Draft<'_>) {
    finalizer(d);
    remember_offer(d);
    let Some(a) = d.open().cloned() else { return };
    match d.world.pod(a.number, Role::Attempt) {
        Some(pod) => with_pod(d, &a, pod),
        None if a.exit_code.is_some() => delivery::run(d, &a, None),
        None => without_pod(d, &a),
    }
}

/// A job that may own a pod or a reservation must not vanish.
pub(super) fn finalizer(d: &mut Draft<'_>) {
    if !held(d) {
        d.act(Action::AddJobFinalizer);
    }
}

fn held(d: &Draft<'_>) -> bool {
    d.world.job.finalizers().iter().any(|f| f == names::JOB_FINALIZER)
}

fn remember_offer(d: &mut Draft<'_>) {
    let world = d.world;
    if let Some(a) = d.open_mut().filter(|a| a.offer.is_none()) {
        a.offer = a.node.as_ref().and_then(|n| world.node(n)).and_then(|n| n.offer.clone());
    }
}

fn without_pod(d: &mut Draft<'_>, a: &Attempt) {
    let node = a.node.as_ref().and_then(|n| d.world.node(n));
    let uid = d.world.uid();
    let live = node.filter(|n| !n.dying() && n.reservations.iter().any(|r| r.job_uid == uid && r.attempt == a.number));
    if a.disruption.as_deref() == Some(DEADLINE) {
        return ending::fail(d, DEADLINE, "The job's time was up, and its pod is gone: what it left could not be kept.");
    }
    if a.pod_uid.is_some() {
        return ending::interrupt(d, "PodVanished", "The pod is gone, and nobody saw how its program ended.");
    }
    if d.world.job.spec.suspend == Some(true) {
        return give_back(d, a, ending::suspend);
    }
    let Some(node) = live else {
        let reason = if node.is_some_and(|n| n.interrupted.is_some()) { NOTICED } else { "NodeLost" };
        let why = node.filter(|n| n.deleting.is_some()).map(|n| format!(": {}", n.farewell())).unwrap_or_else(|| ".".into());
        let message = format!("Its node was gone, or on its way out, before the pod was made{why}");
        return give_back(d, a, |d| ending::interrupt(d, reason, &message));
    };
    // Both on record first: the finalizer holds the job, the attempt says whose pod it is.
    let recorded = held(d) && crate::job::observe::open(&d.recorded).is_some_and(|r| r.number == a.number && r.node == a.node);
    let Some(registered) = node.registered else {
        d.why =
            if node.message.is_empty() { format!("{} is being launched.", node.name) } else { format!("{}: {}", node.name, node.message) };
        return preflight::run(d, a, recorded);
    };
    if let Some(pod) = predecessor(d, a) {
        d.why = format!("{} has joined; it waits for pod {} of the attempt before to end.", node.name, pod.name);
        return;
    }
    d.why = format!("{} has joined; the pod is being made.", node.name);
    let since = a.assigned_time.as_ref().map_or(registered, |t| t.0.max(registered));
    let world = d.world;
    if let Some(words) = &world.not_made
        && d.due(since, UNMADE)
    {
        let message = format!("The API server has not taken its pod for {} min: {words}", UNMADE / 60);
        return ending::interrupt(d, NOT_MADE, &message);
    }
    if recorded {
        let target = d.target(a);
        d.act(Action::CreateAttemptPod(target));
    }
}

/// The pod of an earlier attempt that still works. Its place may be bought before it has ended, but two attempts do not run at
/// once: the later one's claim would cut off the earlier one's last checkpoint.
fn predecessor<'a>(d: &mut Draft<'a>, a: &Attempt) -> Option<&'a PodFact> {
    let pod = d.world.pods.iter().find(|p| p.role == Role::Attempt && p.attempt < a.number && !p.over())?;
    let before = d.recorded.attempts.iter().find(|b| b.number == pod.attempt)?;
    // Nobody may ever say that the pod of a lost node has ended.
    let (lost, ended) = (before.reason.as_deref() == Some("NodeLost"), before.end_time.clone()?);
    (!lost && !d.due(ended.0, HANDOVER)).then_some(pod)
}

/// An attempt that nothing was bought for has not happened: its number is used again.
fn give_back(d: &mut Draft<'_>, a: &Attempt, bought: impl FnOnce(&mut Draft<'_>)) {
    if a.offer.is_some() {
        return bought(d);
    }
    d.status.attempts.pop();
    d.why = "Waiting for capacity: the launch came to nothing.".into();
}

fn with_pod(d: &mut Draft<'_>, a: &Attempt, pod: &PodFact) {
    let now = Time(d.now);
    if let Some(open) = d.open_mut() {
        open.pod_uid.get_or_insert_with(|| pod.uid.clone());
        open.template_hash = open.template_hash.take().or_else(|| pod.template_hash.clone());
    }
    if a.exit_code.is_some() {
        return delivery::run(d, a, Some(pod));
    }
    let seen = look(pod, a.node.as_ref().and_then(|n| d.world.node(n)));
    let over_time = a.disruption.as_deref() == Some(DEADLINE);
    let suspend = d.world.job.spec.suspend == Some(true);
    match seen {
        Seen::Exited(exit) => record_exit(d, pod, exit, now),
        Seen::AlreadyCommitted(receipt) => ending::committed(d, &receipt),
        Seen::Refused(r) if abandoned::instead_of_failure(d, &r) => {}
        Seen::Refused(r) => ending::fail(d, &r.reason, &r.message),
        Seen::Permanent { reason, message } => ending::fail(d, &reason, &message),
        // We deleted it ourselves, and wait for the program to end.
        Seen::Interrupted { reason, .. } if over_time && reason == "PodDeleted" => stop(d, pod),
        Seen::Interrupted { .. } if over_time => {
            ending::fail(d, DEADLINE, "The job's time was up, and its node went before it had delivered.")
        }
        Seen::Interrupted { reason, message } => ending::interrupt(d, &reason, &message),
        _ if over_time => stop(d, pod),
        _ if suspend => ending::suspend(d),
        Seen::Running(since) => {
            d.why = format!("The program runs on {}.", a.node.as_deref().unwrap_or("its node"));
            if let Some(open) = d.open_mut() {
                open.start_time.get_or_insert(Time(since));
            }
            d.status.start_time.get_or_insert(Time(since));
        }
        Seen::Hung { reason, message } => starting::hung(d, a, pod, &reason, message),
        Seen::Starting(message) => starting::run(d, a, pod, message),
    }
}

/// Ends the program with its whole grace, so that the sidecar can still seal what is there.
fn stop(d: &mut Draft<'_>, pod: &PodFact) {
    d.why = "The job's time is up: the program is being stopped.".into();
    let on_record = crate::job::observe::open(&d.recorded).is_some_and(|a| a.disruption.is_some());
    if on_record && pod.deleting.is_none() {
        d.act(Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), grace: None });
    }
}

/// Puts on record how the program ended, before anything is decided from it: whoever looks next decides the same.
fn record_exit(d: &mut Draft<'_>, pod: &PodFact, exit: Exit, now: Time) {
    let Some(open) = d.open_mut() else { return };
    open.start_time = open.start_time.take().or(exit.started.map(Time));
    open.exit_time = Some(exit.at.map_or(now, Time));
    open.exit_code = Some(exit.code);
    open.disruption = open.disruption.take().or(exit.disruption);
    open.reason = Some(exit.reason).filter(|r| !r.is_empty());
    open.message = Some(exit.message.trim().to_owned()).filter(|m| !m.is_empty());
    let started = open.start_time.clone();
    d.status.start_time = d.status.start_time.take().or(started);
    d.why = format!("The program has ended with exit code {}.", exit.code);
    let container = d.world.job.spec.gpu.container.clone().unwrap_or(exit.container);
    d.act(Action::SaveLog { pod: pod.name.clone(), container: (pod.expected > 1).then_some(container) });
}

/// The job is being deleted: its attempt is over, and nothing more is started for it.
pub(super) fn stop_for_deletion(d: &mut Draft<'_>) {
    if d.open().is_some() {
        ending::end_attempt(d, Outcome::Interrupted, "Deleted", "The GpuJob is being deleted.");
    }
    d.why = "The GpuJob is being deleted: its pods and reservations go first.".into();
}
