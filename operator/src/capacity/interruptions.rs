//! How often offers were taken back lately: a count that halves every two hours.

use gpujob_crds::Market;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// The count halves in this time: shortages of GPUs last hours, not minutes and not days.
const HALF: SignedDuration = SignedDuration::from_hours(2);
/// Thousandths below which an offer is as good as one that was never taken: some nine hours after a single time.
const FORGOTTEN: i64 = 50;

/// Region, market, type and zone.
pub(super) type OfferKey = (String, Market, String, String);

/// Interruptions in thousandths, as of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decaying {
    pub(super) thousandths: i64,
    pub(super) at: Timestamp,
}

impl Decaying {
    /// What is left of it: halved for each whole half-life, and in a straight line between. Integers, so that every
    /// machine comes to the same plan.
    pub(super) fn left(&self, now: Timestamp) -> i64 {
        let passed = now.duration_since(self.at).as_secs().max(0);
        let halves = u32::try_from(passed / HALF.as_secs()).unwrap_or(u32::MAX).min(62);
        let whole = self.thousandths >> halves;
        whole - whole / 2 * (passed % HALF.as_secs()) / HALF.as_secs()
    }

    /// Whether it says nothing any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.left(now) < FORGOTTEN
    }
}

/// The memory of all offers.
#[derive(Debug, Default)]
pub(super) struct Interruptions(BTreeMap<OfferKey, Decaying>);

impl Interruptions {
    pub(super) fn add(&mut self, key: OfferKey, now: Timestamp) {
        let left = self.left(&key, now);
        self.0.insert(key, Decaying { thousandths: left + 1000, at: now });
        self.0.retain(|_, one| !one.is_over(now));
    }

    pub(super) fn left(&self, key: &OfferKey, now: Timestamp) -> i64 {
        self.0.get(key).map_or(0, |one| one.left(now))
    }

    /// Takes over what another replica knew, where that is more.
    pub(super) fn merge(&mut self, key: OfferKey, other: Decaying, now: Timestamp) {
        if other.left(now) > self.left(&key, now) {
            self.0.insert(key, other);
        }
    }

    pub(super) fn of_region<'a>(&'a self, region: &'a str) -> impl Iterator<Item = (&'a OfferKey, &'a Decaying)> {
        self.0.iter().filter(move |(key, _)| key.0 == region)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(hours: i64) -> Timestamp {
        Timestamp::from_second(hours * 3600).expect("time")
    }

    #[test]
    fn a_count_halves_every_two_hours_and_is_forgotten() {
        let one = Decaying { thousandths: 1000, at: at(0) };
        let left: Vec<i64> = [0, 1, 2, 3, 4, 8].iter().map(|h| one.left(at(*h))).collect();
        assert_eq!(left, [1000, 750, 500, 375, 250, 63 - 1]);
        assert!(!one.is_over(at(8)) && one.is_over(at(10)));
        assert_eq!(one.left(at(-1)), 1000, "a clock that stepped back forgets nothing");
    }

    #[test]
    fn interruptions_add_up() {
        let key = || ("r".to_owned(), Market::Spot, "g6.xlarge".to_owned(), "a".to_owned());
        let mut all = Interruptions::default();
        all.add(key(), at(0));
        all.add(key(), at(2));
        assert_eq!(all.left(&key(), at(2)), 1500);
        all.merge(key(), Decaying { thousandths: 9000, at: at(2) }, at(2));
        all.merge(key(), Decaying { thousandths: 10, at: at(2) }, at(2));
        assert_eq!(all.left(&key(), at(2)), 9000, "the graver of two memories holds");
    }
}
