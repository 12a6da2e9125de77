//! Markets that move by themselves: prices and capacity changing at given times, as data.
//!
//! A line is `SECONDS TYPE ZONE MARKET price|capacity VALUE`, where `*` stands for any type, zone or market, `unlimited` for no
//! limit of capacity, and `#` begins a comment. Seconds count from when the trace begins to be followed.

use super::market::{Bazaar, Places};
use gpujob_crds::{Market, Price};
use std::time::Duration;

/// What becomes of the places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// They cost so much an hour.
    Price(Price),
    /// There can be so many instances at once, those that run included.
    Capacity(Option<u32>),
}

/// At this time, at these places, that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// From the beginning of the trace.
    pub at: Duration,
    /// Where.
    pub places: Places,
    /// What.
    pub change: Change,
}

impl Move {
    pub(super) fn apply(&self, bazaar: &mut Bazaar) {
        match self.change {
            Change::Price(price) => bazaar.reprice(&self.places, price),
            Change::Capacity(capacity) => bazaar.change(&self.places, |stall| stall.capacity = capacity),
        }
    }
}

/// How a market moves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(pub Vec<Move>);

/// Why a text is no trace.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("line {line}: {what}")]
pub struct NotATrace {
    line: usize,
    what: &'static str,
}

impl Trace {
    /// Every type sells out, zone by zone, and comes back after a quarter of an hour.
    pub const DROUGHT: &str = include_str!("traces/drought.trace");
    /// A zone that is the cheapest and never has anything for longer than a minute.
    pub const FLICKER: &str = include_str!("traces/flicker.trace");
    /// Spot prices rise above on-demand within the hour, and fall again.
    pub const SURGE: &str = include_str!("traces/surge.trace");
}

impl std::str::FromStr for Trace {
    type Err = NotATrace;

    fn from_str(text: &str) -> Result<Self, NotATrace> {
        let mut moves = vec![];
        for (number, line) in text.lines().enumerate() {
            let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
            if !words.is_empty() {
                moves.push(read(&words).map_err(|what| NotATrace { line: number + 1, what })?);
            }
        }
        Ok(Trace(moves))
    }
}

fn read(words: &[&str]) -> Result<Move, &'static str> {
    let &[at, instance_type, zone, market, what, value] = words else { return Err("needs six words") };
    let mut places = Places::of(instance_type).zone(zone);
    match market {
        "*" => {}
        "spot" => places = places.market(Market::Spot),
        "on-demand" => places = places.market(Market::OnDemand),
        _ => return Err("the market is spot, on-demand or *"),
    }
    let change = match (what, value) {
        ("price", value) => Change::Price(value.parse().map_err(|_| "the price is dollars, such as 1.20")?),
        ("capacity", "unlimited") => Change::Capacity(None),
        ("capacity", value) => Change::Capacity(Some(value.parse().map_err(|_| "the capacity is a number")?)),
        _ => return Err("moves are of price or capacity"),
    };
    Ok(Move { at: Duration::from_secs(at.parse().map_err(|_| "the time is whole seconds")?), places, change })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::catalog;
    use crate::cloud::fixture::{Buyer, cloud};
    use crate::cloud::market::Place;
    use gpujob_provider_core::ErrorClass;
    use tokio::time::sleep;

    #[test]
    fn our_traces_are_read_and_speak_of_what_is_sold() {
        let sold: Vec<Place> = catalog::table().iter().map(Place::of).collect();
        for text in [Trace::DROUGHT, Trace::FLICKER, Trace::SURGE] {
            let trace: Trace = text.parse().expect("a trace");
            assert!(trace.0.len() >= 3);
            assert!(trace.0.windows(2).all(|pair| pair[0].at <= pair[1].at), "in order of time");
            assert!(trace.0.iter().all(|m| sold.iter().any(|place| m.places.contain(place))), "{trace:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_market_moves_as_its_trace_says() {
        let cloud = cloud();
        let buyer = Buyer::new(&cloud).await;
        cloud.follow(&Trace::DROUGHT.parse().expect("a trace"));
        sleep(Duration::from_secs(121)).await;
        assert_eq!(buyer.buy("a", 9).await.expect_err("spot is sold out").class, ErrorClass::Capacity);
        sleep(Duration::from_secs(780)).await;
        let launched = buyer.buy("a", 9).await.expect("some is back");
        assert_eq!(launched.zone, "us-east-1c");
        cloud.follow(&Trace::SURGE.parse().expect("a trace"));
        sleep(Duration::from_secs(600)).await;
        let dear = cloud.market().into_iter().filter(|o| o.market == Market::Spot && o.price > o.on_demand_price);
        assert_eq!(dear.count(), 3 * 3, "three types in three zones cost more than on-demand");
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, line, what) in [
            ("# a\n1 g6.* * spot price", 2, "needs six words"),
            ("x g6.* * spot price 1", 1, "the time is whole seconds"),
            ("1 g6.* * gold price 1", 1, "the market is spot, on-demand or *"),
            ("1 g6.* * * price -", 1, "the price is dollars, such as 1.20"),
            ("1 g6.* * * capacity some", 1, "the capacity is a number"),
        ] {
            assert_eq!(text.parse::<Trace>(), Err(NotATrace { line, what }), "{text}");
        }
    }
}
