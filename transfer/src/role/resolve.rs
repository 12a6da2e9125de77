//! `resolve`: what became of this job's results? Asked before any attempt after the first, and whenever a receipt could
//! not be read. Only `Free` buys a node.

use crate::epoch::{Decision, resolve};
use crate::plan::staging;
use crate::progress::say;
use crate::receipt::{Outcome, Receipt, Role, reason};

use super::commit::committed;
use super::destination::Changed;
use super::roll::{Rolled, forward};
use super::{Context, Fault, sweep, unconditional};

/// Answers `AlreadyCommitted` (with the stored receipt), `RolledForward`, or `Free`.
///
/// # Errors
/// A refused destination, a higher attempt (`Revoked`), and the store's.
pub fn run(context: &Context) -> Result<Receipt, Fault> {
    let Some(to) = context.destination()? else {
        return Ok(Receipt::new(Role::Resolve, Outcome::Free, "the job keeps no results"));
    };
    if let Some(answer) = unconditional::resolved(context, &to)? {
        return Ok(answer);
    }
    let me = context.actor();
    loop {
        let policy = to.policy(&context.spec)?;
        match to.change(|found| resolve(&me, found, policy))? {
            Changed::Decided(Decision::Committed(_)) => {
                return committed(&to, Role::Resolve, Outcome::AlreadyCommitted);
            }
            Changed::Decided(Decision::Reused(_)) => {
                let stored = committed(&to, Role::Resolve, Outcome::AlreadyCommitted)?;
                return Ok(Receipt { reason: reason::RESULTS_REUSED.into(), ..stored });
            }
            Changed::Decided(Decision::RollForward(epoch)) => {
                let mine = epoch.job.uid == me.job.uid;
                match forward(&to, &epoch, &me.nonce, None)? {
                    Rolled::Committed(receipt) if mine => {
                        let (role, outcome) = (Role::Resolve, Outcome::RolledForward);
                        return Ok(Receipt { role, outcome, reason: "RolledForward".into(), ..*receipt });
                    }
                    Rolled::Committed(_) => say("another job's commit was finished"),
                    Rolled::Lost(why) => say(&format!("attempt {} is lost: {why}", epoch.attempt)),
                }
            }
            Changed::Decided(Decision::Refuse(refusal)) => return Err(to.refusal(refusal)),
            Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
            Changed::Written(_) | Changed::Decided(Decision::Holds) => break,
            Changed::Decided(other) => {
                return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
            }
        }
    }
    let left = to.keys(&staging(me.attempt, &me.pod_uid))?;
    sweep::staging(&to, left, None);
    Ok(Receipt::new(Role::Resolve, Outcome::Free, "nothing is committed, and no earlier attempt can commit any more"))
}
