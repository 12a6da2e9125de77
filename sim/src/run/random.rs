//! Schedules made by chance: any scenario, one to five faults, each at a moment that a clean run of the scenario really has.

use super::play::{QUIET_CLEAN, play};
use super::schedule::{LEASE, LONG_LEASE, Schedule, Verdict};
use crate::faults::{CallFault, Fault, Happening, Moves};
use crate::scenario::catalog;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};

/// How long a scenario is when nothing goes wrong: where its faults may be put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Writes.
    pub writes: u64,
    /// Requests.
    pub requests: u64,
    /// Provider calls.
    pub calls: u64,
    /// Virtual seconds until it is settled.
    pub seconds: u64,
}

/// The clean run of each scenario, made once a process.
#[must_use]
pub fn clean(scenario: &str) -> Arc<Verdict> {
    type Known = Mutex<BTreeMap<String, Arc<OnceLock<Arc<Verdict>>>>>;
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let cell = KNOWN.get_or_init(Known::default).lock().expect("no panic holds this lock").entry(scenario.to_owned()).or_default().clone();
    let replicas = catalog::named(scenario).map_or(1, |s| s.replicas);
    cell.get_or_init(|| Arc::new(play(&Schedule::clean(scenario, replicas)))).clone()
}

/// How long a scenario is.
#[must_use]
pub fn extent(scenario: &str) -> Extent {
    let run = clean(scenario);
    Extent { writes: run.writes, requests: run.requests, calls: run.calls, seconds: run.seconds.saturating_sub(QUIET_CLEAN.as_secs()) }
}

/// The schedule of a seed.
#[must_use]
pub fn schedule(seed: u64) -> Schedule {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let scenarios = catalog::all();
    let scenario = scenarios.choose(&mut chance).expect("there are scenarios");
    let extent = extent(scenario.name);
    let replicas = scenario.replicas.max(chance.random_range(1..=2));
    // Some lone replicas keep the real Lease too: it counts when one comes back under another name.
    let lease_s = if replicas > 1 || chance.random_bool(0.25) { LEASE } else { LONG_LEASE };
    let faults = (0..chance.random_range(1..=5)).map(|_| fault(&mut chance, &extent)).collect();
    Schedule { name: seed.to_string(), scenario: scenario.name.to_owned(), seed, replicas, lease_s, faults }
}

fn fault(chance: &mut ChaCha8Rng, extent: &Extent) -> Fault {
    let request = chance.random_range(1..=extent.requests.max(1));
    match chance.random_range(0..10) {
        0 | 1 => Fault::Crash { after_write: chance.random_range(1..=extent.writes.max(1)), back_in_s: chance.random_range(1..=120) },
        2 => Fault::LoseAnswer { of_write: chance.random_range(1..=extent.writes.max(1)), hang: chance.random_bool(0.5) },
        3 => Fault::Refuse {
            request,
            times: chance.random_range(1..=30),
            code: *[409, 429, 500, 504].choose(chance).expect("codes"),
            landed: chance.random_bool(0.3),
        },
        4 => Fault::Delay { request, there_ms: chance.random_range(0..=20_000), back_ms: chance.random_range(0..=8_000) },
        5 => Fault::Provider {
            call: chance.random_range(1..=extent.calls.max(1)),
            times: chance.random_range(1..=8),
            how: *[CallFault::Throttled, CallFault::AnswerLost, CallFault::NeverArrived, CallFault::Hangs, CallFault::Unauthorized]
                .choose(chance)
                .expect("ways"),
        },
        _ => Fault::At { second: chance.random_range(1..=extent.seconds.max(2)), what: happening(chance) },
    }
}

fn happening(chance: &mut ChaCha8Rng) -> Happening {
    match chance.random_range(0..14) {
        0 => Happening::Kill { back_in_s: chance.random_range(1..=90), new_name: chance.random_bool(0.5) },
        1 => Happening::Stop { back_in_s: chance.random_range(1..=30) },
        2 => Happening::Partition { for_s: chance.random_range(5..=300) },
        3 => Happening::StallWatches { for_s: chance.random_range(1..=120) },
        4 => Happening::DropEvents { for_s: chance.random_range(1..=60) },
        5 => Happening::CloseWatches,
        6 => Happening::StepClock { by_s: chance.random_range(-120..=120) },
        7 => Happening::Reclaim { notice_s: *[0, 5, 120].choose(chance).expect("times") },
        8 => Happening::NoCapacity { for_s: chance.random_range(30..=600) },
        9 => Happening::Prices { percent: chance.random_range(50..=300) },
        10 => Happening::Market(*[Moves::Drought, Moves::Flicker, Moves::Surge].choose(chance).expect("traces")),
        11 => Happening::OldListings { times: chance.random_range(1..=12), by_s: chance.random_range(5..=120) },
        12 => Happening::ShortListings { times: chance.random_range(1..=12), after: chance.random_range(0..=1) },
        _ => Happening::HideInstances { lag_s: chance.random_range(1..=60), for_s: chance.random_range(30..=300) },
    }
}
