//! How an operator reads the order to drain. Pure: the moments are given.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;
use tokio::time::Instant;

/// What the annotation says once nothing is left: those that run stay as they are, those that start take no notice.
pub const DRAINED: &str = "drained";
/// How long an order holds after it was last seen to change.
pub(super) const HOLDS: Duration = Duration::from_secs(60);
/// How often it is renewed.
pub(super) const RENEWED: Duration = Duration::from_secs(5);
/// How long an order holds that was there when we first looked: long enough to see it renewed if somebody is behind it.
const AT_FIRST: Duration = Duration::from_secs(15);

/// What is known of the order. Like the Lease itself it counts by the changes that we saw; only of the first sight, when there
/// is none to compare with, is the time read that it carries.
#[derive(Debug, Default)]
pub struct Order {
    looked: bool,
    text: Option<String>,
    until: Option<Instant>,
}

impl Order {
    /// Takes note of the annotation as it is now; `clock` is the wall clock.
    pub fn look(&mut self, text: Option<&str>, now: Instant, clock: Timestamp) {
        let first = !std::mem::replace(&mut self.looked, true);
        if !first && self.text.as_deref() == text {
            return;
        }
        self.text = text.map(str::to_owned);
        self.until = match text {
            None => None,
            Some(_) if !first => Some(now + HOLDS),
            Some(text) => is_recent(text, clock).then_some(now + AT_FIRST),
        };
    }

    /// Whether nothing was left when we last looked: those that ran until then lead nothing any more.
    #[must_use]
    pub fn is_done(&self, now: Instant) -> bool {
        self.text.as_deref() == Some(DRAINED) && self.until.is_some_and(|until| now < until)
    }

    /// Until when the order holds, if there is one.
    #[must_use]
    pub fn until(&self) -> Option<Instant> {
        self.until
    }
}

/// Whether this is a time of the last minute, give or take what clocks differ by.
fn is_recent(text: &str, clock: Timestamp) -> bool {
    let age = text.parse::<Timestamp>().ok().map(|at| clock.duration_since(at).abs());
    age.is_some_and(|age| age < SignedDuration::try_from(HOLDS).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).expect("time")
    }

    fn order(second: i64) -> String {
        at(second).to_string()
    }

    #[tokio::test(start_paused = true)]
    async fn it_holds_while_it_is_renewed_and_a_minute_longer() {
        let (mut seen, start) = (Order::default(), Instant::now());
        seen.look(None, start, at(0));
        assert_eq!(seen.until(), None);
        for second in [5, 10] {
            seen.look(Some(&order(0)), start + Duration::from_secs(second), at(0));
            assert_eq!(seen.until(), Some(start + Duration::from_secs(5) + HOLDS), "the second look saw no change");
        }
        seen.look(Some(&order(11)), start + Duration::from_secs(11), at(11));
        assert_eq!(seen.until(), Some(start + Duration::from_secs(11) + HOLDS));
        seen.look(None, start + Duration::from_secs(12), at(12));
        assert_eq!(seen.until(), None, "taken back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_starts_amid_a_drain_holds_still_until_it_knows() {
        let (mut seen, start) = (Order::default(), Instant::now());
        seen.look(Some(&order(0)), start, at(4));
        assert_eq!(seen.until(), Some(start + AT_FIRST));
        seen.look(Some(&order(5)), start + RENEWED, at(9));
        assert_eq!(seen.until(), Some(start + RENEWED + HOLDS));
    }

    #[tokio::test(start_paused = true)]
    async fn what_an_earlier_drain_left_blocks_nobody() {
        let start = Instant::now();
        for left in [order(0), DRAINED.to_owned(), "yes".to_owned()] {
            let mut seen = Order::default();
            seen.look(Some(&left), start, at(61));
            assert_eq!(seen.until(), None, "{left}");
        }
        // But those that saw it come stay so, until they are deleted.
        let mut seen = Order::default();
        seen.look(Some(&order(0)), start, at(0));
        seen.look(Some(DRAINED), start, at(0));
        assert_eq!(seen.until(), Some(start + HOLDS));
        assert!(seen.is_done(start) && !seen.is_done(start + HOLDS));
    }
}
