//! When a job wants capacity, and for which attempt: the one rule that scheduler and job controller share. It reads the
//! job's status alone, so both come to the same answer from the same version of it.

use super::observe::{last_ended, open};
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_crds::{GpuJob, GpuJobStatus};
use jiff::{SignedDuration, Timestamp};

/// Whether to reserve capacity for a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Reserve for this attempt, if no GpuNode holds a reservation for it already.
    Attempt(i32),
    /// Not before then: an attempt has failed or was interrupted.
    NotBefore(Timestamp),
    /// Not until the status or spec changes; why.
    No(&'static str),
}

/// Seconds of the first wait after an attempt that failed or was interrupted; doubled each time.
const FIRST: i64 = 10;
/// The longest wait.
const LONGEST: i64 = 360;

/// What `storage` of an attempt says when the store could not be asked: the next attempt's fetch finds out.
pub const UNRESOLVED: &str = "Unresolved";

/// Why an attempt ended whose instance is being taken back, its program not having ended before the notice.
pub const NOTICED: &str = "SpotInterruption";
/// Why an attempt ended whose pod was too large for its node: no other node of that type is tried for this job.
pub const MISFIT: &str = "Misfit";
/// Why an attempt ended whose pod its node did not take for another reason: only that node is not tried again for this job.
pub const UNSCHEDULABLE: &str = "Unschedulable";
/// Why an attempt ended whose pod its node took and could not start: only that node is not tried again for this job.
pub const NOT_STARTED: &str = "PodNotStarted";
/// Why an attempt ended whose pod the API server would not take, be it for a full quota or a webhook.
pub const NOT_MADE: &str = "PodNotMade";
/// Seconds after which an attempt that is taken back has been worth its place: the next begins at once.
const WORTHWHILE: i64 = 600;

/// Whether this job wants capacity now.
#[must_use]
pub fn next(job: &GpuJob, now: Timestamp) -> Next {
    let empty = GpuJobStatus::default();
    let status = job.status.as_ref().unwrap_or(&empty);
    if !job.spec.is_ours() {
        return Next::No("another controller is in charge");
    }
    if job.metadata.deletion_timestamp.is_some() {
        return Next::No("it is being deleted");
    }
    if ended(status) {
        return Next::No("it has ended");
    }
    if job.spec.suspend == Some(true) {
        return Next::No("it is suspended");
    }
    if let Some(open) = open(status) {
        // Its reservation went with its GpuNode before a pod was made: the same attempt needs another.
        return if open.pod_uid.is_none() && open.exit_code.is_none() {
            Next::Attempt(open.number)
        } else {
            Next::No("an attempt goes on")
        };
    }
    if unsettled(job, status) {
        return Next::No("the store is asked what became of the last attempt");
    }
    match not_before(status) {
        Some(at) if at > now => Next::NotBefore(at),
        _ => Next::Attempt(last_ended(status) + 1),
    }
}

/// Whether the job has ended, well or not.
#[must_use]
pub fn ended(status: &GpuJobStatus) -> bool {
    status.completion_time.is_some()
}

/// Whether the last attempt may have left something in the store that nobody has asked about yet.
#[must_use]
pub fn unsettled(job: &GpuJob, status: &GpuJobStatus) -> bool {
    let last = status.attempts.last();
    job.spec.results.is_some() && last.is_some_and(|a| a.outcome.is_some() && a.pod_uid.is_some() && a.storage.is_none())
}

/// When the next attempt may begin: 10 s after a bad end, doubled with each in a row, at most 6 min, and 6 min after one whose pod
/// could not be made. After a notice at once:
/// the old node still runs while the new one is bought. Only places that are taken back again and again, each within minutes,
/// are not bought without a pause.
#[must_use]
pub fn not_before(status: &GpuJobStatus) -> Option<Timestamp> {
    let last = status.attempts.last()?;
    if last.reason.as_deref() == Some("Suspended") {
        return None;
    }
    let outcome = last.outcome.filter(|o| *o != Outcome::Succeeded)?;
    let noticed = last.reason.as_deref() == Some(NOTICED);
    let row = match noticed {
        true => status.attempts.iter().rev().take_while(|a| short_lived(a)).count().checked_sub(1).filter(|n| *n > 0)?,
        false => status.attempts.iter().rev().take_while(|a| a.outcome == Some(outcome)).count(),
    };
    // Who gives room in a quota is a person, and until then a node would be paid for.
    let refused = last.reason.as_deref() == Some(NOT_MADE);
    let seconds = if refused { LONGEST } else { (FIRST << (row - 1).min(6)).min(LONGEST) };
    last.end_time.as_ref()?.0.checked_add(SignedDuration::from_secs(seconds)).ok()
}

/// Whether this attempt was taken back before it was worth its place.
fn short_lived(a: &Attempt) -> bool {
    let lived = a.assigned_time.as_ref().zip(a.end_time.as_ref()).map(|(from, to)| to.0.duration_since(from.0).as_secs());
    a.reason.as_deref() == Some(NOTICED) && lived.is_none_or(|seconds| seconds < WORTHWHILE)
}
