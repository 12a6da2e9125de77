//! A destination that is held by a job which is gone: deleted by force, or with a store that could not be told in time. Nobody else will
//! give it back. The UID goes on record first; what asks after that tells the store so, and the claim is this job's.
//!
//! It concerns uncommitted claims only: a begun commit is rolled forward whoever began it, and then the destination is not empty.

use super::draft::Draft;
use super::ending;
use crate::job::next::UNRESOLVED;
use gpujob_transfer::receipt::Receipt;

/// Why an attempt ended whose successor takes the destination over.
pub(super) const REASON: &str = "DestinationAbandoned";
/// Most UIDs on record: each was met at the destination, and one that was taken over is not met again.
const KEPT: usize = 8;

/// Puts the holder on record if it is gone. `Some`: its UID.
pub(super) fn noted(d: &mut Draft<'_>, r: &Receipt) -> Option<String> {
    let uid = d.world.abandoned_by(r)?;
    let list = &mut d.status.abandoned;
    if !list.contains(&uid) {
        list.push(uid.clone());
        let old = list.len().saturating_sub(KEPT);
        list.drain(..old);
    }
    Some(uid)
}

/// The open attempt's claim was refused for such a holder: the next attempt takes it over. It has claimed nothing itself, so there is
/// nothing to ask the store. False: this is no such refusal, or taking over has been tried and was refused.
pub(super) fn instead_of_failure(d: &mut Draft<'_>, r: &Receipt) -> bool {
    let before = d.recorded.attempts.iter().rev().nth(1).and_then(|a| a.reason.clone());
    let known = d.recorded.abandoned.clone();
    let Some(uid) = noted(d, r) else { return false };
    if known.contains(&uid) && before.as_deref() == Some(REASON) {
        return false;
    }
    if let Some(open) = d.open_mut() {
        open.storage = Some(UNRESOLVED.into());
    }
    let holder = r.holder.as_ref().map_or("", |h| h.job.as_str());
    ending::interrupt(d, REASON, &format!("The destination was held by job {holder} (uid {uid}), which is gone: it is taken over."));
    true
}
