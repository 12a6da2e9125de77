//! A job that failed for good, or is deleted, gives its destination back: without that no other job could claim it, for nobody but
//! its own operator may call a job gone.
//!
//! Who asks for it believes the answer. A commit may have passed the point of no return before: then the results are published.

use super::Action;
use super::delivery::{AGAIN, retry};
use super::draft::{Draft, later};
use super::ending;
use super::outcome::is_committed;
use crate::job::facts::Role;
use crate::job::next::ended;
use crate::job::observe::open;
use crate::job::pod::storage::Task;
use gpujob_crds::conditions::{find, is_true, job as types, set, want};
use gpujob_crds::job_status::Attempt;
use gpujob_transfer::receipt::{Receipt, reason};
use jiff::Timestamp;

/// `storage` of an attempt after which its job holds the destination no more.
const RELEASED: &str = "Released";
/// `storage` of an attempt whose job could not give the destination back.
const UNRELEASED: &str = "Unreleased";
/// Seconds that a job which is being deleted waits for that. In a namespace that ends no pod can be made.
const DELETION: i64 = 30;
/// Seconds in which the store must have answered.
const UNANSWERED: i64 = 600;

/// After the end of the job: one step, if it may hold a claim that it will never use.
pub(super) fn run(d: &mut Draft<'_>) {
    if !owed(d) {
        return;
    }
    let Some(a) = holder(d).cloned() else { return };
    let Some(receipt) = ask(d, &a) else { return };
    let storage = match is_committed(&receipt) {
        true => "Committed",
        false if receipt.exit_code() == 0 => RELEASED,
        false => UNRELEASED,
    };
    if let Some(last) = d.status.attempts.iter_mut().find(|b| b.number == a.number) {
        last.storage = Some(storage.into());
    }
    if is_committed(&receipt) && ended(&d.status) {
        let generation = d.world.job.metadata.generation.unwrap_or(0);
        let words = "A commit that had been begun was finished after the job had failed.";
        set(&mut d.status.conditions, &want(types::RESULTS_STORED, true, "CommittedLate", words), generation, d.now);
    }
}

/// The open attempt has not been delivered in time. Its job fails, unless the store says that the results are published.
pub(super) fn instead_of_delivery(d: &mut Draft<'_>, a: &Attempt, since: Timestamp) {
    let limit = d.world.job.spec.delivery_deadline();
    let late = format!("The results were not delivered within deliveryDeadlineSeconds ({limit}).");
    d.why = format!("{late} Asking the store whether they are published.");
    let fail = |d: &mut Draft<'_>, storage: &str, more: &str| {
        if let Some(open) = d.open_mut() {
            open.storage = Some(storage.into());
        }
        ending::fail(d, "DeliveryDeadlineExceeded", &format!("{late} {more}"));
    };
    match ask(d, a) {
        Some(r) if is_committed(&r) => ending::committed(d, &r),
        Some(r) if r.exit_code() == 0 => fail(d, RELEASED, "What was staged was thrown away, and the destination given back."),
        Some(r) => fail(
            d,
            UNRELEASED,
            &format!("What was staged is under .gpujob/staging at the destination, which this job still holds: {}", r.message),
        ),
        None if d.due(since, UNANSWERED) => {
            fail(d, UNRELEASED, "The store does not answer: whether they will be published is in .gpujob/epoch at the destination.");
        }
        None => {}
    }
}

/// Has a pod ask, and again if the answer was none. Some: a final answer.
fn ask(d: &mut Draft<'_>, a: &Attempt) -> Option<Receipt> {
    let Some(pod) = d.world.pod(a.number, Role::Release) else {
        if let Some(pod_uid) = a.pod_uid.clone() {
            let target = d.target(a);
            d.act(Action::CreateStoragePod { target, task: Task::Release { forget: d.world.deleting() }, pod_uid });
        }
        return None;
    };
    let receipt = pod.end().and_then(|e| e.receipt()).filter(|r| r.exit_code() == 0 || is_committed(r) || !r.retryable);
    if receipt.is_none() {
        d.wake_at(later(d.now, AGAIN));
        retry(d, pod);
    }
    receipt
}

/// The last attempt that may have claimed the destination.
fn holder<'a>(d: &'a Draft<'_>) -> Option<&'a Attempt> {
    let last = d.recorded.attempts.iter().rev().find(|a| a.pod_uid.is_some())?;
    // It came no further than the claim that it was refused.
    let refused = [reason::DESTINATION_IN_USE, reason::DESTINATION_NOT_EMPTY, reason::BUCKET_NOT_FOUND, reason::INVALID_CREDENTIALS];
    let nothing = last.start_time.is_none() && last.reason.as_deref().is_some_and(|r| refused.contains(&r));
    (!nothing).then_some(last)
}

/// Whether the job has ended, or is ending, with a claim that nobody has given back.
pub(super) fn owed(d: &mut Draft<'_>) -> bool {
    let over = ended(&d.recorded) && !is_true(&d.recorded.conditions, types::SUCCEEDED);
    if !d.delivers() || d.world.draining || open(&d.recorded).is_some() || !(over || d.world.deleting()) {
        return false;
    }
    let stored = |a: &Attempt, words: &[&str]| a.storage.as_deref().is_some_and(|s| words.contains(&s));
    if d.recorded.attempts.iter().any(|a| stored(a, &["Committed"])) || holder(d).is_none_or(|a| stored(a, &[RELEASED, UNRELEASED])) {
        return false;
    }
    let deleted = d.world.job.metadata.deletion_timestamp.as_ref().map(|t| t.0);
    let failed = find(&d.recorded.conditions, types::SUCCEEDED).filter(|_| over).map(|c| c.last_transition_time.0);
    match (deleted, failed) {
        (Some(at), _) => !d.due(at, DELETION),
        (None, Some(at)) => !d.due(at, UNANSWERED),
        (None, None) => false,
    }
}
