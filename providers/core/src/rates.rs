//! How often a provider may be asked.

use std::time::Duration;

/// How much of one kind of call is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time after which one more call may be made.
    pub each: Duration,
    /// How many may be made at once after a rest.
    pub burst: u32,
}

impl Rate {
    /// So many a second, and so many at once.
    #[must_use]
    pub const fn new(a_second: u32, burst: u32) -> Self {
        Rate { each: Duration::from_millis(1000 / a_second as u64), burst }
    }
}

/// The limits of each kind of call that a provider counts by itself. Per scope: region and account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Everything that only reads.
    pub describe: Rate,
    /// Launches.
    pub launch: Rate,
    /// Terminations.
    pub terminate: Rate,
    /// Everything else that writes.
    pub change: Rate,
}

impl Rates {
    /// No limit worth the name: for a provider that does not count.
    pub const UNLIMITED: Rates = {
        let all = Rate { each: Duration::ZERO, burst: u32::MAX };
        Rates { describe: all, launch: all, terminate: all, change: all }
    };
}

/// What EC2 gives an account, as Karpenter models it (`kwok/ec2/ratelimiting.go`, where CreateFleet is a mutating call like others and only
/// RunInstances has less): an operator is not the only one to call, but by
/// far the busiest.
impl Default for Rates {
    fn default() -> Self {
        Rates { describe: Rate::new(20, 100), launch: Rate::new(5, 50), terminate: Rate::new(5, 100), change: Rate::new(5, 50) }
    }
}
