//! Lives of the whole operator: crashes in every scenario, and schedules made by chance. The long forms are commands of `cargo sim`.

#![allow(clippy::disallowed_methods)] // real time, for people who wait

use gpujob_sim::run::{Schedule, Verdict, exhaustive, play, random, threads};
use gpujob_sim::scenario::catalog;
use gpujob_sim::timeline::render;
use std::time::Instant;

/// As many cores as CI has. More threads than cores gain nothing: a schedule never waits.
const THREADS: usize = 2;
/// How many schedules there are at least: every crash point of every scenario, and then chance. `cargo sim --schedules N` runs more.
const SCHEDULES: usize = 2_000;

fn judge(schedule: &Schedule) -> Option<String> {
    let verdict = play(schedule);
    (!verdict.is_good()).then(|| verdict.complaint())
}

fn demand_none(complaints: Vec<Option<String>>, what: &str, begun: Instant) {
    let (count, failed) = (complaints.len(), complaints.into_iter().flatten().collect::<Vec<_>>());
    println!("{count} schedules ({what}) in {:.1?}", begun.elapsed());
    assert!(failed.is_empty(), "{} of {count} schedules failed:\n{}", failed.len(), failed.join("\n"));
}

/// A crash after every single write of every scenario, then random schedules. One test: both want all cores.
#[test]
fn crashes_and_then_chance() {
    let begun = Instant::now();
    let scenarios = catalog::all();
    let lists = threads::over(&scenarios, THREADS, |s| exhaustive::of(s.name), |_, _| {});
    let (mut crashes, clean_runs) = (vec![], lists.len());
    for (clean, more) in lists {
        assert!(clean.is_good(), "{}", clean.complaint());
        assert!(clean.writes > 5, "{} writes only {} times: does it do anything?", clean.schedule.name, clean.writes);
        crashes.extend(more);
    }
    demand_none(threads::over(&crashes, THREADS, judge, |_, _| {}), "a crash after a write", begun);
    let rest = SCHEDULES.saturating_sub(clean_runs + crashes.len()).max(100);
    let seeds: Vec<u64> = (1..).take(rest).collect();
    demand_none(threads::over(&seeds, THREADS, |seed| judge(&random::schedule(*seed)), |_, _| {}), "by chance", begun);
}

/// The same seed, twice: not one line may differ, and not one read.
#[test]
fn a_seed_replays_to_the_byte() {
    for seed in [11, 12, 13] {
        let (one, two): (Verdict, Verdict) = (play(&random::schedule(seed)), play(&random::schedule(seed)));
        assert!(one.timeline.len() > 50, "seed {seed}: {} lines", one.timeline.len());
        assert_eq!(render(&one.timeline), render(&two.timeline), "seed {seed}");
        assert_eq!((one.digest, one.requests, one.calls), (two.digest, two.requests, two.calls), "seed {seed}");
    }
}
