//! Between attempts: ask the store what became of the last one, then begin the next when a reservation is there.

use super::delivery::{AGAIN, retry};
use super::draft::{Draft, later};
use super::outcome::is_committed;
use super::{Action, abandoned, attempt, ending};
use crate::job::next::{UNRESOLVED, not_before, unsettled};
use crate::job::observe::{last_ended, open};
use crate::job::pod::storage::Task;
use gpujob_crds::conditions::{find, job as types};
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_transfer::receipt::Outcome as Answer;

/// Seconds that the pod which asks may wait for a node.
const UNSCHEDULED: i64 = 60;
/// Seconds in which the store must have answered.
const UNANSWERED: i64 = 600;

/// No attempt is open, and the job has not ended.
pub(super) fn run(d: &mut Draft<'_>) {
    if unsettled(&d.world.job, &d.status) {
        ask(d);
        if d.status.completion_time.is_some() || unsettled(&d.world.job, &d.status) {
            return;
        }
    }
    if d.world.job.spec.suspend == Some(true) {
        d.why = "Suspended: set spec.suspend to false to go on.".into();
        return;
    }
    begin(d);
}

/// An attempt begins when a live GpuNode holds a reservation for it.
fn begin(d: &mut Draft<'_>) {
    let (world, number) = (d.world, last_ended(&d.status) + 1);
    let mine = |r: &&gpujob_crds::Reservation| r.job_uid == world.uid() && r.attempt == number;
    let found = world.nodes.iter().filter(|n| !n.dying()).find_map(|n| n.reservations.iter().find(mine).map(|r| (n, r)));
    if let Some((node, reservation)) = found {
        d.status.attempts.push(Attempt {
            number,
            index: reservation.index,
            node: Some(node.name.clone()),
            assigned_time: d.time(),
            ..Attempt::default()
        });
        return attempt::run(d);
    }
    if let Some(at) = not_before(&d.status).filter(|at| *at > d.now) {
        d.wake_at(at);
    }
    // The scheduler knows why; its words are worth repeating where people look first.
    let assigned = world.job.status.as_ref().and_then(|s| find(&s.conditions, types::ASSIGNED)).filter(|c| c.status != "True");
    d.why = match (assigned, d.status.attempts.last().and_then(|a| a.message.as_ref())) {
        (Some(c), _) if !c.message.is_empty() => c.message.clone(),
        (_, Some(last)) => format!("Waiting for attempt {number}. The last one: {last}"),
        _ => "Waiting for capacity.".into(),
    };
}

/// A pod asks the store, or throws away what a failed program left: either way the answer says whether the next may run.
fn ask(d: &mut Draft<'_>) {
    let Some(last) = d.status.attempts.last().cloned() else { return };
    let task = if last.outcome == Some(Outcome::Failed) { Task::Discard } else { Task::Resolve };
    d.why = format!("Asking the store what became of attempt {}.", last.number);
    let since = last.end_time.as_ref().map_or(d.now, |t| t.0);
    let Some(pod) = d.world.pod(last.number, task.role()) else {
        if d.world.not_made.is_some() && d.due(since, UNANSWERED) {
            return answered(d, UNRESOLVED);
        }
        let on_record = open(&d.recorded).is_none();
        if let (true, Some(pod_uid)) = (on_record, last.pod_uid.clone()) {
            let target = d.target(&last);
            d.act(Action::CreateStoragePod { target, task, pod_uid });
        }
        return;
    };
    if let Some(receipt) = pod.end().and_then(|e| e.receipt()) {
        if is_committed(&receipt) {
            return ending::committed(d, &receipt);
        }
        if receipt.exit_code() == 0 {
            return answered(d, "Discarded");
        }
        // Another attempt of this job is ahead: the next one's fetch finds out, and no job ends by a question.
        if receipt.outcome == Answer::Revoked {
            return answered(d, UNRESOLVED);
        }
        // Nor by one that a job has answered which is gone: the next one's fetch takes its claim.
        if abandoned::noted(d, &receipt).is_some() {
            return answered(d, UNRESOLVED);
        }
        if !receipt.retryable {
            return ending::end_job(d, false, &receipt.reason, &receipt.message);
        }
        d.why = format!("The store is asked again: {}", receipt.message);
    }
    let created = pod.created.unwrap_or(since);
    if pod.node.is_none() && !pod.over() && d.due(created, UNSCHEDULED) {
        d.why = format!("Pod {} finds no node; the next attempt finds out what became of the last.", pod.name);
        return answered(d, UNRESOLVED);
    }
    if d.due(since, UNANSWERED) {
        return answered(d, UNRESOLVED);
    }
    d.wake_at(later(d.now, AGAIN.max(UNSCHEDULED)));
    retry(d, pod);
}

fn answered(d: &mut Draft<'_>, storage: &str) {
    if let Some(last) = d.status.attempts.last_mut() {
        last.storage = Some(storage.to_owned());
    }
}
