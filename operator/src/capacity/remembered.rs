//! The memory as a pool's status keeps it, so that a restarted operator, or another replica, need not ask again.

use super::interruptions::Decaying;
use super::refusals::{Believed, LONGEST, Subject};
use super::{Blocked, Capacity, Parts};
use gpujob_crds::Market;
use gpujob_crds::pool::Remembered;
use gpujob_provider_core::ErrorClass;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::BTreeSet;

/// The most that one status holds. Blocks and quotas first, then what holds longest.
const MOST: usize = 64;
/// The most of the provider's words.
const WORDS: usize = 512;
const BLOCKED: &str = "PoolBlocked";
const INTERRUPTED: &str = "Interrupted";

/// What was taken over from a pool's status.
#[derive(Debug, Default)]
pub(super) struct Synced {
    subjects: BTreeSet<Subject>,
    /// Since then this process leads, and its own memory is the truth.
    leads: bool,
}

impl Capacity {
    /// What this pool's status should say of the memory. `kept` is what it says now, and stays to the byte while it means the
    /// same: what has only grown old is dropped with the next write and is no reason for one.
    #[must_use]
    pub fn remembered(&self, pool: &str, region: &str, kept: &[Remembered], now: Timestamp) -> Vec<Remembered> {
        let parts = self.lock();
        let mut all: Vec<Remembered> = parts.refusals.of_pool(pool).map(|(subject, b)| refusal(subject, b)).collect();
        let sold = |market: Market, instance_type: &str, zone: &str| {
            let offers = parts.pools.get(pool).map(|p| p.offers.as_slice()).unwrap_or_default();
            offers.iter().any(|o| o.market == market && o.instance_type == instance_type && o.zone == zone)
        };
        all.extend(parts.interruptions.of_region(region).filter(|((_, m, t, z), _)| sold(*m, t, z)).map(|((_, market, t, z), one)| {
            Remembered {
                reason: INTERRUPTED.into(),
                market: Some(*market),
                instance_type: Some(t.clone()),
                zone: Some(z.clone()),
                code: None,
                message: None,
                count: count(one.thousandths),
                time: whole(one.at),
            }
        }));
        all.extend(parts.blocked.get(pool).map(|b| Remembered {
            reason: BLOCKED.into(),
            market: None,
            instance_type: None,
            zone: None,
            code: Some(b.reason.clone()),
            message: Some(cut(&b.message)),
            count: count(b.count.into()),
            time: whole(b.until),
        }));
        drop(parts);
        all.retain(|one| !is_over(one, now));
        all.sort_by(|a, b| (rank(a), &b.time.0, identity(a)).cmp(&(rank(b), &a.time.0, identity(b))));
        all.truncate(MOST);
        all.sort_by(|a, b| identity(a).cmp(&identity(b)));
        let still: Vec<&Remembered> = kept.iter().filter(|one| !is_over(one, now)).collect();
        if still.len() == all.len() && still.iter().zip(&all).all(|(a, b)| *a == b) { kept.to_vec() } else { all }
    }

    /// Takes over what a pool's status says. A follower is told all along, and forgets what the leader forgot; who begins to
    /// lead takes over the last word of the one before, and after that knows better than the status.
    pub fn restore(&self, pool: &str, region: &str, said: &[Remembered], leads: bool, now: Timestamp) {
        let mut parts = self.lock();
        let before = parts.synced.remove(pool).unwrap_or_default();
        if before.leads && leads {
            parts.synced.insert(pool.to_owned(), before);
            return;
        }
        let mut subjects = BTreeSet::new();
        for one in said.iter().filter(|one| !is_over(one, now)) {
            subjects.extend(take(&mut parts, pool, region, one, now));
        }
        for gone in before.subjects.difference(&subjects) {
            parts.refusals.remove(gone);
        }
        parts.synced.insert(pool.to_owned(), Synced { subjects, leads });
    }
}

fn take(parts: &mut Parts, pool: &str, region: &str, one: &Remembered, now: Timestamp) -> Option<Subject> {
    let times = u32::try_from(one.count).unwrap_or(0);
    let (instance_type, zone) = (one.instance_type.clone().unwrap_or_default(), one.zone.clone().unwrap_or_default());
    match (one.reason.as_str(), one.market) {
        (BLOCKED, _) => {
            let (reason, message) = (one.code.clone().unwrap_or_default(), one.message.clone().unwrap_or_default());
            let blocked = Blocked { reason, message, until: one.time.0, count: times };
            if parts.blocked.get(pool).is_none_or(|mine| mine.until < blocked.until) {
                parts.blocked.insert(pool.to_owned(), blocked);
            }
            None
        }
        (INTERRUPTED, Some(market)) => {
            let left = Decaying { thousandths: one.count.into(), at: one.time.0 };
            parts.interruptions.merge((region.to_owned(), market, instance_type, zone), left, now);
            None
        }
        (reason, Some(market)) => {
            let class = class(reason)?;
            let subject = match class {
                ErrorClass::Quota => Subject::Family { region: region.to_owned(), market, family: instance_type },
                _ => Subject::of(&class, pool, region, market, &instance_type, &zone),
            };
            let believed = Believed {
                code: one.code.clone().unwrap_or_default(),
                class,
                message: one.message.clone().unwrap_or_default(),
                until: one.time.0,
                count: times,
                pool: pool.to_owned(),
            };
            parts.refusals.merge(subject.clone(), believed);
            Some(subject)
        }
        (_, None) => None,
    }
}

fn refusal(subject: &Subject, b: &Believed) -> Remembered {
    let (market, instance_type, zone) = match subject {
        Subject::Offer { market, instance_type, zone, .. } => (*market, Some(instance_type.clone()), Some(zone.clone())),
        Subject::Family { market, family, .. } => (*market, Some(family.clone()), None),
        // Both markets use the same addresses: one of them stands for both.
        Subject::Subnet { zone, .. } => (Market::Spot, None, Some(zone.clone())),
    };
    Remembered {
        reason: b.class.reason().to_owned(),
        market: Some(market),
        instance_type,
        zone,
        code: Some(b.code.clone()),
        message: Some(b.message.as_str()).filter(|m| !m.is_empty()).map(cut),
        count: count(b.count.into()),
        time: whole(b.until),
    }
}

/// Believed refusals that can stand in a status. Others speak of a moment.
fn class(reason: &str) -> Option<ErrorClass> {
    let known = [
        ErrorClass::Capacity,
        ErrorClass::Price,
        ErrorClass::Quota,
        ErrorClass::Addresses,
        ErrorClass::Invalid,
        ErrorClass::Unauthorized,
        ErrorClass::Throttled,
        ErrorClass::NotFound,
    ];
    known.into_iter().find(|class| class.reason() == reason)
}

fn is_over(one: &Remembered, now: Timestamp) -> bool {
    if one.reason == INTERRUPTED {
        return Decaying { thousandths: one.count.into(), at: one.time.0 }.is_over(now);
    }
    // A row of refusals is remembered for as long as the longest of them.
    one.time.0.saturating_add(LONGEST).unwrap_or(one.time.0) <= now
}

fn rank(one: &Remembered) -> u8 {
    match one.reason.as_str() {
        BLOCKED => 0,
        reason if reason == ErrorClass::Quota.reason() || reason == ErrorClass::Addresses.reason() => 1,
        INTERRUPTED => 3,
        _ => 2,
    }
}

fn identity(one: &Remembered) -> (&str, Option<Market>, Option<&str>, Option<&str>) {
    (&one.reason, one.market, one.instance_type.as_deref(), one.zone.as_deref())
}

/// As the API writes times, rounded up: a refusal is never forgotten early, and what is read equals what was written.
fn whole(at: Timestamp) -> Time {
    let up = if at.subsec_nanosecond() == 0 { at } else { at.saturating_add(SignedDuration::from_secs(1)).unwrap_or(at) };
    Time(Timestamp::from_second(up.as_second()).unwrap_or(at))
}

fn count(n: i64) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

fn cut(text: &str) -> String {
    let end = (0..=WORDS.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
#[path = "remembered_tests.rs"]
mod tests;
