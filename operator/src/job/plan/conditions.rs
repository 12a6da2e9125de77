//! Conditions, the one word for the table, and the copies that people read: all derived from the rest of the status.

use super::Action;
use super::draft::Draft;
use super::outcome::{Seen, look, sentence};
use crate::job::facts::{Container, Role};
use crate::job::next::ended;
use gpujob_crds::conditions::{Status, Wanted, find, is_true, job as types, set, want};
use gpujob_crds::job_status::Outcome;
use gpujob_transfer::plan::MANIFEST_KEY;
use gpujob_transfer::receipt::reason;

/// Why results are not where `results.to` says.
const APART: &str = "the store does no conditional writes, so an attempt that was taken for lost could overwrite the winner: each has \
     a folder of its own";

/// Writes what follows from the wanted status.
pub(super) fn run(d: &mut Draft<'_>) {
    let generation = d.world.job.metadata.generation.unwrap_or(0);
    d.status.observed_generation = Some(generation);
    d.status.attempt = d.status.attempts.last().map(|a| a.number);
    d.status.node = d.open().and_then(|a| a.node.clone());
    let word = word(d);
    let makes = |a: &Action| matches!(a, Action::CreateAttemptPod(_) | Action::CreateStoragePod { .. });
    if let Some(words) = d.world.not_made.as_ref().filter(|_| d.actions.iter().any(makes)) {
        d.why = format!("{} The pod for that cannot be made yet, and is tried again: {words}", sentence(&d.why));
    }
    d.status.state = Some(word.into());
    let mut wanted = if ended(&d.status) { after(d) } else { during(d, word) };
    wanted.extend(stored(d));
    wanted.extend(storage(d));
    wanted.extend(suspended(d));
    let now = d.now;
    for w in &wanted {
        set(&mut d.status.conditions, w, generation, now);
    }
    d.status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
}

/// A job that has ended stays as it is, but for the generation: kstatus takes an old one for work in progress.
pub(super) fn settled(d: &mut Draft<'_>) {
    let generation = d.world.job.metadata.generation;
    d.status.observed_generation = generation;
    for c in &mut d.status.conditions {
        c.observed_generation = generation;
    }
    d.why = find(&d.status.conditions, types::SUCCEEDED).map(|c| c.message.clone()).unwrap_or_default();
}

fn word(d: &Draft<'_>) -> &'static str {
    if ended(&d.status) {
        return if is_true(&d.status.conditions, types::SUCCEEDED) { "Succeeded" } else { "Failed" };
    }
    let Some(a) = d.open() else {
        return if d.world.job.spec.suspend == Some(true) { "Suspended" } else { "Waiting" };
    };
    let registered = a.node.as_ref().and_then(|n| d.world.node(n)).is_some_and(|n| n.registered.is_some());
    match (a.exit_code, a.start_time.is_some(), a.pod_uid.is_some() || registered) {
        (Some(_), ..) => "Delivering",
        (None, true, _) => "Running",
        (None, false, true) => "Starting",
        (None, false, false) => "Launching",
    }
}

fn during(d: &Draft<'_>, word: &str) -> Vec<Wanted> {
    let running = d.open().and_then(|a| {
        let pod = d.world.pod(a.number, Role::Attempt)?;
        let seen = look(pod, a.node.as_ref().and_then(|n| d.world.node(n)));
        (a.exit_code.is_none() && matches!(seen, Seen::Running(_))).then_some(())
    });
    vec![
        want(types::SUCCEEDED, Status::Unknown, word, d.why.clone()),
        want(types::RECONCILING, true, word, d.why.clone()),
        want(types::STALLED, false, "Progressing", ""),
        match running {
            Some(()) => want(types::RUNNING, true, "Running", ""),
            None => want(types::RUNNING, false, word, ""),
        },
    ]
}

fn after(d: &Draft<'_>) -> Vec<Wanted> {
    let verdict = find(&d.status.conditions, types::SUCCEEDED);
    let (reason, message) = verdict.map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default();
    let succeeded = verdict.is_some_and(|c| c.status == "True");
    vec![
        want(types::RECONCILING, false, "Ended", ""),
        want(types::STALLED, !succeeded, &reason, if succeeded { String::new() } else { message }),
        want(types::RUNNING, false, "Ended", ""),
    ]
}

fn stored(d: &Draft<'_>) -> Option<Wanted> {
    let to = &d.world.job.spec.results.as_ref()?.to;
    // The manifest lies among the results: elsewhere than usual where the store does no conditional writes.
    let manifest = d.status.receipt.as_ref().and_then(|r| r.manifest.as_ref());
    let apart = manifest.and_then(|m| m.strip_suffix(MANIFEST_KEY)).filter(|place| place != to);
    let winner = d.status.attempts.iter().rev().find(|a| a.storage.as_deref() == Some("Committed"));
    Some(match winner {
        Some(a) if a.outcome == Some(Outcome::Succeeded) => match apart {
            Some(place) => want(types::RESULTS_STORED, true, reason::NO_CONDITIONAL_WRITES, format!("{place}: {APART}")),
            None => want(types::RESULTS_STORED, true, "Committed", warnings(d, a.number)),
        },
        Some(_) => want(types::RESULTS_STORED, true, "CommittedAsFailed", "What the last attempt left; the manifest says Failed."),
        None if ended(&d.status) => want(types::RESULTS_STORED, false, "NotDelivered", ""),
        None => want(types::RESULTS_STORED, false, "Pending", ""),
    })
}

/// What the sidecar could not do beside the delivery, such as saving checkpoints, while its pod is there to say so.
fn warnings(d: &Draft<'_>, attempt: i32) -> String {
    let sidecar = d.world.pod(attempt, Role::Attempt).and_then(|pod| pod.stage.as_ref()).and_then(Container::receipt);
    let said: Vec<String> = sidecar.iter().flat_map(|r| &r.warnings).map(|text| sentence(text)).collect();
    said.join(" ")
}

/// Nothing starts before its inputs are there and its destination is claimed.
fn storage(d: &Draft<'_>) -> Option<Wanted> {
    let known = find(&d.status.conditions, types::STORAGE_READY).is_some_and(|c| c.status != "Unknown");
    let started = d.status.attempts.last().is_some_and(|a| a.start_time.is_some());
    (d.world.job.spec.moves_data() && started && !known)
        .then(|| want(types::STORAGE_READY, true, "Reached", "The inputs were fetched, and the destination is claimed."))
}

fn suspended(d: &Draft<'_>) -> Option<Wanted> {
    let asked = d.world.job.spec.suspend == Some(true) && !ended(&d.status);
    let held = d.world.nodes.iter().any(|n| n.reservations.iter().any(|r| r.job_uid == d.world.uid()));
    match (asked, d.open().is_some() || held) {
        (true, false) => Some(want(types::SUSPENDED, true, "Suspended", "")),
        (true, true) => Some(want(types::SUSPENDED, false, "Stopping", "The attempt is being stopped and its node given back.")),
        (false, _) => find(&d.status.conditions, types::SUSPENDED).map(|_| want(types::SUSPENDED, false, "Resumed", "")),
    }
}
