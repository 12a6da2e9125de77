//! Destinations whose store does not do conditional writes: each attempt claims, stages and publishes below a folder of its
//! own, `<to>attempt-<n>/`, so that no two attempts of a job ever write one key.
//!
//! The epoch lies in that folder too and is written without conditions. What is lost: two jobs that claim one destination in
//! the same second are not told apart, and a zombie may still publish, but only below its
//! own folder, which no receipt names.

use crate::epoch::{Decision, Epoch, Refusal, State, claim, resolve};
use crate::plan::{CONTROL, EPOCH_KEY};
use crate::progress::say;
use crate::receipt::{Outcome, Receipt, Role, reason};
use crate::spec::OnExisting;
use crate::store::conditional::{Conditional, again};

use super::commit::committed;
use super::destination::{Changed, Destination};
use super::roll::{Rolled, forward};
use super::{Context, Fault};

/// Asks the store, of an epoch that was just written, whether it lets a write through that must not happen.
///
/// # Errors
/// `NoConditionalWrites` when it does; the epoch is gone then.
pub(super) fn prove(to: &Destination, wrote: &Epoch) -> Result<(), Fault> {
    if to.under().is_some() {
        return Ok(());
    }
    let bytes = serde_json::to_vec(wrote).expect("an epoch has only string keys");
    let key = to.key(EPOCH_KEY);
    match again(&*to.store, &key, &bytes)? {
        Conditional::Honoured => Ok(()),
        Conditional::Ignored | Conditional::Refused => {
            to.store.delete(&key)?;
            let message = format!("{} accepts conditional writes without looking at the condition", to.name());
            Err(Fault::permanent(reason::NO_CONDITIONAL_WRITES, message))
        }
    }
}

/// Whether a claim failed because the store does not do conditional writes. What a folder of an earlier attempt holds makes the
/// destination look like somebody else's, before any condition is tried.
///
/// # Errors
/// The store's.
pub(super) fn because(context: &Context, to: &Destination, fault: &Fault) -> Result<bool, Fault> {
    if fault.reason != reason::DESTINATION_NOT_EMPTY || to.epoch_at(&to.key(EPOCH_KEY))?.is_some() {
        return Ok(fault.reason == reason::NO_CONDITIONAL_WRITES);
    }
    for attempt in 1..context.spec.attempt {
        let epoch = to.epoch_at(&to.key(&format!("attempt-{attempt}/{EPOCH_KEY}")))?;
        if epoch.is_some_and(|(epoch, _)| epoch.job.uid == context.spec.job.uid) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Claims the attempt's own folder; a receipt when there is nothing left to run.
///
/// # Errors
/// A refused or lost claim, and the store's.
pub(super) fn take(context: &Context, to: &Destination) -> Result<Option<Receipt>, Fault> {
    let on_existing = context.spec.results.as_ref().map(|r| r.on_existing).unwrap_or_default();
    if on_existing != OnExisting::Overwrite && occupied(to)? {
        return Err(to.refusal(Refusal::NotEmpty("files are there that no GpuJob has committed".into())));
    }
    if let Some(done) = earlier(context, to, Role::Fetch, context.spec.attempt - 1)? {
        return Ok(Some(done));
    }
    to.go_under();
    let me = context.actor();
    loop {
        let policy = to.policy(&context.spec)?;
        match to.change(|found| claim(&me, found, policy))? {
            Changed::Written(_) => return Ok(None),
            Changed::Decided(Decision::RollForward(epoch)) => drop(forward(to, &epoch, &me.nonce, None)?),
            Changed::Decided(Decision::Committed(_)) => return committed(to, Role::Fetch, Outcome::AlreadyCommitted).map(Some),
            Changed::Decided(Decision::Reused(_)) => return reused(to, Role::Fetch).map(Some),
            Changed::Decided(Decision::Refuse(refusal)) => return Err(to.refusal(refusal)),
            Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
            Changed::Decided(other) => return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}"))),
        }
    }
}

/// `resolve`, where no epoch lies at the destination itself: what became of the attempts up to this one?
///
/// # Errors
/// The store's.
pub(super) fn resolved(context: &Context, to: &Destination) -> Result<Option<Receipt>, Fault> {
    if to.epoch_at(&to.key(EPOCH_KEY))?.is_some() {
        return Ok(None);
    }
    earlier(context, to, Role::Resolve, context.spec.attempt)
}

/// Looks into the folders of attempts 1 to `last`: finishes what had begun to commit, revokes what had not, and answers with
/// what is committed.
fn earlier(context: &Context, to: &Destination, role: Role, last: u32) -> Result<Option<Receipt>, Fault> {
    let me = context.actor();
    let mut policy = crate::epoch::Policy { on_existing: OnExisting::Refuse, abandoned: &context.spec.abandoned, occupied: false };
    policy.on_existing = context.spec.results.as_ref().map(|r| r.on_existing).unwrap_or_default();
    for attempt in 1..=last {
        let folder = context.destination()?.ok_or_else(|| Fault::invalid("results without a destination".into()))?.of_attempt(attempt);
        folder.go_under();
        let Some((epoch, _)) = folder.epoch()? else { continue };
        let mine = epoch.job.uid == me.job.uid;
        match if role == Role::Fetch { claim(&me, Some(&epoch), policy) } else { resolve(&me, Some(&epoch), policy) } {
            Decision::Committed(_) => return committed(&folder, role, Outcome::AlreadyCommitted).map(Some),
            Decision::Reused(_) => return reused(&folder, role).map(Some),
            Decision::RollForward(epoch) => match forward(&folder, &epoch, &me.nonce, None)? {
                Rolled::Committed(receipt) if mine => {
                    let outcome = if role == Role::Fetch { Outcome::AlreadyCommitted } else { Outcome::RolledForward };
                    return Ok(Some(Receipt { role, outcome, reason: format!("{outcome:?}"), ..*receipt }));
                }
                Rolled::Committed(_) => say("another job's commit was finished"),
                Rolled::Lost(why) => say(&format!("attempt {attempt} is lost: {why}")),
            },
            Decision::Refuse(refusal) => return Err(to.refusal(refusal)),
            Decision::Revoked(to_whom) if role == Role::Resolve => return Err(Fault::revoked(to_whom)),
            _ if mine && matches!(epoch.state, State::Running | State::Sealed) => revoke(&folder, &epoch, &me.nonce)?,
            _ => {}
        }
    }
    Ok(None)
}

/// No condition guards this write: a commit that begins in the same moment may win. It publishes below its own folder only.
fn revoke(folder: &Destination, epoch: &Epoch, nonce: &str) -> Result<(), Fault> {
    let next = Epoch { nonce: nonce.into(), seq: epoch.seq.wrapping_add(1), state: State::Revoked, plan: None, ..epoch.clone() };
    let bytes = serde_json::to_vec(&next).expect("an epoch has only string keys");
    folder.store.put(&folder.key(EPOCH_KEY), &bytes)?;
    Ok(())
}

fn reused(folder: &Destination, role: Role) -> Result<Receipt, Fault> {
    say("an equal job's results are there and are reused");
    let stored = committed(folder, role, Outcome::AlreadyCommitted)?;
    Ok(Receipt { reason: reason::RESULTS_REUSED.into(), ..stored })
}

/// Whether anything lies at the destination but control objects and the folders of attempts.
fn occupied(to: &Destination) -> Result<bool, Fault> {
    let of_attempt = |key: &str| {
        let folder = key.split_once('/').and_then(|(folder, _)| folder.strip_prefix("attempt-"));
        folder.is_some_and(|n| n.parse::<u32>().is_ok())
    };
    let keys = to.keys("")?;
    Ok(keys.iter().any(|key| !key.is_empty() && !key.starts_with(CONTROL) && !of_attempt(key)))
}
