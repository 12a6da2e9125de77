//! What can be bought now, what was refused lately, and what was taken back. In memory, and in each pool's status
//! ([`gpujob_crds::pool::Remembered`]): a restarted operator knows what the one before was told.
//!
//! A refusal speaks of one offer (capacity, price), of a family in a market (quota) or of a pool's subnet (addresses); an
//! answer that no offer changes holds back the whole pool.

mod interruptions;
mod refusals;
mod remembered;

use gpujob_crds::Market;
use gpujob_provider_core::{Offer, Prepared, Refusal};
use interruptions::Interruptions;
use jiff::{SignedDuration, Timestamp};
use refusals::{LONGEST, Refusals, Subject};
use remembered::Synced;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

pub use refusals::Believed;

/// The offers of one pool, as its provider last listed them.
#[derive(Clone, Debug)]
pub struct PoolOffers {
    /// The pool's UID: a name may be used again.
    pub uid: String,
    /// The generation of the pool's spec that they were listed for.
    pub generation: i64,
    /// What the provider made of the settings.
    pub prepared: Prepared,
    /// Cheapest first.
    pub offers: Arc<Vec<Offer>>,
    /// When they were listed.
    pub listed: Timestamp,
}

/// The last check of a pool's settings, when it failed.
#[derive(Clone, Debug)]
pub struct FailedCheck {
    /// The pool's UID.
    pub uid: String,
    /// The generation that was checked.
    pub generation: i64,
    /// What the provider said.
    pub error: gpujob_provider_core::ProviderError,
    /// Not asked again before.
    pub until: Timestamp,
}

/// A pool whose launches are refused for what they are: nothing is sent until a person has had time to act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// One CamelCase word.
    pub reason: String,
    /// The provider's words.
    pub message: String,
    /// Not tried again before.
    pub until: Timestamp,
    count: u32,
}

/// What is remembered of one offer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Why it should not be tried now, if so.
    pub refused: Option<Believed>,
    /// How many times in a row it was refused lately, whether that is still believed or not.
    pub row: u32,
    /// How often it was taken back lately, in thousandths of an interruption: see [`Capacity::interrupted`].
    pub interruptions: i64,
}

/// Shared by pools (who list), nodes (who are refused and taken back) and the scheduler (who chooses).
#[derive(Debug, Default)]
pub struct Capacity(Mutex<Parts>);

#[derive(Debug, Default)]
struct Parts {
    pools: BTreeMap<String, PoolOffers>,
    failed: BTreeMap<String, FailedCheck>,
    blocked: BTreeMap<String, Blocked>,
    refusals: Refusals,
    interruptions: Interruptions,
    synced: BTreeMap<String, Synced>,
}

impl Capacity {
    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.0.lock().expect("no panic holds this lock")
    }

    /// The offers of this pool, if they were listed.
    #[must_use]
    pub fn offers(&self, pool: &str) -> Option<PoolOffers> {
        self.lock().pools.get(pool).cloned()
    }

    /// Replaces the offers of this pool.
    pub fn set_offers(&self, pool: &str, offers: PoolOffers) {
        self.lock().pools.insert(pool.to_owned(), offers);
    }

    /// Forgets a pool, and what was held against it: another of the same name starts afresh.
    pub fn forget_pool(&self, pool: &str) {
        let mut parts = self.lock();
        parts.pools.remove(pool);
        parts.failed.remove(pool);
        parts.blocked.remove(pool);
        parts.synced.remove(pool);
        parts.refusals.forget_pool(pool);
    }

    /// Remembers a failed check, or that the last one passed.
    pub fn checked(&self, pool: &str, failed: Option<FailedCheck>) {
        let mut parts = self.lock();
        match failed {
            Some(failed) => drop(parts.failed.insert(pool.to_owned(), failed)),
            None => drop(parts.failed.remove(pool)),
        }
    }

    /// The last check of this pool, if it failed.
    #[must_use]
    pub fn failed_check(&self, pool: &str) -> Option<FailedCheck> {
        self.lock().failed.get(pool).cloned()
    }

    /// Remembers refusals of a request of this pool: 30 s after the first of an offer, doubling to 16 min; a quota speaks of its
    /// whole family, a full subnet of its zone. `said` are the provider's words about the request: they name the quota.
    pub fn refused(&self, pool: &str, region: &str, refusals: &[Refusal], said: &str, now: Timestamp) {
        self.lock().refusals.add(pool, region, refusals, said, now);
    }

    /// An instance of this offer was taken back, or is about to be: for some hours it is worth less. To be called once for
    /// each instance, when its notice is first recorded.
    pub fn interrupted(&self, region: &str, market: Market, instance_type: &str, zone: &str, now: Timestamp) {
        self.lock().interruptions.add((region.to_owned(), market, instance_type.to_owned(), zone.to_owned()), now);
    }

    /// Holds a pool back after an answer that trying again cannot change: 60 s, doubling to 16 min.
    pub fn block_pool(&self, pool: &str, error: &gpujob_provider_core::ProviderError, now: Timestamp) {
        let mut parts = self.lock();
        let recent = parts.blocked.get(pool).filter(|b| b.until.saturating_add(LONGEST).unwrap_or(b.until) > now);
        // Answers of one moment are no row: launches that were under way together are refused together.
        let count = recent.map_or(0, |b| if b.until > now { b.count } else { b.count + 1 });
        let wait = SignedDuration::from_secs(60).saturating_mul(1 << count.min(4)).min(LONGEST);
        let until = now.saturating_add(wait).unwrap_or(now);
        let blocked = Blocked { reason: error.class.reason().to_owned(), message: error.message.clone(), until, count };
        parts.blocked.insert(pool.to_owned(), blocked);
    }

    /// Why nothing is launched in this pool now, if so.
    #[must_use]
    pub fn blocked(&self, pool: &str, now: Timestamp) -> Option<Blocked> {
        self.lock().blocked.get(pool).filter(|b| b.until > now).cloned()
    }

    /// Why launches of this pool were refused last, if none has gone through since: for a while longer than nothing is tried, so that what
    /// is said of the pool does not change with every try.
    #[must_use]
    pub fn launches_refused(&self, pool: &str, now: Timestamp) -> Option<Blocked> {
        self.lock().blocked.get(pool).filter(|b| b.until.saturating_add(LONGEST).unwrap_or(b.until) > now).cloned()
    }

    /// A launch of this pool went through, or its settings changed: nothing holds it back any more.
    pub fn unblock_pool(&self, pool: &str) {
        self.lock().blocked.remove(pool);
    }

    /// Forgets what was refused for this offer: it was just bought.
    pub fn bought(&self, pool: &str, region: &str, market: Market, instance_type: &str, zone: &str) {
        self.lock().refusals.bought(pool, region, market, instance_type, zone);
    }

    /// What is remembered of each of these offers of a pool, in their order.
    #[must_use]
    pub fn records(&self, pool: &str, region: &str, offers: &[Offer], now: Timestamp) -> Vec<Record> {
        let parts = self.lock();
        if parts.refusals.is_empty() && parts.interruptions.is_empty() {
            return vec![Record::default(); offers.len()];
        }
        let record = |o: &Offer| {
            let (refused, row) = parts.refusals.find(&Subject::all_of(pool, region, o.market, &o.instance_type, &o.zone), now);
            let key = (region.to_owned(), o.market, o.instance_type.clone(), o.zone.clone());
            Record { refused: refused.cloned(), row, interruptions: parts.interruptions.left(&key, now) }
        };
        offers.iter().map(record).collect()
    }
}

#[cfg(test)]
#[path = "capacity_tests.rs"]
mod tests;
