//! First of all cases: of many racing conditional puts exactly one wins. Without it no epoch means anything.
//!
//! SeaweedFS lets racers for one key through about four a second, so rounds on different keys run side by side, and the
//! short form has the full width in few rounds and many rounds that are narrow. `GPUJOB_RACE=long` does all 200 rounds of 64.

use std::sync::Barrier;

use gpujob_transfer::crew;
use gpujob_transfer::store::s3::S3;
use gpujob_transfer::store::{Class, Condition, ObjectStore, read};

use crate::weed::weed;

/// Keys that are raced for side by side.
const LANES: usize = 10;

#[test]
fn of_64_racing_conditional_puts_exactly_one_wins() {
    let long = std::env::var("GPUJOB_RACE").is_ok_and(|form| form == "long");
    race("race-wide", 64, if long { 200 } else { 2 });
}

#[test]
fn of_6_racing_conditional_puts_exactly_one_wins_20_times() {
    race("race-narrow", 6, 20);
}

fn race(bucket: &str, racers: usize, rounds: usize) {
    let bucket = weed().bucket(bucket);
    let lanes = LANES.min(rounds);
    let won = crew::run(lanes, (0..lanes).collect(), |lane| {
        let stores: Vec<_> = (0..racers).map(|_| weed().store(&bucket)).collect();
        // First contact has a short patience of its own, and a first write asks for what the store checks.
        assert!(stores.iter().all(|store| store.integrity().is_ok()));
        let mine: Vec<_> = (lane..rounds).step_by(lanes).collect();
        let mut version = None;
        for (n, round) in mine.iter().enumerate() {
            // On absence first, then on the version that the last round left.
            if n % 4 == 0 {
                version = None;
            }
            version = Some(one(&stores, &format!("epoch-{lane}-{}", n / 4), *round, version.as_deref()));
        }
        Ok::<_, ()>(mine.len())
    });
    assert_eq!(won.map(|counts| counts.into_iter().sum()), Ok(rounds));
}

/// One round: all write at once, on absence or on the same version. Returns the version that the winner left.
fn one(stores: &[S3], key: &str, round: usize, version: Option<&str>) -> String {
    let start = Barrier::new(stores.len());
    let put = &|racer: usize, store: &S3| {
        let body = format!("round {round} racer {racer}");
        start.wait();
        store.put_if(key, body.as_bytes(), version.map_or(Condition::Absent, Condition::Version)).map(|_| body)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = stores.iter().enumerate().map(|(racer, store)| scope.spawn(move || put(racer, store))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for lost in outcomes.iter().filter_map(|o| o.as_ref().err()) {
        assert!(matches!(lost.class, Class::PreconditionFailed | Class::Conflict), "round {round}: {lost}");
    }
    let won: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "round {round}");
    let (bytes, info) = read(&stores[0], key, 1000).unwrap().unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), *won[0], "round {round}");
    info.version
}
