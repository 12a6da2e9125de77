//! `fetch`: claims the destination, then downloads every input, before main starts.

use std::path::Path;

use crate::checkpoint;
use crate::epoch::{Actor, Decision, claim};
use crate::plan::{STAGING, staging};
use crate::progress::say;
use crate::receipt::{Outcome, Receipt, Role, reason};

use super::commit::committed;
use super::destination::{Changed, Destination};
use super::roll::{Rolled, forward};
use super::{Context, Fault, check, inputs, stage, sweep, unconditional};

/// Claims and downloads.
///
/// # Errors
/// A refused or lost claim, a missing input, a full disk, and the stores'.
pub fn run(context: &Context) -> Result<Receipt, Fault> {
    let mut under = None;
    check::globs(context)?;
    if let Some(to) = context.destination()? {
        let taken = match take(context, &to) {
            Err(fault) if unconditional::because(context, &to, &fault)? => {
                say(&format!("{fault}"));
                unconditional::take(context, &to)?
            }
            other => other?,
        };
        if let Some(done) = taken {
            return Ok(done);
        }
        say(&format!("attempt {} has claimed {}", context.spec.attempt, to.name()));
        under = to.under();
    }
    if let Some(results) = &context.spec.results
        && Path::new(&results.path).is_dir()
    {
        stage::prepare(Path::new(&results.path));
    }
    let restored = checkpoint::restore(context)?;
    let mut receipt = inputs::fetch(context)?;
    if let Some(restored) = restored {
        receipt.message = format!("{}; {}", receipt.message, restored);
    }
    Ok(Receipt { published_under: under, ..receipt })
}

/// Claims the destination; a receipt when there is nothing left to run.
fn take(context: &Context, to: &Destination) -> Result<Option<Receipt>, Fault> {
    let me = context.actor();
    loop {
        // Listed before the claim: a job that is refused must leave no epoch in somebody's folder.
        let policy = to.policy(&context.spec)?;
        match to.change(|found| claim(&me, found, policy))? {
            Changed::Written(epoch) => {
                unconditional::prove(to, &epoch)?;
                if epoch.seq > 1 {
                    sweep_others(to, &me)?;
                }
                return Ok(None);
            }
            Changed::Decided(Decision::Committed(_)) => {
                say("this job's results are committed already");
                return committed(to, Role::Fetch, Outcome::AlreadyCommitted).map(Some);
            }
            Changed::Decided(Decision::Reused(_)) => {
                say("an equal job's results are there and are reused");
                let stored = committed(to, Role::Fetch, Outcome::AlreadyCommitted)?;
                return Ok(Some(Receipt { reason: reason::RESULTS_REUSED.into(), ..stored }));
            }
            Changed::Decided(Decision::RollForward(epoch)) => {
                say(&format!("attempt {} of job uid {} had begun to commit", epoch.attempt, epoch.job.uid));
                if let Rolled::Lost(why) = forward(to, &epoch, &me.nonce, None)? {
                    say(&format!("that attempt is lost: {why}"));
                }
            }
            Changed::Decided(Decision::Refuse(refusal)) => return Err(to.refusal(refusal)),
            Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
            Changed::Decided(other) => {
                return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
            }
        }
    }
}

/// Removes what earlier holders of the destination left staged: after this claim none of it can be committed any more. It must be
/// gone before this attempt commits: a commit pod of theirs that slept since before their own commit was finished would still
/// copy it, over this attempt's files (found by the model in `epoch/model.rs`).
fn sweep_others(to: &Destination, me: &Actor) -> Result<(), Fault> {
    let own = staging(me.attempt, &me.pod_uid);
    let others: Vec<String> = to.keys(STAGING)?.into_iter().filter(|key| !key.starts_with(&own)).collect();
    sweep::all(to, others)
}
