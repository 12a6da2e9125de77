//! While the first attempt's instance is on its way, a short CPU pod looks at inputs and destination with the job's own credentials:
//! what can never work is told in seconds, and the launch is cancelled with the reservation.
//!
//! It never holds anything up. Where no CPU node has room, or the node was there already, the attempt's own fetch says the same.

use super::draft::Draft;
use super::outcome::{is_committed, sentence};
use super::{Action, abandoned, ending};
use crate::job::facts::{PodFact, Role};
use crate::job::pod::storage::Task;
use gpujob_crds::GpuJobStatus;
use gpujob_crds::conditions::{Status, find, job as types, set, want};
use gpujob_crds::job_status::Attempt;
use gpujob_transfer::receipt::{Outcome as Answer, Receipt, reason};

/// Seconds that the pod may wait for a node.
const UNSCHEDULED: i64 = 20;
/// Seconds in which it must have answered: its image may have to be pulled.
const UNANSWERED: i64 = 120;
/// Reason of the condition while nobody has tried, and nobody will before the attempt itself.
const NOT_CHECKED: &str = "NotChecked";

/// One step, while the node of `a` has not joined. `recorded`: the attempt is on record.
pub(super) fn run(d: &mut Draft<'_>, a: &Attempt, recorded: bool) {
    if a.number != 1 || !d.world.job.spec.moves_data() || decided(&d.status) {
        return;
    }
    let Some(pod) = d.world.pod(a.number, Role::Check) else {
        say(d, Status::Unknown, "Checking", "Inputs and destination are looked at while the node is on its way.");
        if recorded {
            let target = d.target(a);
            d.act(Action::CreateStoragePod { target, task: Task::Check, pod_uid: String::new() });
        }
        return;
    };
    if let Some(receipt) = pod.end().and_then(|e| e.receipt()) {
        return answered(d, &receipt);
    }
    let made = pod.created.unwrap_or(d.now);
    if pod.over() {
        say(d, Status::Unknown, NOT_CHECKED, &format!("Pod {} ended without a word; the attempt itself finds out.", pod.name));
    } else if pod.node.is_none() && d.due(made, UNSCHEDULED) {
        say(d, Status::Unknown, NOT_CHECKED, "No CPU node has room to look at inputs and destination; the attempt itself finds out.");
    } else if d.due(made, UNANSWERED) {
        say(d, Status::Unknown, NOT_CHECKED, &format!("Pod {} did not answer in time; the attempt itself finds out.", pod.name));
    }
}

fn answered(d: &mut Draft<'_>, r: &Receipt) {
    if is_committed(r) {
        // Nothing has to run: the node that was asked for goes with its reservation.
        say(d, Status::True, &r.reason, &r.message);
        return ending::committed(d, r);
    }
    match r.outcome {
        Answer::Failed if abandoned::noted(d, r).is_some() => {
            let holder = r.holder.as_ref().map_or("", |h| h.job.as_str());
            let words =
                format!("The destination is held by job {holder}, which is gone: the attempt takes it over, and looks at the rest.");
            say(d, Status::Unknown, NOT_CHECKED, &words);
        }
        Answer::Failed if !r.retryable => {
            say(d, Status::False, &r.reason, &r.message);
            ending::fail(d, &r.reason, &format!("{} Nothing was run.", sentence(&r.message)));
        }
        Answer::Failed | Answer::Revoked => say(d, Status::Unknown, NOT_CHECKED, &r.message),
        // It works; what a person may want to change before it matters is said beside that.
        _ => {
            let word = if r.published_under.is_some() { reason::NO_CONDITIONAL_WRITES } else { "Checked" };
            let said: Vec<String> = std::iter::once(&r.message).chain(&r.warnings).map(|text| sentence(text)).collect();
            say(d, Status::True, word, &said.join(" "));
        }
    }
}

fn say(d: &mut Draft<'_>, status: Status, reason: &str, message: &str) {
    let generation = d.world.job.metadata.generation.unwrap_or(0);
    set(&mut d.status.conditions, &want(types::STORAGE_READY, status, reason, message), generation, d.now);
}

/// Whether the question is closed: answered, or left to the attempt.
pub(super) fn decided(status: &GpuJobStatus) -> bool {
    find(&status.conditions, types::STORAGE_READY).is_some_and(|c| c.status != "Unknown" || c.reason == NOT_CHECKED)
}

/// Whether somebody still waits for this pod's answer.
pub(super) fn wanted(d: &Draft<'_>, pod: &PodFact) -> bool {
    let waits = |a: &Attempt| a.number == pod.attempt && a.pod_uid.is_none();
    !d.world.deleting() && !decided(&d.recorded) && crate::job::observe::open(&d.recorded).is_some_and(waits)
}
