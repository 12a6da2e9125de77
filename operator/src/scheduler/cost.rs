//! What an hour of useful work on an offer is expected to cost. List prices alone would buy the same offer again and again
//! while it is taken back every half hour.

use crate::capacity::Record;
use gpujob_crds::{Market, Price};

/// What one interruption costs in minutes that are paid for and give nothing: half an hour of work since the last result that
/// counts, and ten minutes until another instance has booted, pulled and started.
const LOST_MINUTES: i64 = 40;
/// A count that halves every two hours stands for this many thousandths of an interruption an hour: ln 2 / 2.
const HOURLY: i64 = 347;
/// What a refusal in a row adds, in thousandths: it costs no money, only a second or two, and the offer is likely to be refused
/// again. Enough to prefer a near equal that was not.
const REFUSED: i64 = 20;
/// Refusals beyond these say nothing new.
const ROW: u32 = 5;

/// How much dearer a risk weighs because a deadline is near: at two hours and more before it, once; in the last half hour, eight
/// times. In steps, so that jobs of about the same deadline are decided together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hurry(i64);

impl Hurry {
    /// No deadline.
    pub(super) const NONE: Hurry = Hurry(1);

    /// With this many seconds left.
    pub(super) fn with(left: i64) -> Self {
        Hurry(match left {
            7200.. => 1,
            3600.. => 2,
            1800.. => 4,
            _ => 8,
        })
    }
}

/// The price per hour, raised by what the risk is expected to waste of each hour. An offer that nothing is remembered of is
/// taken at its price; on-demand is never taken back.
pub(super) fn expected(price: Price, market: Market, record: &Record, hurry: Hurry) -> Price {
    let interruptions = if market == Market::OnDemand { 0 } else { record.interruptions * HOURLY / 1000 * LOST_MINUTES / 60 };
    let refusals = i64::from(record.row.min(ROW)) * REFUSED;
    let risk = interruptions.saturating_add(refusals).saturating_mul(hurry.0);
    Price::from_micros(price.micros().saturating_add(price.micros().saturating_mul(risk) / 1000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_makes_an_offer_dearer() {
        let cost = |interruptions, row, market, hurry| {
            expected(Price::from_micros(1_000_000), market, &Record { interruptions, row, ..Record::default() }, hurry).micros()
        };
        for (interruptions, row, hurry, expected) in [
            (0, 0, Hurry::NONE, 1_000_000),
            (1000, 0, Hurry::NONE, 1_231_000),       // one just now: out of the band of 20 %
            (500, 0, Hurry::NONE, 1_115_000),        // two hours later: back in it
            (4000, 0, Hurry::NONE, 1_925_000),       // four: nearly twice
            (0, 1, Hurry::NONE, 1_020_000),          // refused once
            (0, 100, Hurry::NONE, 1_100_000),        // refusals are bounded
            (1000, 0, Hurry::with(1000), 2_848_000), // near a deadline certainty weighs more
            (0, 0, Hurry::with(1000), 1_000_000),
        ] {
            assert_eq!(cost(interruptions, row, Market::Spot, hurry), expected, "{interruptions} {row} {hurry:?}");
        }
        assert_eq!(cost(9000, 0, Market::OnDemand, Hurry::NONE), 1_000_000);
        assert_eq!(
            expected(
                Price::from_micros(i64::MAX),
                Market::Spot,
                &Record { interruptions: i64::MAX / 1000, ..Default::default() },
                Hurry::NONE
            )
            .micros(),
            i64::MAX
        );
    }

    #[test]
    fn hurry_grows_as_time_runs_out() {
        let weights: Vec<Hurry> = [100_000, 7200, 7199, 3600, 1800, 1799, 0, -5].map(Hurry::with).to_vec();
        assert_eq!(weights, [1, 1, 2, 2, 4, 8, 8, 8].map(Hurry));
    }
}
