//! What a job's status may say: success only with proof, failures only for the program's own, attempts within what they may be.

use super::mirror::Change;
use gpujob_crds::conditions::{is_true, job as types};
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_crds::{GpuJob, GpuJobStatus, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// How a program really ended: its worst exit code, and when its last container did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) at: Option<Timestamp>,
}

/// What kubelets have said of every attempt, by job UID and number. Pods go; this stays.
#[derive(Debug, Default)]
pub(super) struct Programs {
    exits: BTreeMap<(String, i32), Exit>,
    /// When the pod of an attempt was first told to end.
    told: BTreeMap<(String, i32), Timestamp>,
}

/// UID and number of the attempt that this pod runs.
pub(super) fn attempt_of(pod: &Pod) -> Option<(String, i32)> {
    let labels = pod.labels();
    let number = labels.get(names::ATTEMPT)?.parse().ok()?;
    (labels.get(names::ROLE)? == "attempt").then_some((labels.get(names::JOB_UID)?.clone(), number))
}

impl Programs {
    /// Takes note of a pod as its kubelet has just written it.
    pub(super) fn see(&mut self, pod: &Pod) {
        let Some(attempt) = attempt_of(pod) else { return };
        let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.clone()).unwrap_or_default();
        let states: Vec<_> = statuses.iter().filter_map(|s| s.state.as_ref()).collect();
        let ended: Vec<_> = states.iter().filter_map(|s| s.terminated.as_ref()).filter(|t| t.started_at.is_some()).collect();
        if let Some(deleted) = &pod.metadata.deletion_timestamp {
            let grace = pod.metadata.deletion_grace_period_seconds.unwrap_or(0);
            self.told.entry(attempt.clone()).or_insert(deleted.0 - jiff::SignedDuration::from_secs(grace));
        }
        let containers = pod.spec.as_ref().map_or(1, |s| s.containers.len());
        if ended.len() == containers {
            let code = ended.iter().map(|t| t.exit_code).find(|c| *c != 0).unwrap_or(0);
            let at = ended.iter().filter_map(|t| t.finished_at.as_ref()).map(|t| t.0).max();
            self.exits.entry(attempt).or_insert(Exit { code, at });
        }
    }

    /// Whether the program ended only after its pod was told to. Kubelets write whole seconds.
    fn was_told(&self, job: &str, attempt: i32) -> bool {
        let key = (job.to_owned(), attempt);
        let (told, exit) = (self.told.get(&key), self.exits.get(&key).and_then(|e| e.at));
        told.zip(exit).is_some_and(|(told, exit)| exit.as_second() > told.as_second())
    }

    pub(super) fn exit(&self, job: &str, attempt: i32) -> Option<Exit> {
        self.exits.get(&(job.to_owned(), attempt)).copied()
    }
}

/// UID and attempt of what was committed, or why that is not it.
pub(super) type Delivered = Result<(String, i32), String>;

/// What else a check of a job may ask.
pub(super) struct Proof<'a> {
    pub(super) programs: &'a Programs,
    /// What lies at the job's destination.
    pub(super) delivered: &'a dyn Fn(&GpuJob) -> Delivered,
    /// When the instance of this GpuNode was announced to go, or went by itself.
    pub(super) disturbed: &'a dyn Fn(&str) -> Option<Timestamp>,
}

/// Looks at a write of a GpuJob.
pub(super) fn check(change: &Change, proof: &Proof<'_>) -> Vec<String> {
    let (old, new): (Option<GpuJob>, Option<GpuJob>) = change.typed();
    let Some(job) = new else { return vec![] };
    let (before, after) = (old.and_then(|j| j.status).unwrap_or_default(), job.status.clone().unwrap_or_default());
    let mut wrong = vec![];
    bounds(&job, &after, &mut wrong);
    if is_true(&after.conditions, types::SUCCEEDED) && !is_true(&before.conditions, types::SUCCEEDED) {
        succeeded(&job, &after, proof, &mut wrong);
    }
    if after.failures.unwrap_or(0) > before.failures.unwrap_or(0) {
        failed(&job, &before, &after, proof, &mut wrong);
    }
    if before.completion_time.is_some() && before.completion_time != after.completion_time {
        wrong.push("a job that had ended has another end".into());
    }
    wrong
}

fn bounds(job: &GpuJob, status: &GpuJobStatus, wrong: &mut Vec<String>) {
    let (failures, interruptions) = (status.failures.unwrap_or(0), status.interruptions.unwrap_or(0));
    let retries = failures.min(job.spec.backoff_limit());
    let suspended = status.attempts.iter().filter(|a| a.reason.as_deref() == Some("Suspended")).count();
    let most = 1 + retries + interruptions + i32::try_from(suspended).unwrap_or(0);
    if let Some(last) = status.attempts.last().filter(|a| a.number > most) {
        wrong.push(format!("attempt {} with {failures} failures and {interruptions} interruptions", last.number));
    }
    if failures > job.spec.backoff_limit() + 1 {
        wrong.push(format!("{failures} failures with backoffLimit {}", job.spec.backoff_limit()));
    }
    if status.attempts.iter().rev().skip(1).any(|a| a.outcome.is_none()) {
        wrong.push("an attempt goes on though a later one has begun".into());
    }
}

fn succeeded(job: &GpuJob, status: &GpuJobStatus, proof: &Proof<'_>, wrong: &mut Vec<String>) {
    let Some(winner) = status.attempts.iter().find(|a| a.outcome == Some(Outcome::Succeeded)) else {
        return wrong.push("Succeeded without an attempt that did".into());
    };
    if winner.reason.as_deref() == Some("ResultsReused") {
        return;
    }
    let uid = job.uid().unwrap_or_default();
    match proof.programs.exit(&uid, winner.number) {
        Some(Exit { code: 0, at }) => {
            if proof.programs.was_told(&uid, winner.number) {
                wrong.push(format!("attempt {} won with an exit that it was told to make", winner.number));
            }
            if let Some(began) = winner.node.as_deref().and_then(|n| (proof.disturbed)(n)).filter(|began| at.is_some_and(|at| at > *began))
            {
                wrong.push(format!("attempt {} won with an exit after its disruption at {began}", winner.number));
            }
        }
        other => wrong.push(format!("attempt {} won, and its program ended so: {other:?}", winner.number)),
    }
    if job.spec.results.is_some() {
        match (proof.delivered)(job) {
            Ok(found) if found == (uid, winner.number) => {}
            Ok(found) => wrong.push(format!("attempt {} won, and {found:?} is at the destination", winner.number)),
            Err(why) => wrong.push(format!("Succeeded without results: {why}")),
        }
    }
}

/// A failure that counts is the program's own, before any disruption.
fn failed(job: &GpuJob, before: &GpuJobStatus, after: &GpuJobStatus, proof: &Proof<'_>, wrong: &mut Vec<String>) {
    let was_open = |a: &&Attempt| before.attempts.iter().find(|b| b.number == a.number).is_none_or(|b| b.outcome.is_none());
    let Some(a) = after.attempts.iter().filter(was_open).find(|a| a.outcome == Some(Outcome::Failed)) else {
        return wrong.push("a failure is counted, and no attempt has failed".into());
    };
    match proof.programs.exit(&job.uid().unwrap_or_default(), a.number) {
        Some(exit) if exit.code != 0 => {
            let over_time = a.disruption.is_some();
            if proof.programs.was_told(&job.uid().unwrap_or_default(), a.number) && !over_time {
                wrong.push(format!("attempt {} was told to end, and counts as a failure", a.number));
            }
            let began = a.node.as_deref().and_then(|n| (proof.disturbed)(n));
            if let (Some(began), Some(at)) = (began, exit.at)
                && at > began
            {
                wrong.push(format!("attempt {} was disturbed at {began}, ended at {at}, and counts as a failure", a.number));
            }
        }
        other => wrong.push(format!("attempt {} counts as a failure, and its program ended so: {other:?}", a.number)),
    }
}
