//! How the cloud behaves, until told otherwise.

use super::market::Places;
use jiff::SignedDuration;
use std::time::Duration;

/// How an instance boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// It runs after this long.
    After(Duration),
    /// It stays pending.
    Never,
    /// It dies after this long instead, of this: `Server.InternalError`, say.
    Dies(Duration, String),
}

/// How the cloud behaves, until told otherwise.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    /// How long lists do not show a new instance.
    pub(super) lag: SignedDuration,
    /// How long calls by id do not find a new instance.
    pub(super) id_lag: SignedDuration,
    /// How long a new template cannot be named by launches.
    pub(super) template_lag: SignedDuration,
    /// How long an instance shuts down.
    pub(super) shutdown: Duration,
    /// How instances boot; the last that fits counts.
    pub(super) boot: Vec<(Places, Boot)>,
    /// Whether a token answers with the refusal that it got before.
    pub(super) remembers_refusals: bool,
    /// Whether images are prefetched.
    pub(super) prefetches: bool,
    /// Whether instances end themselves.
    pub(super) timers: bool,
    /// Whether the queue is told of every instance that ends, and not of spot's warnings alone.
    pub(super) tells_ends: bool,
    /// How often everything that pools name has been renewed.
    pub(super) renewed: u32,
}

impl Default for Manners {
    /// At peace: nothing lags but templates that prefetch.
    fn default() -> Self {
        Manners {
            lag: SignedDuration::ZERO,
            id_lag: SignedDuration::ZERO,
            template_lag: SignedDuration::from_secs(1),
            shutdown: Duration::from_secs(20),
            boot: vec![(Places::all(), Boot::After(Duration::from_secs(15)))],
            remembers_refusals: false,
            prefetches: true,
            timers: true,
            tells_ends: true,
            renewed: 0,
        }
    }
}
