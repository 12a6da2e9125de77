//! One schedule: a scenario, what goes wrong in it, and a seed. And what came of it.

use crate::faults::Fault;
use crate::timeline::Entry;
use serde::{Deserialize, Serialize};
use std::fmt;

/// All that a run depends on. The same schedule gives the same timeline, to the byte.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Schedule {
    /// How to name it on the command line: a seed, or scenario/crash-N.
    pub name: String,
    /// The scenario.
    pub scenario: String,
    /// Decides what the faults leave to chance.
    pub seed: u64,
    /// Replicas of the operator.
    pub replicas: usize,
    /// Seconds that a silent leader keeps the Lease.
    pub lease_s: u64,
    /// What goes wrong.
    pub faults: Vec<Fault>,
}

/// The Lease as the chart has it, in seconds.
pub(super) const LEASE: u64 = 15;
/// The Lease of a replica that has no rival: its renewals would be most of all writes, and prove nothing.
pub(super) const LONG_LEASE: u64 = 60;

impl Schedule {
    /// A scenario in which nothing goes wrong but what it says itself.
    #[must_use]
    pub fn clean(scenario: &str, replicas: usize) -> Self {
        let lease_s = if replicas == 1 { LONG_LEASE } else { LEASE };
        Schedule { name: format!("{scenario}/clean"), scenario: scenario.to_owned(), seed: 0, replicas, lease_s, faults: vec![] }
    }

    /// A scenario with a crash after its nth write, and a process that is back after 5 s.
    #[must_use]
    pub fn crash(scenario: &str, replicas: usize, after_write: u64) -> Self {
        Schedule {
            name: format!("{scenario}/crash-{after_write}"),
            seed: after_write,
            faults: vec![Fault::Crash { after_write, back_in_s: 5 }],
            ..Schedule::clean(scenario, replicas)
        }
    }

    /// A scenario in which the nth request arrives 3 s late: others are answered meanwhile, and what it was sent for may be over.
    #[must_use]
    pub fn late(scenario: &str, replicas: usize, request: u64) -> Self {
        Schedule {
            name: format!("{scenario}/late-{request}"),
            seed: request,
            faults: vec![Fault::Delay { request, there_ms: 3000, back_ms: 0 }],
            ..Schedule::clean(scenario, replicas)
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}, {} replicas, lease {} s", self.name, self.scenario, self.replicas, self.lease_s)?;
        for fault in &self.faults {
            write!(f, "; {fault}")?;
        }
        write!(f, ")")
    }
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Violation {
    /// Virtual seconds since the beginning.
    pub second: u64,
    /// The oracle that saw it.
    pub oracle: &'static str,
    /// What it saw.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} s, {}: {}", self.second, self.oracle, self.what)
    }
}

/// What came of a schedule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The schedule.
    pub schedule: Schedule,
    /// Broken promises, in order.
    pub violations: Vec<Violation>,
    /// Everything that happened.
    pub timeline: Vec<Entry>,
    /// A fingerprint of everything, reads included.
    pub digest: u64,
    /// Writes of the operator, Kubernetes and cloud together, without the Lease.
    pub writes: u64,
    /// Its requests to the API server, without the Lease.
    pub requests: u64,
    /// Its calls to the provider.
    pub calls: u64,
    /// Virtual seconds.
    pub seconds: u64,
}

impl Verdict {
    /// Of a schedule in which something panicked: what is on standard error.
    #[must_use]
    pub fn panicked(schedule: &Schedule) -> Self {
        let violation = Violation { second: 0, oracle: "panic", what: "something panicked: see standard error".into() };
        Verdict {
            schedule: schedule.clone(),
            violations: vec![violation],
            timeline: vec![],
            digest: 0,
            writes: 0,
            requests: 0,
            calls: 0,
            seconds: 0,
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.violations.is_empty()
    }

    /// One line for each broken promise, and how to see it happen.
    #[must_use]
    pub fn complaint(&self) -> String {
        let lines: String = self.violations.iter().map(|v| format!("  {v}\n")).collect();
        format!("FAILED {}\n{lines}  see it: cargo sim --replay {}\n", self.schedule, self.schedule.name)
    }
}
