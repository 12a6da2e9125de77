//! How attempts and jobs end: always in one status write, the attempt's outcome with what follows for the job.

use super::draft::{Draft, between};
use super::outcome::is_committed;
use crate::job::next::{NOTICED, UNRESOLVED, not_before};
use gpujob_crds::Price;
use gpujob_crds::conditions::{job as types, set, want};
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_transfer::receipt::{Ended, Receipt, reason};

/// How many attempts a status keeps.
const KEPT: usize = 32;

/// Closes the open attempt. Counts nothing.
pub(super) fn end_attempt(d: &mut Draft<'_>, outcome: Outcome, reason: &str, message: &str) {
    let now = d.time();
    let Some(open) = d.open_mut() else { return };
    open.outcome = Some(outcome);
    open.reason = Some(reason.to_owned());
    // What the program said last is worth more than our own sentence.
    open.message.get_or_insert_with(|| message.to_owned());
    open.end_time = now;
    let closed = open.clone();
    account(d, &closed);
    while d.status.attempts.len() > KEPT {
        // Never the one that has just ended: its number would be used again, and its pod be met as the new one's.
        let earlier = &d.status.attempts[..d.status.attempts.len() - 1];
        let Some(i) = earlier.iter().position(|a| a.outcome == Some(Outcome::Interrupted)) else { break };
        d.status.attempts.remove(i);
    }
}

/// Adds an attempt's price to the job's, and its time to what was lost if it came to nothing. Done while its GpuNode is
/// still reserved, so that its GPUs are known.
fn account(d: &mut Draft<'_>, a: &Attempt) {
    let seconds = a.assigned_time.as_ref().map_or(0, |t| between(t.0, d.now));
    let share = a.node.as_ref().and_then(|n| d.world.node(n)).map_or(1, |n| i64::from(n.gpus));
    let price = a.offer.as_ref().map(|o| {
        let whole = o.price_per_hour.for_seconds(seconds).micros();
        let (count, share) = (i64::from(d.world.job.spec.gpu.count), share.max(1));
        // Rounded up, and never more than the whole instance: the bill is not understated.
        Price::from_micros(((whole * count + share - 1) / share).min(whole))
    });
    let receipt = d.status.receipt.get_or_insert_default();
    if let Some(price) = price {
        receipt.dollars = Some(receipt.dollars.unwrap_or(Price::ZERO) + price);
    }
    if a.outcome != Some(Outcome::Succeeded) {
        receipt.lost_seconds += seconds;
    }
}

/// The open attempt was taken away. Costs no `backoffLimit`, but has a limit of its own.
pub(super) fn interrupt(d: &mut Draft<'_>, reason: &str, message: &str) {
    if let Some(open) = d.open_mut().filter(|_| reason == NOTICED) {
        // Its program had not ended before the notice, so nobody was ever told to commit it, and nobody will be: there is nothing
        // to ask the store. The next attempt's fetch takes the claim from it.
        open.storage.get_or_insert_with(|| UNRESOLVED.into());
    }
    end_attempt(d, Outcome::Interrupted, reason, message);
    let count = d.status.interruptions.unwrap_or(0) + 1;
    d.status.interruptions = Some(count);
    let limit = d.world.job.spec.interruption_limit();
    if count > limit {
        return end_job(
            d,
            false,
            "InterruptionLimitExceeded",
            &format!(
                "Interrupted {count} times, interruptionLimit is {limit}: raise it, or let on-demand be bought (markets, onDemandAfter). Last: {message}"
            ),
        );
    }
    retry_at(d);
    d.why = format!("Interrupted ({reason}): {message} The next attempt follows.");
}

/// `spec.suspend` ends the open attempt; it counts nowhere.
pub(super) fn suspend(d: &mut Draft<'_>) {
    end_attempt(d, Outcome::Interrupted, "Suspended", "spec.suspend is true.");
    d.why = "Suspended: set spec.suspend to false to go on.".into();
}

/// The program failed by itself and may be run again.
pub(super) fn failed_once(d: &mut Draft<'_>, code: i32) {
    end_attempt(d, Outcome::Failed, "ProgramFailed", &format!("The program ended with exit code {code}."));
    d.status.failures = Some(d.status.failures.unwrap_or(0) + 1);
    retry_at(d);
    let limit = d.world.job.spec.backoff_limit();
    d.why = format!("The program ended with exit code {code}; failure {} of {} allowed.", d.status.failures.unwrap_or(0), limit);
}

/// The program failed by itself for the last time. `stored`: what it left is kept.
pub(super) fn failed_for_good(d: &mut Draft<'_>, code: i32, stored: bool) {
    let over_time = d.open().is_some_and(|a| a.disruption.is_some());
    let said = d.open().and_then(|a| a.message.clone()).unwrap_or_default();
    let kept = match (d.delivers(), stored) {
        (false, _) => "",
        (true, true) => " What it left is at its destination; the manifest says Failed.",
        (true, false) => " What it left could not be delivered.",
    };
    if over_time {
        end_attempt(d, Outcome::Failed, "DeadlineExceeded", "The job's time was up.");
        let seconds = d.world.job.spec.active_deadline_seconds.unwrap_or(0);
        return end_job(d, false, "DeadlineExceeded", &format!("The program ran into activeDeadlineSeconds ({seconds}).{kept}"));
    }
    end_attempt(d, Outcome::Failed, "ProgramFailed", &format!("The program ended with exit code {code}."));
    let failures = d.status.failures.unwrap_or(0) + 1;
    d.status.failures = Some(failures);
    let said = if said.is_empty() { String::new() } else { format!(" Its last words: {said}") };
    let times = if failures == 1 { "once".to_owned() } else { format!("{failures} times") };
    end_job(d, false, "BackoffLimitExceeded", &format!("The program failed {times}, the last time with exit code {code}.{kept}{said}"));
}

/// It can never work like this: a person must change something.
pub(super) fn fail(d: &mut Draft<'_>, reason: &str, message: &str) {
    if let Some(open) = d.open_mut().filter(|a| a.exit_code.is_none()) {
        open.message = None;
    }
    end_attempt(d, Outcome::Failed, reason, message);
    end_job(d, false, reason, message);
}

fn retry_at(d: &mut Draft<'_>) {
    if let Some(at) = not_before(&d.status) {
        d.wake_at(at);
    }
}

/// Results of this job are at their destination: the job ends as their verdict says.
pub(super) fn committed(d: &mut Draft<'_>, r: &Receipt) {
    debug_assert!(is_committed(r));
    let failed = r.committed.is_some_and(|v| v.outcome == Ended::Failed);
    let reused = r.reason == reason::RESULTS_REUSED;
    let winner = r.committed.map(|v| i32::try_from(v.attempt).unwrap_or(0)).filter(|_| !reused);
    let receipt = d.status.receipt.get_or_insert_default();
    receipt.files = i64::try_from(r.files).unwrap_or(i64::MAX);
    receipt.bytes = i64::try_from(r.bytes).unwrap_or(i64::MAX);
    receipt.manifest_sha256 = r.manifest.as_ref().map(|m| m.sha256.clone());
    receipt.manifest = r.manifest.as_ref().zip(d.world.job.spec.results.as_ref()).map(|(m, to)| format!("{}{}", to.to, m.key));
    d.status.summary = r.summary.clone().or(d.status.summary.take());

    // Usually the open attempt's own; else those of an earlier one whose commit nobody saw, and the open one was for nothing.
    let earlier = winner.filter(|n| d.open().is_none_or(|a| a.number != *n));
    if let Some(a) = d.status.attempts.iter_mut().find(|a| Some(a.number) == earlier) {
        a.storage = Some("Committed".into());
        a.outcome = Some(if failed { Outcome::Failed } else { Outcome::Succeeded });
        end_attempt(d, Outcome::Interrupted, "AlreadyCommitted", "The results were committed already.");
    } else if let Some(open) = d.open_mut() {
        open.storage = Some("Committed".into());
        if failed {
            let code = open.exit_code.or(r.committed.and_then(|v| v.exit_code)).unwrap_or(1);
            return failed_for_good(d, code, true);
        }
        end_attempt(d, Outcome::Succeeded, if reused { "ResultsReused" } else { "Delivered" }, "Delivered.");
    }
    if failed {
        return end_job(
            d,
            false,
            "BackoffLimitExceeded",
            "The program failed; what it left is at its destination, the manifest says Failed.",
        );
    }
    let word = match r.reason.as_str() {
        reason::RESULTS_REUSED => "ResultsReused",
        "AlreadyCommitted" => "AlreadyCommitted",
        _ => "Delivered",
    };
    let to = d.world.job.spec.results.as_ref().map_or("", |r| r.to.as_str());
    let apart = r
        .published_under
        .as_ref()
        .map_or(String::new(), |under| format!("{under}: its store does no conditional writes, so every attempt has a folder of its own"));
    end_job(d, true, word, &format!("{} files, {} bytes at {to}{apart}.", r.files, r.bytes));
}

/// Ends the job, and writes its receipt.
pub(super) fn end_job(d: &mut Draft<'_>, succeeded: bool, reason: &str, message: &str) {
    d.status.completion_time = d.time();
    d.status.state = Some(if succeeded { "Succeeded" } else { "Failed" }.into());
    let generation = d.world.job.metadata.generation.unwrap_or(0);
    set(&mut d.status.conditions, &want(types::SUCCEEDED, succeeded, reason, message), generation, d.now);
    d.why = message.to_owned();
    let winner = d.status.attempts.iter().rev().find(|a| a.outcome == Some(Outcome::Succeeded)).or(d.status.attempts.last()).cloned();
    let created = d.world.job.metadata.creation_timestamp.as_ref().map_or(d.now, |t| t.0);
    let end = d.now;
    let receipt = d.status.receipt.get_or_insert_default();
    let Some(a) = winner else {
        receipt.queue_seconds = between(created, end);
        return;
    };
    let time = |t: &Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>| t.as_ref().map(|t| t.0);
    let assigned = time(&a.assigned_time).unwrap_or(end);
    receipt.queue_seconds = between(created, assigned);
    receipt.start_seconds = between(assigned, time(&a.start_time).unwrap_or(end));
    if let Some(start) = time(&a.start_time) {
        let exit = time(&a.exit_time).unwrap_or(end);
        receipt.run_seconds = between(start, exit);
        receipt.delivery_seconds = between(exit, end);
    }
}
