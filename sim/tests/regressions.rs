//! Schedules that once failed, each with the bug that it was.

use gpujob_sim::run::{exhaustive, play};

fn holds(name: &str) {
    let verdict = play(&exhaustive::named(name).expect("a schedule"));
    assert!(verdict.is_good(), "{}", verdict.complaint());
}

#[test]
fn the_life_of_one_job() {
    holds("plain/clean");
}
