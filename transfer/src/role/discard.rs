//! `discard`: an attempt's results are not wanted. Its staging goes, and it can never commit.

use crate::checkpoint;
use crate::epoch::{Decision, revoke};
use crate::plan::{STAGING, staging};
use crate::receipt::{Outcome, Receipt, Role, reason};

use super::commit::committed;
use super::destination::Changed;
use super::roll::{Rolled, forward};
use super::{Context, Fault, sweep};

/// Throws the attempt's staged results away. With `release` the job gives up the destination as well, and with it what any of its
/// attempts had staged. With `forget` its checkpoints go too: those of a job that failed are kept for whoever looks into it.
///
/// A commit that has been begun is past the point of no return: it is finished instead, and the outcome says so.
///
/// # Errors
/// The store's.
pub fn run(context: &Context, release: bool, forget: bool) -> Result<Receipt, Fault> {
    let receipt = discarded(context, release)?;
    if forget {
        checkpoint::remove(context);
    }
    Ok(receipt)
}

fn discarded(context: &Context, release: bool) -> Result<Receipt, Fault> {
    let Some(to) = context.destination()? else {
        return Ok(Receipt::new(Role::Discard, Outcome::Done, "the job keeps no results"));
    };
    let me = context.actor();
    let own = staging(me.attempt, &me.pod_uid);
    let keys = loop {
        // Listed while the destination is still the job's: a moment after it is given up, somebody else may stage there.
        let before = if release { to.keys(STAGING)? } else { vec![] };
        match to.change(|found| revoke(&me, found, release))? {
            Changed::Decided(Decision::Committed(_)) => return committed(&to, Role::Discard, Outcome::Committed),
            Changed::Decided(Decision::RollForward(epoch)) => {
                if let Rolled::Committed(receipt) = forward(&to, &epoch, &me.nonce, None)? {
                    let (role, outcome) = (Role::Discard, Outcome::RolledForward);
                    return Ok(Receipt { role, outcome, reason: "RolledForward".into(), ..*receipt });
                }
                // A staged file was gone for good: nothing is committed, and the destination can be given up.
            }
            Changed::Written(_) if release => break before,
            Changed::Written(_) | Changed::Decided(Decision::Holds) => break to.keys(&own)?,
            Changed::Decided(other) => {
                return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
            }
        }
    };
    let files = keys.len() as u64;
    sweep::staging(&to, keys, None);
    sweep::probes(&to);
    let message = format!("attempt {} can not commit; {files} staging objects removed", me.attempt);
    Ok(Receipt::new(Role::Discard, Outcome::Discarded, message))
}
