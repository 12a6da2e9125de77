//! A token bucket, kept as one number: the time at which it would be full again.

use gpujob_provider_core::Rate;
use std::time::Duration;
use tokio::time::Instant;

/// Each step halves the rate; four make a sixteenth of it.
const SLOWEST: u32 = 4;
/// After so long without a complaint one step is taken back.
const CALM: Duration = Duration::from_secs(30);

/// See the module.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Rate,
    full_at: Instant,
    /// Steps by which it was slowed down, and since when.
    slow: u32,
    slowed: Instant,
}

impl Bucket {
    pub(super) fn rate(&self) -> Rate {
        self.rate
    }

    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        Bucket { rate, full_at: now, slow: 0, slowed: now }
    }

    /// Takes one token, and says when it may be used: tokens are given out in the order of asking.
    pub(super) fn take(&mut self, now: Instant) -> Instant {
        self.calm(now);
        let each = self.each();
        self.full_at = self.full_at.max(now) + each;
        // A full bucket holds `burst`: that many may be used before any has come back. Slowed down, it holds none in store.
        let store = if self.slow == 0 { self.rate.each * self.rate.burst } else { each };
        self.full_at.checked_sub(store).map_or(now, |at| at.max(now))
    }

    /// The provider says that it was asked too often.
    pub(super) fn slow_down(&mut self, now: Instant) {
        self.calm(now);
        self.slow = (self.slow + 1).min(SLOWEST);
        self.slowed = now;
        self.full_at = self.full_at.max(now + self.each());
    }

    fn each(&self) -> Duration {
        self.rate.each * (1 << self.slow)
    }

    fn calm(&mut self, now: Instant) {
        while self.slow > 0 && now.duration_since(self.slowed) >= CALM {
            self.slow -= 1;
            self.slowed += CALM;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(bucket: &mut Bucket, now: Instant, n: usize) -> Vec<u64> {
        (0..n).map(|_| u64::try_from(bucket.take(now).duration_since(now).as_millis()).expect("short")).collect()
    }

    const LAUNCH: Rate = Rate { each: Duration::from_millis(500), burst: 5 };

    #[test]
    fn a_burst_goes_at_once_and_the_rest_at_the_rate() {
        let now = Instant::now();
        let mut bucket = Bucket::new(LAUNCH, now);
        assert_eq!(waits(&mut bucket, now, 8), [0, 0, 0, 0, 0, 500, 1000, 1500]);
        // Ten seconds later it is full again, and no fuller.
        assert_eq!(waits(&mut bucket, now + Duration::from_secs(10), 6), [0, 0, 0, 0, 0, 500]);
    }

    #[test]
    fn complaints_slow_it_down_and_calm_restores_it() {
        let now = Instant::now();
        let mut bucket = Bucket::new(LAUNCH, now);
        bucket.slow_down(now);
        assert_eq!(waits(&mut bucket, now, 3), [1000, 2000, 3000]);
        let mut bucket = Bucket::new(LAUNCH, now);
        (0..20).for_each(|_| bucket.slow_down(now));
        assert_eq!(bucket.each(), Duration::from_secs(8), "it never comes to a standstill");
        let later = now + CALM * SLOWEST;
        assert_eq!(waits(&mut bucket, later, 6), [0, 0, 0, 0, 0, 500]);
    }
}
