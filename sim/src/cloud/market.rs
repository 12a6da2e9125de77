//! Prices, capacity and quotas: what decides whether an offer is sold.

use super::catalog;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::Offer;
use std::collections::BTreeMap;

/// Type x zone x market.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The market.
    pub market: Market,
}

impl Place {
    /// Where an offer is sold.
    #[must_use]
    pub fn of(offer: &Offer) -> Self {
        Place { instance_type: offer.instance_type.clone(), zone: offer.zone.clone(), market: offer.market }
    }
}

/// Some places: by type and zone, where `*` stands for anything, and market, where nothing stands for both.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    instance_type: String,
    zone: String,
    market: Option<Market>,
}

impl Places {
    /// All of them.
    #[must_use]
    pub fn all() -> Self {
        Places { instance_type: "*".into(), zone: "*".into(), market: None }
    }

    /// Of one type or family, such as `g6.*`.
    #[must_use]
    pub fn of(instance_type: &str) -> Self {
        Places { instance_type: instance_type.into(), ..Places::all() }
    }

    /// Those in one zone.
    #[must_use]
    pub fn zone(self, zone: &str) -> Self {
        Places { zone: zone.into(), ..self }
    }

    /// Those of one market.
    #[must_use]
    pub fn market(self, market: Market) -> Self {
        Places { market: Some(market), ..self }
    }

    /// Whether `place` is one of them.
    #[must_use]
    pub fn contain(&self, place: &Place) -> bool {
        catalog::fits(&self.instance_type, &place.instance_type)
            && catalog::fits(&self.zone, &place.zone)
            && self.market.is_none_or(|market| market == place.market)
    }
}

impl From<&Offer> for Places {
    fn from(offer: &Offer) -> Self {
        Places { instance_type: offer.instance_type.clone(), zone: offer.zone.clone(), market: Some(offer.market) }
    }
}

/// What is sold at one place.
#[derive(Clone, Debug)]
pub(super) struct Stall {
    pub(super) offer: Offer,
    /// How many instances there can be at once; unlimited when none.
    pub(super) capacity: Option<u32>,
    /// How many there are.
    pub(super) used: u32,
    /// Refused with this code whatever there is, such as `Unsupported`.
    pub(super) closed: Option<String>,
}

impl Stall {
    /// Whether one more can be had.
    pub(super) fn has_room(&self) -> bool {
        self.closed.is_none() && self.capacity.is_none_or(|capacity| self.used < capacity)
    }

    /// How many more can be had.
    pub(super) fn room(&self) -> u32 {
        self.capacity.map_or(u32::MAX, |capacity| capacity.saturating_sub(self.used))
    }
}

/// All that is sold.
#[derive(Clone, Debug)]
pub(super) struct Bazaar {
    pub(super) stalls: BTreeMap<Place, Stall>,
    /// vCPUs that the account may run, by the family's letter and market.
    pub(super) quotas: BTreeMap<(char, Market), i32>,
}

impl Bazaar {
    pub(super) fn new() -> Self {
        let stall = |offer: Offer| (Place::of(&offer), Stall { offer, capacity: None, used: 0, closed: None });
        Bazaar { stalls: catalog::table().into_iter().map(stall).collect(), quotas: BTreeMap::new() }
    }

    pub(super) fn change(&mut self, places: &Places, change: impl Fn(&mut Stall)) {
        self.stalls.iter_mut().filter(|(place, _)| places.contain(place)).for_each(|(_, stall)| change(stall));
    }

    /// Sets a price. An on-demand price is the same in every market's view of the type.
    pub(super) fn reprice(&mut self, places: &Places, price: Price) {
        self.change(places, |stall| {
            stall.offer.price = price;
            if stall.offer.market == Market::OnDemand {
                stall.offer.on_demand_price = price;
            }
        });
    }

    /// vCPUs in use of a family in a market: what its quota counts. Dying instances count until they are gone.
    fn vcpus(&self, family: char, market: Market) -> i32 {
        let counted = self.stalls.iter().filter(|(place, _)| place.market == market && place.instance_type.starts_with(family));
        counted.map(|(_, stall)| stall.offer.vcpus * i32::try_from(stall.used).unwrap_or(i32::MAX)).sum()
    }

    /// Why one instance cannot be had at `place` for at most `limit`: EC2's code. Nothing when it can.
    pub(super) fn refusal(&self, place: &Place, limit: Option<Price>) -> Option<String> {
        let code = |code: &str| Some(code.to_owned());
        let Some(stall) = self.stalls.get(place) else { return code("InvalidFleetConfiguration") };
        let family = place.instance_type.chars().next().unwrap_or_default();
        let quota = self.quotas.get(&(family, place.market)).copied().unwrap_or(i32::MAX);
        if stall.closed.is_some() {
            stall.closed.clone()
        } else if limit.is_some_and(|limit| stall.offer.price > limit) {
            code(if place.market == Market::Spot { "SpotMaxPriceTooLow" } else { "UnfulfillableCapacity" })
        } else if self.vcpus(family, place.market).saturating_add(stall.offer.vcpus) > quota {
            code(if place.market == Market::Spot { "MaxSpotInstanceCountExceeded" } else { "VcpuLimitExceeded" })
        } else if !stall.has_room() {
            code("InsufficientInstanceCapacity")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(instance_type: &str, market: Market) -> Place {
        Place { instance_type: instance_type.into(), zone: "us-east-1a".into(), market }
    }

    fn take(bazaar: &mut Bazaar, place: &Place) {
        bazaar.stalls.get_mut(place).expect("sold").used += 1;
    }

    #[test]
    fn each_limit_has_its_code() {
        let (spot, mut bazaar) = (place("g6.xlarge", Market::Spot), Bazaar::new());
        assert_eq!(bazaar.refusal(&spot, None), None);
        assert_eq!(bazaar.refusal(&spot, Some(Price::from_micros(1))).as_deref(), Some("SpotMaxPriceTooLow"));
        bazaar.change(&Places::of("g6.*").market(Market::Spot), |stall| stall.capacity = Some(1));
        take(&mut bazaar, &spot);
        assert_eq!(bazaar.refusal(&spot, None).as_deref(), Some("InsufficientInstanceCapacity"));
        assert_eq!(bazaar.refusal(&Place { zone: "us-east-1b".into(), ..spot.clone() }, None), None, "another zone");
        assert_eq!(bazaar.refusal(&place("g6.xlarge", Market::OnDemand), None), None, "another market");
        bazaar.change(&Places::all(), |stall| stall.closed = Some("Unsupported".into()));
        assert_eq!(bazaar.refusal(&spot, None).as_deref(), Some("Unsupported"));
        assert_eq!(bazaar.refusal(&place("m7.large", Market::Spot), None).as_deref(), Some("InvalidFleetConfiguration"));
    }

    #[test]
    fn a_quota_counts_a_family_in_a_market_wherever_it_runs() {
        let mut bazaar = Bazaar::new();
        bazaar.quotas.insert(('g', Market::Spot), 8);
        take(&mut bazaar, &place("g4dn.xlarge", Market::Spot));
        assert_eq!(bazaar.refusal(&place("g6.xlarge", Market::Spot), None), None, "4 + 4");
        let elsewhere = Place { zone: "us-east-1c".into(), ..place("g6.2xlarge", Market::Spot) };
        assert_eq!(bazaar.refusal(&elsewhere, None).as_deref(), Some("MaxSpotInstanceCountExceeded"), "4 + 8");
        assert_eq!(bazaar.refusal(&place("g6.2xlarge", Market::OnDemand), None), None);
        assert_eq!(bazaar.refusal(&place("p4d.24xlarge", Market::Spot), None), None);
    }

    #[test]
    fn an_on_demand_price_is_known_to_both_markets() {
        let mut bazaar = Bazaar::new();
        bazaar.reprice(&Places::of("g6.xlarge").market(Market::Spot), Price::from_micros(5));
        assert_eq!(bazaar.stalls[&place("g6.xlarge", Market::Spot)].offer.price.micros(), 5);
        assert_eq!(bazaar.stalls[&place("g6.xlarge", Market::OnDemand)].offer.price.micros(), 804_800);
    }
}
