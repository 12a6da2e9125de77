//! After the program's exit is on record: commit, discard, or run again.
//!
//! The sidecar stages and seals; the commit pod is started at once and waits for the seal, so its start costs nothing.

use super::attempt::DEADLINE;
use super::draft::{Draft, later};
use super::outcome::{is_committed, sentence};
use super::{Action, ending, release};
use crate::job::facts::{PodFact, Role};
use crate::job::pod::storage::Task;
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_transfer::receipt::{Outcome as Answer, Receipt, reason};
use jiff::Timestamp;

/// Seconds between two tries of a pod that speaks to the store.
pub(super) const AGAIN: i64 = 10;
/// Seconds for the seal to be seen after its pod or node has gone; what was not sealed by then is lost.
const UNSEALED: i64 = 120;
/// Seconds that a commit pod may wait to be started.
const UNSTARTED: i64 = 300;
/// Seconds on top of the delivery deadline for a commit whose results are already sealed.
const SEALED_BONUS: i64 = 600;

/// `a` is the open attempt with a recorded exit code; `pod` its pod, if that is still there.
pub(super) fn run(d: &mut Draft<'_>, a: &Attempt, pod: Option<&PodFact>) {
    let code = a.exit_code.unwrap_or(1);
    let over_time = a.disruption.as_deref() == Some(DEADLINE);
    if let Some(disruption) = a.disruption.clone().filter(|_| !over_time) {
        return ending::interrupt(d, &disruption, &format!("The program was disturbed ({disruption}) before it ended."));
    }
    let well = code == 0 && !over_time;
    let last = over_time || (code != 0 && d.status.failures.unwrap_or(0) + 1 > d.world.job.spec.backoff_limit());
    if !d.delivers() {
        return match (well, last) {
            (true, _) => {
                ending::end_attempt(d, Outcome::Succeeded, "Completed", "The program ended with exit code 0.");
                ending::end_job(d, true, "Completed", "The program ended with exit code 0.");
            }
            (_, true) => ending::failed_for_good(d, code, false),
            _ => ending::failed_once(d, code),
        };
    }
    if well || last {
        let task = if well { Task::CommitSucceeded } else { Task::CommitFailed(code) };
        commit(d, a, pod, task);
    } else {
        // Thrown away by a discard pod once the attempt is recorded as ended.
        ending::failed_once(d, code);
    }
}

fn commit(d: &mut Draft<'_>, a: &Attempt, pod: Option<&PodFact>, task: Task) {
    d.why = "The program has ended; its results are being delivered.".into();
    let committer = d.world.pod(a.number, Role::Commit);
    let answer = committer.and_then(PodFact::end).and_then(|e| e.receipt());
    if let Some(r) = answer.as_ref().filter(|r| is_committed(r) || r.outcome == Answer::Done) {
        return match is_committed(r) {
            true => ending::committed(d, r),
            false => ending::fail(d, "NothingToCommit", "The commit found nothing to deliver, though results were asked for."),
        };
    }
    let staged = pod.and_then(|p| p.stage.as_ref());
    let sealed = staged.and_then(|c| c.receipt()).is_some_and(|r| r.outcome == Answer::Sealed);
    let exit = a.exit_time.as_ref().map_or(d.now, |t| t.0);
    let sealed_at = staged.filter(|_| sealed).map(|c| c.ended.as_ref().and_then(|e| e.at).unwrap_or(exit));
    let limit = d.world.job.spec.delivery_deadline() + if sealed { SEALED_BONUS } else { 0 };
    // From here on what the commit says is no answer: it was told to give up, or has passed the point of no return.
    // And once the question is asked it is that answer which counts, though a late seal would have earned a longer limit: the claim may
    // be given up by now, and what is lost by our own word must not run again.
    let asked = d.world.pod(a.number, Role::Release).is_some();
    if asked || d.due(exit, limit) {
        return release::instead_of_delivery(d, a, later(exit, limit));
    }
    if let Some(end) = staged.and_then(|c| c.ended.as_ref()).filter(|_| !sealed) {
        match end.receipt() {
            Some(r) if r.outcome == Answer::Revoked => return lost(d, task, &r.reason, &r.message),
            Some(r) if r.outcome == Answer::Failed && !r.retryable => return unable(d, task, &r),
            Some(r) if r.outcome == Answer::Failed => return lost(d, task, &r.reason, &r.message),
            // It died without a word: what it had not staged is lost.
            None if end.code != 0 => return lost(d, task, "SidecarLost", "The sidecar died while it delivered."),
            _ => {}
        }
    }
    if let Some(r) = &answer {
        match r.outcome {
            Answer::Revoked => return lost(d, task, &r.reason, &r.message),
            _ if r.reason == reason::STAGED_FILE_LOST => return lost(d, task, &r.reason, &r.message),
            _ if !r.retryable && !kept(d, a, sealed_at, exit, r) => return unable(d, task, r),
            _ if !r.retryable => {}
            _ => d.why = format!("Delivery is tried again: {}", r.message),
        }
    }
    if let (false, Some(since)) = (sealed, gone_since(d, a, pod, exit))
        && d.due(since, UNSEALED)
    {
        return lost(d, task, "NodeLost", "Its node went before it had sealed its results.");
    }
    let target = d.target(a);
    let (Some(pod_uid), None) = (&a.pod_uid, committer) else {
        if let Some(p) = committer {
            retry(d, p);
            // Not started in all this time: its node is full or gone, or its image is not to be had there.
            if p.phase == "Pending" && !p.over() && p.deleting.is_none() && d.due(p.created.unwrap_or(exit), UNSTARTED) {
                d.act(Action::DeletePod { name: p.name.clone(), uid: p.uid.clone(), grace: Some(0) });
            }
        }
        return;
    };
    d.act(Action::CreateStoragePod { target, task, pod_uid: pod_uid.clone() });
}

/// Whether what failed is worth waiting for, because a person can mend it and nothing is lost yet. Unsealed results are on the node with
/// a sidecar that tries again and says itself when `keepOnFailure` is over; sealed ones are staged, and kept for as long from then on.
fn kept(d: &mut Draft<'_>, a: &Attempt, sealed: Option<Timestamp>, exit: Timestamp, r: &Receipt) -> bool {
    let (keep, said) = (d.world.job.spec.keep_on_failure(), sentence(&r.message));
    if !reason::mendable(&r.reason) || sealed.is_some_and(|at| d.due(at, keep)) {
        return false;
    }
    let until = later(sealed.unwrap_or(exit), keep);
    d.why = match (sealed, &a.node) {
        (None, Some(node)) => {
            format!(
                "{said} The results are on {node} and kept there while it may be mended, at least until {until}: then they are delivered."
            )
        }
        _ => {
            format!("{said} The results are staged at the destination and kept until {until}: mend it before then, and they are delivered.")
        }
    };
    true
}

/// Since when nothing is left that could still seal the results: the pod, or the node under it.
fn gone_since(d: &Draft<'_>, a: &Attempt, pod: Option<&PodFact>, exit: Timestamp) -> Option<Timestamp> {
    let Some(pod) = pod else { return Some(exit) };
    let node_gone = a.node.as_ref().is_none_or(|n| d.world.node(n).is_none());
    let ended = matches!(pod.phase.as_str(), "Failed" | "Succeeded");
    let told = pod.disruption.as_ref().map(|(_, at)| *at).or(pod.deleting);
    (node_gone || ended).then(|| told.unwrap_or(exit).max(exit))
}

/// Clears a pod away that has ended without a final answer, so that it can be made again under its one name.
pub(super) fn retry(d: &mut Draft<'_>, pod: &PodFact) {
    if pod.deleting.is_some() || !pod.over() {
        return;
    }
    let ended = pod.end().and_then(|e| e.at).or(pod.created).unwrap_or(d.now);
    if later(ended, AGAIN) > d.now {
        return d.wake_at(later(ended, AGAIN));
    }
    d.act(Action::DeletePod { name: pod.name.clone(), uid: pod.uid.clone(), grace: Some(0) });
}

/// The results of this attempt are gone: run it again, unless it was the last one anyway.
fn lost(d: &mut Draft<'_>, task: Task, reason: &str, message: &str) {
    match task {
        Task::CommitFailed(code) => ending::failed_for_good(d, code, false),
        _ => {
            if let Some(open) = d.open_mut() {
                open.message = None;
            }
            ending::interrupt(d, reason, message);
        }
    }
}

/// Delivery can never work like this.
fn unable(d: &mut Draft<'_>, task: Task, r: &Receipt) {
    match task {
        Task::CommitFailed(code) => ending::failed_for_good(d, code, false),
        _ => {
            if let Some(open) = d.open_mut() {
                open.message = None;
            }
            let message = format!(
                "{} The program had ended well; its results could not be delivered, and what was staged of them is removed.",
                r.message
            );
            ending::fail(d, &r.reason, &message);
        }
    }
}
