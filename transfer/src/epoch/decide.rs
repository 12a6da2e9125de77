//! The decisions: an epoch that was read, and what may be done with it. Pure.

use super::{Actor, Epoch, PlanRef, State};
use crate::receipt::{Ended, Holder, Verdict};
use crate::spec::OnExisting;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Write this with `put_if` on the version that was read (or on absence), then read again if the answer is lost.
    Write(Epoch),
    /// Nothing to write: what was asked for already holds.
    Holds,
    /// Not yet; why. Read again later.
    Wait(String),
    /// A commit has been begun: roll this one forward first, then decide again.
    RollForward(Epoch),
    /// This job's results are committed.
    Committed(Verdict),
    /// Results of an equal job are committed and may be reused.
    Reused(Verdict),
    /// The destination is not this job's to take.
    Refuse(Refusal),
    /// This attempt has lost its claim for good; to whom.
    Revoked(String),
}

/// Why a destination is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It holds files or committed results.
    NotEmpty(String),
    /// Another job has claimed it.
    InUse(Holder),
}

/// What a job allows itself at a destination that is not empty.
#[derive(Clone, Copy, Debug)]
pub struct Policy<'a> {
    /// The job's `onExisting`.
    pub on_existing: OnExisting,
    /// Uids of jobs that are known to be gone.
    pub abandoned: &'a [String],
    /// Whether any object outside `.gpujob/` lies at the destination.
    pub occupied: bool,
}

/// `fetch`: take the destination for this attempt, before anything else is done.
pub fn claim(me: &Actor, found: Option<&Epoch>, policy: Policy<'_>) -> Decision {
    let Some(epoch) = found else { return vacant(me, None, policy) };
    if epoch.job.uid != me.job.uid {
        return claim_foreign(me, epoch, policy);
    }
    if epoch.index != me.index {
        return Decision::Refuse(Refusal::InUse(epoch.holder()));
    }
    match epoch.state {
        State::Committed => committed(epoch),
        State::Committing => Decision::RollForward(epoch.clone()),
        _ if epoch.attempt < me.attempt => Decision::Write(me.running(found)),
        // The pod's sandbox was restarted and its init containers run again: the same run, a new process.
        State::Running if me.owns(epoch) => Decision::Write(me.running(found)),
        _ => lost_to(epoch),
    }
}

fn claim_foreign(me: &Actor, epoch: &Epoch, policy: Policy<'_>) -> Decision {
    match epoch.state {
        State::Committing => Decision::RollForward(epoch.clone()),
        State::Committed => match (policy.on_existing, epoch.verdict) {
            (OnExisting::Overwrite, _) => Decision::Write(me.running(Some(epoch))),
            (OnExisting::Reuse, Some(verdict)) if equal_job(me, epoch) => match verdict.outcome {
                Ended::Succeeded => Decision::Reused(verdict),
                // What a failed run left is no result to reuse: run the job.
                Ended::Failed => Decision::Write(me.running(Some(epoch))),
            },
            _ => Decision::Refuse(Refusal::NotEmpty(format!(
                "results of job {}/{} (uid {}) are there",
                epoch.job.namespace, epoch.job.name, epoch.job.uid
            ))),
        },
        State::Released => vacant(me, Some(epoch), policy),
        _ if gone(me, epoch, policy) => vacant(me, Some(epoch), policy),
        _ => Decision::Refuse(Refusal::InUse(epoch.holder())),
    }
}

/// Nobody holds the destination: what lies there decides.
fn vacant(me: &Actor, found: Option<&Epoch>, policy: Policy<'_>) -> Decision {
    if policy.occupied && policy.on_existing != OnExisting::Overwrite {
        return Decision::Refuse(Refusal::NotEmpty("files are there that no GpuJob has committed".into()));
    }
    Decision::Write(me.running(found))
}

/// Names are unique in a cluster: the same name under another uid is a job that was deleted. And who says that a job is gone has
/// looked in its own cluster: about another one's jobs neither name nor word proves anything.
fn gone(me: &Actor, epoch: &Epoch, policy: Policy<'_>) -> bool {
    let same_name = me.job.namespace == epoch.job.namespace && me.job.name == epoch.job.name;
    me.job.cluster == epoch.job.cluster && (same_name || policy.abandoned.contains(&epoch.job.uid))
}

fn equal_job(me: &Actor, epoch: &Epoch) -> bool {
    me.job.namespace == epoch.job.namespace
        && me.job.name == epoch.job.name
        && me.job.spec_hash == epoch.job.spec_hash
        && me.index == epoch.index
}

fn committed(epoch: &Epoch) -> Decision {
    Decision::Committed(epoch.verdict.unwrap_or(Verdict { attempt: epoch.attempt, outcome: Ended::Succeeded, exit_code: None }))
}

fn lost_to(epoch: &Epoch) -> Decision {
    Decision::Revoked(format!(
        "the destination is held by attempt {} of job uid {} (pod {}, {:?})",
        epoch.attempt, epoch.job.uid, epoch.pod_uid, epoch.state
    ))
}

/// `stage`, every 30 s: does the attempt still stand? `Holds` or `Revoked`.
pub fn standing(me: &Actor, found: Option<&Epoch>) -> Decision {
    match found {
        Some(epoch) if me.owns(epoch) && matches!(epoch.state, State::Running | State::Sealed) => Decision::Holds,
        Some(epoch) => lost_to(epoch),
        None => Decision::Revoked("the epoch object is gone from the destination".into()),
    }
}

/// `stage`, at the end: all is staged and the plan is durable.
pub fn seal(me: &Actor, found: Option<&Epoch>, plan: &PlanRef) -> Decision {
    match (standing(me, found), found) {
        // The answer to the seal was lost, and its commit has already begun.
        (_, Some(epoch))
            if me.owns(epoch) && epoch.plan.as_ref() == Some(plan) && matches!(epoch.state, State::Committing | State::Committed) =>
        {
            Decision::Holds
        }
        (Decision::Holds, Some(epoch)) if epoch.state == State::Sealed && epoch.plan.as_ref() == Some(plan) => Decision::Holds,
        // A worker that died after sealing seals again: its own plan, as long as nobody has begun to commit.
        (Decision::Holds, Some(epoch)) => Decision::Write(Epoch { plan: Some(plan.clone()), ..epoch.next(&me.nonce, State::Sealed) }),
        (other, _) => other,
    }
}

/// `commit`: pass the point of no return, once the attempt is sealed.
pub fn begin(me: &Actor, found: Option<&Epoch>, verdict: Verdict) -> Decision {
    let Some(epoch) = found else { return Decision::Wait("the destination has not been claimed yet".into()) };
    if !me.owns(epoch) {
        let earlier = epoch.job.uid == me.job.uid && epoch.index == me.index && epoch.attempt < me.attempt;
        if earlier {
            return Decision::Wait(format!("attempt {} has not claimed the destination yet", me.attempt));
        }
        return lost_to(epoch);
    }
    match epoch.state {
        State::Running => Decision::Wait("the sidecar has not sealed its results yet".into()),
        State::Sealed => Decision::Write(Epoch { verdict: Some(verdict), ..epoch.next(&me.nonce, State::Committing) }),
        State::Committing => Decision::RollForward(epoch.clone()),
        State::Committed => committed(epoch),
        State::Revoked | State::Released => lost_to(epoch),
    }
}

/// Whoever rolled `subject` forward: everything of its plan is in place, manifest and receipt too.
pub fn finish(nonce: &str, found: Option<&Epoch>, subject: &Epoch) -> Decision {
    match found {
        Some(epoch) if epoch.same_attempt(subject) => match epoch.state {
            State::Committing => Decision::Write(epoch.next(nonce, State::Committed)),
            State::Committed => Decision::Holds,
            _ => lost_to(epoch),
        },
        Some(epoch) => lost_to(epoch),
        None => Decision::Revoked("the epoch object is gone from the destination".into()),
    }
}

/// Whoever rolled `subject` forward found a file that is neither staged nor at its key: the attempt is lost, and the
/// next one may run. The only way back from `committing`.
pub fn lose(nonce: &str, found: Option<&Epoch>, subject: &Epoch) -> Decision {
    match found {
        // Someone else finished it, and its staging went because of that: nothing is lost.
        Some(epoch) if epoch.same_attempt(subject) && epoch.state == State::Committed => committed(epoch),
        Some(epoch) if epoch.same_attempt(subject) && epoch.state == State::Committing => {
            Decision::Write(Epoch { plan: None, verdict: None, ..epoch.next(nonce, State::Revoked) })
        }
        Some(epoch) => lost_to(epoch),
        None => Decision::Revoked("the epoch object is gone from the destination".into()),
    }
}

/// `discard`: this attempt must never commit. With `release` the job gives up the destination as well, whichever of its attempts up
/// to this one holds it: this one may have ended before it claimed anything.
pub fn revoke(me: &Actor, found: Option<&Epoch>, release: bool) -> Decision {
    let state = if release { State::Released } else { State::Revoked };
    match found {
        Some(epoch) if me.owns(epoch) || (release && me.follows(epoch)) => match epoch.state {
            State::Committing => Decision::RollForward(epoch.clone()),
            State::Committed => committed(epoch),
            State::Released => Decision::Holds,
            State::Revoked if !release => Decision::Holds,
            // Under this attempt's own name: one of its pods that nobody has told yet could claim over an earlier attempt's.
            _ => Decision::Write(Epoch { attempt: me.attempt, pod_uid: me.pod_uid.clone(), plan: None, ..epoch.next(&me.nonce, state) }),
        },
        // Nobody's, another job's, or another attempt's: this attempt cannot commit any more, and theirs is not touched.
        _ => Decision::Holds,
    }
}

/// `resolve`: what became of this job's results? `Holds` means free: nothing earlier can commit any more.
pub fn resolve(me: &Actor, found: Option<&Epoch>, policy: Policy<'_>) -> Decision {
    match found {
        Some(epoch) if epoch.job.uid == me.job.uid && epoch.index == me.index => match epoch.state {
            State::Committed => committed(epoch),
            State::Committing => Decision::RollForward(epoch.clone()),
            _ if epoch.attempt > me.attempt => lost_to(epoch),
            State::Revoked | State::Released => Decision::Holds,
            // Also this attempt's under another pod: whoever asks has given the attempt up.
            _ => Decision::Write(Epoch { plan: None, ..epoch.next(&me.nonce, State::Revoked) }),
        },
        _ => match claim(me, found, policy) {
            Decision::Write(_) => Decision::Holds,
            other => other,
        },
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
