//! What was refused, of what that speaks, and for how long it is believed.

use gpujob_crds::Market;
use gpujob_provider_core::{ErrorClass, Refusal};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// The longest that one refusal is believed. A row of them is remembered for as long again.
pub(super) const LONGEST: SignedDuration = SignedDuration::from_secs(960);

/// What a refusal speaks of.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// One offer: capacity and price. An empty zone: the provider named none, so it is all of them.
    Offer { region: String, market: Market, instance_type: String, zone: String },
    /// A quota: all types of a family in a market, in every zone.
    Family { region: String, market: Market, family: String },
    /// A full subnet: everything that this pool would place in the zone. Other pools may have other subnets.
    Subnet { pool: String, zone: String },
}

impl Subject {
    pub(super) fn of(class: &ErrorClass, pool: &str, region: &str, market: Market, instance_type: &str, zone: &str) -> Self {
        match class {
            ErrorClass::Quota => Subject::Family { region: region.to_owned(), market, family: family(instance_type, market) },
            ErrorClass::Addresses => Subject::Subnet { pool: pool.to_owned(), zone: zone.to_owned() },
            _ => Subject::Offer { region: region.to_owned(), market, instance_type: instance_type.to_owned(), zone: zone.to_owned() },
        }
    }

    /// Everything that, refused, would rule this offer out.
    pub(super) fn all_of(pool: &str, region: &str, market: Market, instance_type: &str, zone: &str) -> [Self; 4] {
        let of = |class: &ErrorClass, zone: &str| Self::of(class, pool, region, market, instance_type, zone);
        [of(&ErrorClass::Quota, zone), of(&ErrorClass::Addresses, zone), of(&ErrorClass::Capacity, zone), of(&ErrorClass::Capacity, "")]
    }
}

/// What a quota counts together. EC2: G and VT are one quota; P is one on-demand, and on spot P5 and later have their own.
/// Source: EC2 "Spot Instance quotas" and "On-Demand Instance quotas".
pub(super) fn family(instance_type: &str, market: Market) -> String {
    let name = instance_type.split('.').next().unwrap_or_default();
    match (name.chars().next(), market) {
        (Some('g' | 'v'), _) => "g".to_owned(),
        (Some('p'), Market::Spot) => match name.chars().nth(1) {
            Some('2' | '3' | '4') => "p".to_owned(),
            Some(digit) => format!("p{digit}"),
            None => "p".to_owned(),
        },
        (Some(letter), _) => letter.to_string(),
        (None, _) => String::new(),
    }
}

/// A refusal and until when it is believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// The provider's code.
    pub code: String,
    /// Its class.
    pub class: ErrorClass,
    /// For people, where they can do something: which quota, and how to have more.
    pub message: String,
    /// Not tried again before.
    pub until: Timestamp,
    /// How often in a row before this time.
    pub(super) count: u32,
    /// The pool that was told so: its status keeps it.
    pub(super) pool: String,
}

impl Believed {
    /// Whether it says nothing any more, not even of a row.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until.saturating_add(LONGEST).unwrap_or(self.until) <= now
    }
}

/// The memory of all pools.
#[derive(Debug, Default)]
pub(super) struct Refusals(BTreeMap<Subject, Believed>);

impl Refusals {
    /// Believes these: as long as their class says the first time, doubled with each in a row.
    pub(super) fn add(&mut self, pool: &str, region: &str, refusals: &[Refusal], said: &str, now: Timestamp) {
        for refusal in refusals {
            let subject = Subject::of(&refusal.class, pool, region, refusal.market, &refusal.instance_type, &refusal.zone);
            // Old refusals say nothing about a row of them. One that is still believed was tried all the same by a request
            // of the same moment: that is no row either, or a burst of jobs would close an offer for a quarter of an hour.
            let known = self.0.get(&subject).filter(|b| !b.is_over(now));
            let count = known.map_or(0, |b| if b.until > now { b.count } else { b.count + 1 });
            let first = SignedDuration::try_from(refusal.class.first_wait()).unwrap_or(LONGEST);
            let wait = first.saturating_mul(1 << count.min(5)).min(LONGEST);
            let until = now.saturating_add(wait).unwrap_or(now).max(known.map_or(now, |b| b.until));
            let message = if matches!(refusal.class, ErrorClass::Quota | ErrorClass::Addresses) { said } else { "" };
            let (code, class) = (refusal.code.clone(), refusal.class.clone());
            self.0.insert(subject, Believed { code, class, message: message.to_owned(), until, count, pool: pool.to_owned() });
        }
        self.0.retain(|_, b| !b.is_over(now));
    }

    /// This offer was just bought: nothing of what ruled it out holds.
    pub(super) fn bought(&mut self, pool: &str, region: &str, market: Market, instance_type: &str, zone: &str) {
        for subject in Subject::all_of(pool, region, market, instance_type, zone) {
            self.0.remove(&subject);
        }
    }

    /// The refusal that rules this offer out the longest, and how many times in a row it was refused before, believed or not.
    pub(super) fn find(&self, subjects: &[Subject], now: Timestamp) -> (Option<&Believed>, u32) {
        let known = || subjects.iter().filter_map(|s| self.0.get(s)).filter(|b| !b.is_over(now));
        (known().filter(|b| b.until > now).max_by_key(|b| b.until), known().map(|b| b.count + 1).max().unwrap_or(0))
    }

    /// Takes over what another replica knew, where that holds longer.
    pub(super) fn merge(&mut self, subject: Subject, other: Believed) {
        if self.0.get(&subject).is_none_or(|mine| mine.until < other.until) {
            self.0.insert(subject, other);
        }
    }

    pub(super) fn remove(&mut self, subject: &Subject) {
        self.0.remove(subject);
    }

    pub(super) fn forget_pool(&mut self, pool: &str) {
        self.0.retain(|subject, _| !matches!(subject, Subject::Subnet { pool: of, .. } if of == pool));
    }

    pub(super) fn of_pool<'a>(&'a self, pool: &'a str) -> impl Iterator<Item = (&'a Subject, &'a Believed)> {
        self.0.iter().filter(move |(_, b)| b.pool == pool)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_those_that_quotas_count() {
        for (instance_type, market, expected) in [
            ("g6.xlarge", Market::Spot, "g"),
            ("gr6.4xlarge", Market::OnDemand, "g"),
            ("vt1.3xlarge", Market::Spot, "g"),
            ("p3.2xlarge", Market::Spot, "p"),
            ("p4d.24xlarge", Market::Spot, "p"),
            ("p5.48xlarge", Market::Spot, "p5"),
            ("p5en.48xlarge", Market::Spot, "p5"),
            ("p6-b200.48xlarge", Market::Spot, "p6"),
            ("p5.48xlarge", Market::OnDemand, "p"),
            ("p4d.24xlarge", Market::OnDemand, "p"),
            ("trn1.2xlarge", Market::Spot, "t"),
            ("", Market::Spot, ""),
        ] {
            assert_eq!(family(instance_type, market), expected, "{instance_type} {market}");
        }
    }
}
