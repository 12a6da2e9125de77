//! `commit`: waits until the attempt is sealed, passes the point of no return and makes its results visible.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::checkpoint;
use crate::epoch::{Decision, begin};
use crate::plan::staging;
use crate::progress::say;
use crate::receipt::{Ended, Outcome, Receipt, Role, Verdict, reason};

use super::destination::{Changed, Destination};
use super::roll::{Rolled, forward};
use super::{Context, Fault, sweep};

/// What the operator knows about the attempt's end.
pub struct Order<'a> {
    /// How main ended.
    pub verdict: Verdict,
    /// Main's log, if it is to be kept.
    pub log: Option<&'a Path>,
    /// How long to wait for the sidecar's seal.
    pub wait: Duration,
}

/// Commits the attempt. Repeatable: a second run finds it committed and says the same.
///
/// # Errors
/// `Revoked`, `NotSealed`, `StagedFileLost`, and the store's.
pub fn run(context: &Context, order: &Order<'_>) -> Result<Receipt, Fault> {
    let receipt = committing(context, order)?;
    // Whose verdict is stored counts, not this call's: a failed job's checkpoints are kept for whoever looks into it.
    if receipt.committed.map_or(order.verdict.outcome, |verdict| verdict.outcome) == Ended::Succeeded {
        checkpoint::remove(context);
    }
    Ok(receipt)
}

fn committing(context: &Context, order: &Order<'_>) -> Result<Receipt, Fault> {
    let Some(to) = context.destination()? else {
        return Ok(Receipt::new(Role::Commit, Outcome::Done, "the job keeps no results"));
    };
    let log = order.log.and_then(|path| match std::fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(e) => {
            // A log that is missing is no reason to withhold results.
            say(&format!("{}: {e}; main's log is not kept", path.display()));
            None
        }
    });
    let me = context.actor();
    let deadline = Instant::now() + order.wait;
    let mut pause = Duration::from_millis(100);
    let mut said = String::new();
    loop {
        match to.change(|found| begin(&me, found, order.verdict))? {
            Changed::Written(epoch) => return finish(&to, &epoch, &me.nonce, log.as_deref()),
            Changed::Decided(Decision::RollForward(epoch)) => {
                say("a commit had been begun: rolling it forward");
                return finish(&to, &epoch, &me.nonce, log.as_deref());
            }
            Changed::Decided(Decision::Committed(_)) => {
                // A commit that died between `committed` and its sweep left staging behind. This attempt's own folder
                // holds nobody else's.
                let left = to.keys(&staging(me.attempt, &me.pod_uid))?;
                sweep::staging(&to, left, None);
                return committed(&to, Role::Commit, Outcome::Committed);
            }
            Changed::Decided(Decision::Wait(why)) => {
                if Instant::now() >= deadline {
                    let message = format!("{why}, {} s after commit began to wait", order.wait.as_secs());
                    return Err(Fault::passing(reason::NOT_SEALED, message));
                }
                if said != why {
                    say(&format!("waiting: {why}"));
                    said = why;
                }
            }
            Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
            Changed::Decided(other) => {
                return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
            }
        }
        std::thread::sleep(pause.min(deadline.saturating_duration_since(Instant::now())));
        pause = (pause * 5 / 4).min(Duration::from_secs(2));
    }
}

fn finish(to: &Destination, epoch: &crate::epoch::Epoch, nonce: &str, log: Option<&[u8]>) -> Result<Receipt, Fault> {
    match forward(to, epoch, nonce, log)? {
        Rolled::Committed(receipt) => Ok(*receipt),
        Rolled::Lost(why) => Err(Fault::passing(reason::STAGED_FILE_LOST, format!("{why}: run the attempt again"))),
    }
}

/// The stored receipt of committed results, answered by `role`.
///
/// # Errors
/// The store's.
pub(super) fn committed(to: &Destination, role: Role, outcome: Outcome) -> Result<Receipt, Fault> {
    let Some(stored) = to.stored_receipt()? else {
        return Err(Fault::passing(reason::INTERNAL, format!("{} is committed but has no receipt", to.name())));
    };
    let reason = format!("{outcome:?}");
    Ok(Receipt { role, outcome, reason, ..stored })
}
