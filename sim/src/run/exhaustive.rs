//! A crash after every single write of a scenario, each time with a process that comes back and finds what is left; and every single
//! request late.

use super::random::clean;
use super::schedule::{Schedule, Verdict};
use crate::scenario::catalog;
use std::sync::Arc;

/// The clean run of a scenario, and one schedule for each of its writes.
#[must_use]
pub fn of(scenario: &str) -> (Arc<Verdict>, Vec<Schedule>) {
    let replicas = catalog::named(scenario).map_or(1, |s| s.replicas);
    let run = clean(scenario);
    let crashes = (1..=run.writes).map(|n| Schedule::crash(scenario, replicas, n)).collect();
    (run, crashes)
}

/// One schedule for each request of a clean run.
#[must_use]
pub fn late(clean: &Verdict) -> Vec<Schedule> {
    let Schedule { scenario, replicas, .. } = &clean.schedule;
    (1..=clean.requests).map(|n| Schedule::late(scenario, *replicas, n)).collect()
}

/// The schedule of a name as [`Schedule::name`] has it: a seed, `scenario/clean`, `scenario/crash-N` or `scenario/late-N`.
#[must_use]
pub fn named(name: &str) -> Option<Schedule> {
    if let Ok(seed) = name.parse() {
        return Some(super::random::schedule(seed));
    }
    let (scenario, which) = name.split_once('/')?;
    let replicas = catalog::named(scenario)?.replicas;
    if which == "clean" {
        return Some(Schedule::clean(scenario, replicas));
    }
    if let Some(request) = which.strip_prefix("late-") {
        return Some(Schedule::late(scenario, replicas, request.parse().ok()?));
    }
    Some(Schedule::crash(scenario, replicas, which.strip_prefix("crash-")?.parse().ok()?))
}
