//! How much time a save has: what cannot be finished by then is not begun. Pure.

use std::time::Duration;

/// Kept free at the end of the time: for the manifest, the head, and clocks that differ.
const MARGIN: f64 = 1.5;

/// What is known about the time that is left. Times are seconds on any one clock.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Budget {
    /// When the process will be killed, as far as it was told.
    pub until: Option<f64>,
    /// Bytes a second that earlier uploads went at; none: not known yet.
    pub rate: Option<f64>,
}

/// Why a save is not made, or not finished.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Short {
    /// Seconds that the rest would take.
    pub needs: f64,
    /// Seconds that are left.
    pub left: f64,
}

impl Budget {
    /// Whether so many bytes can be uploaded by then at the known rate. At an unknown one it is tried, unless nothing is left.
    ///
    /// # Errors
    /// What it would need, and what there is.
    pub fn allows(&self, bytes: u64, now: f64) -> Result<(), Short> {
        let Some(until) = self.until else { return Ok(()) };
        let needs = self.rate.map_or(0.0, |rate| bytes as f64 / rate.max(1.0)) + MARGIN;
        let left = until - now;
        if needs <= left { Ok(()) } else { Err(Short { needs, left: left.max(0.0) }) }
    }

    /// The earlier of both ends.
    pub fn and_until(self, other: Option<f64>) -> Budget {
        let until = match (self.until, other) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Budget { until, ..self }
    }
}

/// The rate after so many bytes went in that time: half old, half new. Little says nothing about a rate: its time is the requests'.
pub fn measured(old: Option<f64>, bytes: u64, took: Duration) -> Option<f64> {
    const ENOUGH: u64 = 4 << 20;
    if bytes < ENOUGH || took.is_zero() {
        return old;
    }
    let new = bytes as f64 / took.as_secs_f64();
    Some(old.map_or(new, |old| (old + new) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_finish_is_not_begun() {
        let budget = Budget { until: Some(100.0), rate: Some(10.0) };
        assert_eq!(budget.allows(100, 80.0), Ok(()));
        assert_eq!(budget.allows(1000, 80.0), Err(Short { needs: 101.5, left: 20.0 }));
        assert_eq!(budget.allows(0, 99.0), Err(Short { needs: 1.5, left: 1.0 }));
        assert_eq!(budget.allows(0, 120.0), Err(Short { needs: 1.5, left: 0.0 }));
        // Nobody said when, or nothing was measured: it is tried.
        assert_eq!(Budget { until: None, rate: Some(1.0) }.allows(u64::MAX, 0.0), Ok(()));
        assert_eq!(Budget { until: Some(100.0), rate: None }.allows(u64::MAX, 0.0), Ok(()));
    }

    #[test]
    fn the_earlier_end_counts() {
        let budget = Budget { until: Some(9.0), rate: None };
        assert_eq!(budget.and_until(Some(5.0)).until, Some(5.0));
        assert_eq!(budget.and_until(None).until, Some(9.0));
        assert_eq!(Budget::default().and_until(Some(5.0)).until, Some(5.0));
    }

    #[test]
    fn rates_come_from_large_uploads_only() {
        assert_eq!(measured(None, 1000, Duration::from_secs(1)), None);
        assert_eq!(measured(None, 8 << 20, Duration::from_secs(2)), Some((4 << 20) as f64));
        assert_eq!(measured(Some((8 << 20) as f64), 8 << 20, Duration::from_secs(2)), Some((6 << 20) as f64));
    }
}
