//! The one place that knows what time it is. Plans get `now` as an argument; everything else asks a [`Clock`].

use jiff::Timestamp;

/// Says what time it is. The simulator brings its own.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one clock
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}
