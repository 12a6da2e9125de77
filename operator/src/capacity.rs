//! What can be bought now, and what was refused lately. In memory: offers are asked for again after a restart.

use gpujob_crds::Market;
use gpujob_provider_core::{ErrorClass, Offer, Prepared, Refusal};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Mutex;

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
    pub offers: Vec<Offer>,
    /// When they were listed.
    pub listed: Timestamp,
}

/// What was refused: an offer, or with a quota everything of a family in a market.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Refused {
    region: String,
    market: Market,
    /// Type and zone, or the family alone for a quota.
    what: String,
}

/// A refusal and until when it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// The provider's code.
    pub code: String,
    /// Its class.
    pub class: ErrorClass,
    /// Not tried again before.
    pub until: Timestamp,
    /// How often in a row.
    count: u32,
}

/// Shared by pools (who list), nodes (who are refused) and the scheduler (who chooses).
#[derive(Debug, Default)]
pub struct Capacity {
    pools: Mutex<BTreeMap<String, PoolOffers>>,
    refused: Mutex<BTreeMap<Refused, Believed>>,
    blocked: Mutex<BTreeMap<String, Blocked>>,
    failed: Mutex<BTreeMap<String, FailedCheck>>,
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

const LONGEST: SignedDuration = SignedDuration::from_secs(960);

impl Capacity {
    /// The offers of this pool, if they were listed.
    #[must_use]
    pub fn offers(&self, pool: &str) -> Option<PoolOffers> {
        self.pools.lock().expect("no panic holds this lock").get(pool).cloned()
    }

    /// Replaces the offers of this pool.
    pub fn set_offers(&self, pool: &str, offers: PoolOffers) {
        self.pools.lock().expect("no panic holds this lock").insert(pool.to_owned(), offers);
    }

    /// Forgets a pool, and what was held against it: another of the same name starts afresh.
    pub fn forget_pool(&self, pool: &str) {
        self.pools.lock().expect("no panic holds this lock").remove(pool);
        self.failed.lock().expect("no panic holds this lock").remove(pool);
        self.unblock_pool(pool);
    }

    /// Remembers a failed check, or that the last one passed.
    pub fn checked(&self, pool: &str, failed: Option<FailedCheck>) {
        let mut all = self.failed.lock().expect("no panic holds this lock");
        match failed {
            Some(failed) => drop(all.insert(pool.to_owned(), failed)),
            None => drop(all.remove(pool)),
        }
    }

    /// The last check of this pool, if it failed.
    #[must_use]
    pub fn failed_check(&self, pool: &str) -> Option<FailedCheck> {
        self.failed.lock().expect("no panic holds this lock").get(pool).cloned()
    }

    /// Remembers refusals: 30 s after the first of an offer, doubling to 16 min; a quota speaks of its whole family.
    pub fn refused(&self, region: &str, refusals: &[Refusal], now: Timestamp) {
        let mut known = self.refused.lock().expect("no panic holds this lock");
        for refusal in refusals {
            let key = Refused {
                region: region.to_owned(),
                market: refusal.market,
                what: subject(&refusal.class, &refusal.instance_type, &refusal.zone),
            };
            // Old refusals say nothing about a row of them.
            let recent = known.get(&key).filter(|b| b.until.saturating_add(LONGEST).unwrap_or(b.until) > now);
            let count = recent.map_or(0, |b| b.count + 1);
            let first = SignedDuration::try_from(refusal.class.first_wait()).unwrap_or(LONGEST);
            let wait = first.saturating_mul(1 << count.min(5)).min(LONGEST);
            let believed = Believed {
                code: refusal.code.clone(),
                class: refusal.class.clone(),
                until: now.saturating_add(wait).unwrap_or(now),
                count,
            };
            known.insert(key, believed);
        }
    }

    /// Holds a pool back after an answer that trying again cannot change: 60 s, doubling to 16 min.
    pub fn block_pool(&self, pool: &str, error: &gpujob_provider_core::ProviderError, now: Timestamp) {
        let mut blocked = self.blocked.lock().expect("no panic holds this lock");
        let recent = blocked.get(pool).filter(|b| b.until.saturating_add(LONGEST).unwrap_or(b.until) > now);
        let count = recent.map_or(0, |b| b.count + 1);
        let wait = SignedDuration::from_secs(60).saturating_mul(1 << count.min(4)).min(LONGEST);
        let until = now.saturating_add(wait).unwrap_or(now);
        blocked.insert(pool.to_owned(), Blocked { reason: error.class.reason().to_owned(), message: error.message.clone(), until, count });
    }

    /// Why nothing is launched in this pool now, if so.
    #[must_use]
    pub fn blocked(&self, pool: &str, now: Timestamp) -> Option<Blocked> {
        self.blocked.lock().expect("no panic holds this lock").get(pool).filter(|b| b.until > now).cloned()
    }

    /// A launch of this pool went through, or its settings changed: nothing holds it back any more.
    pub fn unblock_pool(&self, pool: &str) {
        self.blocked.lock().expect("no panic holds this lock").remove(pool);
    }

    /// Forgets what was refused for this offer: it was just bought.
    pub fn bought(&self, region: &str, market: Market, instance_type: &str, zone: &str) {
        let mut known = self.refused.lock().expect("no panic holds this lock");
        for class in [ErrorClass::Capacity, ErrorClass::Quota] {
            known.remove(&Refused { region: region.to_owned(), market, what: subject(&class, instance_type, zone) });
        }
    }

    /// Why this offer should not be tried now, if so.
    #[must_use]
    pub fn refusal(&self, region: &str, offer: &Offer, now: Timestamp) -> Option<Believed> {
        let known = self.refused.lock().expect("no panic holds this lock");
        [ErrorClass::Capacity, ErrorClass::Quota]
            .iter()
            .filter_map(|class| {
                known.get(&Refused {
                    region: region.to_owned(),
                    market: offer.market,
                    what: subject(class, &offer.instance_type, &offer.zone),
                })
            })
            .find(|believed| believed.until > now)
            .cloned()
    }
}

/// What a refusal of this class speaks of.
fn subject(class: &ErrorClass, instance_type: &str, zone: &str) -> String {
    match class {
        // EC2 counts quotas by family letters (G and VT, P, ...) per region and market: no other zone or size helps.
        ErrorClass::Quota => instance_type.chars().take_while(char::is_ascii_alphabetic).take(1).collect(),
        _ => format!("{instance_type} {zone}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::Price;

    fn offer(instance_type: &str, zone: &str) -> Offer {
        Offer {
            price: Price::ZERO,
            instance_type: instance_type.into(),
            zone: zone.into(),
            market: Market::Spot,
            on_demand_price: Price::ZERO,
            gpus: 1,
            gpu_model: "L4".into(),
            gpu_memory_mib: 1,
            vcpus: 4,
            memory_mib: 1,
        }
    }

    fn refusal(class: ErrorClass) -> Refusal {
        Refusal { instance_type: "g6.xlarge".into(), zone: "a".into(), market: Market::Spot, code: "No".into(), class }
    }

    #[test]
    fn capacity_speaks_of_one_offer_and_quota_of_the_family() {
        let (capacity, t) = (Capacity::default(), Timestamp::from_second(1000).expect("time"));
        capacity.refused("r", &[refusal(ErrorClass::Capacity)], t);
        assert!(capacity.refusal("r", &offer("g6.xlarge", "a"), t).is_some());
        assert!(capacity.refusal("r", &offer("g6.xlarge", "b"), t).is_none());
        assert!(capacity.refusal("other", &offer("g6.xlarge", "a"), t).is_none());
        capacity.refused("r", &[refusal(ErrorClass::Quota)], t);
        assert!(capacity.refusal("r", &offer("g5.xlarge", "b"), t).is_some());
        assert!(capacity.refusal("r", &offer("p5.4xlarge", "b"), t).is_none());
    }

    #[test]
    fn belief_ends_grows_and_is_forgotten_on_success() {
        let capacity = Capacity::default();
        let at = |s: i64| Timestamp::from_second(s).expect("time");
        capacity.refused("r", &[refusal(ErrorClass::Capacity)], at(0));
        assert!(capacity.refusal("r", &offer("g6.xlarge", "a"), at(29)).is_some());
        assert!(capacity.refusal("r", &offer("g6.xlarge", "a"), at(31)).is_none());
        capacity.refused("r", &[refusal(ErrorClass::Capacity)], at(31));
        assert!(capacity.refusal("r", &offer("g6.xlarge", "a"), at(31 + 59)).is_some());
        capacity.bought("r", Market::Spot, "g6.xlarge", "a");
        assert!(capacity.refusal("r", &offer("g6.xlarge", "a"), at(32)).is_none());
    }
}
