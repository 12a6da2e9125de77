//! The simulator's clock: it moves with tokio's paused time, from a fixed date, and can be stepped like a wall clock that NTP corrects.

use gpujob_operator::clock::Clock;
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tokio::time::Instant;

/// 2026-01-01T00:00:00Z, in Unix seconds: where every schedule begins.
const EPOCH: i64 = 1_767_225_600;

/// Wall time in a simulation: [`EPOCH`] plus the virtual time since it was made, plus a skew. Clones share the skew.
#[derive(Clone, Debug)]
pub struct SimClock {
    start: Instant,
    skew_ms: Arc<AtomicI64>,
}

impl SimClock {
    /// A clock that shows 2026-01-01T00:00:00Z now. Make it inside the paused runtime.
    #[must_use]
    pub fn new() -> Self {
        SimClock { start: Instant::now(), skew_ms: Arc::default() }
    }

    /// Another clock of the same start with a skew of its own: the clock of another machine.
    #[must_use]
    pub fn apart(&self) -> Self {
        SimClock { start: self.start, skew_ms: Arc::default() }
    }

    /// Moves this clock by so much against virtual time, backwards too. Timers are not touched: only what the clock says.
    pub fn step(&self, by: SignedDuration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(0);
        self.skew_ms.fetch_add(ms, Ordering::SeqCst);
    }

    /// Virtual time since the beginning, without any skew.
    #[must_use]
    pub fn elapsed(&self) -> std::time::Duration {
        self.start.elapsed()
    }
}

impl Default for SimClock {
    fn default() -> Self {
        SimClock::new()
    }
}

impl Clock for SimClock {
    fn now(&self) -> Timestamp {
        let ms = i64::try_from(self.elapsed().as_millis()).unwrap_or(i64::MAX / 2) + self.skew_ms.load(Ordering::SeqCst);
        Timestamp::from_millisecond(EPOCH * 1000 + ms).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn it_moves_with_virtual_time_and_can_be_stepped() {
        let clock = SimClock::new();
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:00Z");
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(clock.now().to_string(), "2026-01-01T00:00:01.5Z");
        let (same, other) = (clock.clone(), clock.apart());
        clock.step(SignedDuration::from_secs(-60));
        assert_eq!(same.now().to_string(), "2025-12-31T23:59:01.5Z");
        assert_eq!(other.now().to_string(), "2026-01-01T00:00:01.5Z");
    }
}
