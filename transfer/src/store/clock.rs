//! The store's clock: requests are signed with its time, once it has said that this machine's is wrong.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// How far both clocks may differ before a refusal without words is taken for that: AWS takes 15 minutes, others 5.
const NEAR: i64 = 240;

/// What is known of the store's clock.
#[derive(Debug, Default)]
pub struct Clock {
    /// Seconds that are added to this machine's time.
    ahead: AtomicI64,
    /// The same by the last answer's `Date`.
    told: AtomicI64,
}

impl Clock {
    /// The store's time at this machine's `now`, both in seconds since 1970.
    pub fn store(&self, now: u64) -> u64 {
        now.saturating_add_signed(self.ahead.load(Ordering::Relaxed))
    }

    /// Notes the `Date` of an answer that came at `now`.
    pub fn hear(&self, date: Option<&str>, now: u64) {
        if let Some(there) = date.and_then(http_date) {
            self.told.store(there.cast_signed() - now.cast_signed(), Ordering::Relaxed);
        }
    }

    /// Whether the last answer's time is far from what requests are signed with.
    pub fn is_wrong(&self) -> bool {
        (self.told.load(Ordering::Relaxed) - self.ahead.load(Ordering::Relaxed)).abs() > NEAR
    }

    /// Takes the store's time over. False when that changes nothing: then another try is of no use.
    pub fn correct(&self) -> bool {
        if !self.is_wrong() {
            return false;
        }
        let told = self.told.load(Ordering::Relaxed);
        self.ahead.store(told, Ordering::Relaxed);
        crate::progress::say(&format!("this machine's clock is {told} s off the store's: requests are signed with the store's time"));
        true
    }
}

/// Seconds since 1970 by this machine's clock.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970 (RFC 9110 5.6.7; the two obsolete forms are not sent by any store).
pub fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: u64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = MONTHS.iter().position(|m| *m == name)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok()?;
    let mut clock = words.next()?.split(':').map(|n| n.parse::<u64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    if words.next() != Some("GMT") || !(1970..10_000).contains(&year) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60
    {
        return None;
    }
    // Days from civil, after Howard Hinnant: years begin in March, so that the leap day is the last of one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1 - 719_468;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        for bad in ["", "Sun, 06 Nov 1994 08:49:37 PST", "Sun, 06 Nov 94 08:49:37 GMT", "Sun, 06 Foo 1994 08:49:37 GMT", "1994-11-06"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_a_clock_that_is_far_off_is_corrected_and_only_once() {
        let clock = Clock::default();
        let at = 784_111_777;
        clock.hear(Some("Sun, 06 Nov 1994 08:49:37 GMT"), at - 100);
        assert!(!clock.is_wrong() && !clock.correct());
        assert_eq!(clock.store(5), 5);
        clock.hear(Some("Sun, 06 Nov 1994 08:49:37 GMT"), at + 7200);
        assert!(clock.correct());
        assert_eq!(clock.store(at + 7201), at + 1);
        assert!(!clock.correct(), "it was that already");
        clock.hear(None, 0);
        clock.hear(Some("nonsense"), 0);
        assert!(!clock.is_wrong());
    }
}
