//! How fast a job is told that its data cannot be had, and how far another has come before it is interrupted.

use super::lived;
use gpujob_sim::scenario::catalog;
use gpujob_sim::world::Machine;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_doomed_job_is_told_and_its_launch_cancelled_before_the_instance_could_have_said_so() {
    let mut scenario = catalog::named("doomed").expect("a scenario of that name");
    // This instance would never say it, and be waited for for a quarter of an hour.
    scenario.script.machines.insert(0, Machine { never_joins: true, ..Machine::default() });
    let (missing, runs, took) = lived(&scenario).await;
    assert_eq!((missing, runs.len()), (vec![], 0));
    assert!(took < Duration::from_secs(120), "{took:?}: the instance and its record are gone by then");
}

#[tokio::test(start_paused = true)]
async fn where_no_cpu_node_is_the_attempt_says_the_same() {
    let mut scenario = catalog::named("doomed").expect("a scenario of that name");
    scenario.script.cpu_node = false;
    let (missing, runs, _) = lived(&scenario).await;
    assert_eq!((missing, runs.len()), (vec![], 0), "nothing is run");
}

#[tokio::test(start_paused = true)]
async fn an_interrupted_program_goes_on_where_it_was() {
    let (missing, runs, _) = lived(&catalog::named("checkpoints").expect("a scenario of that name")).await;
    assert_eq!(missing, Vec::<String>::new());
    let seconds: Vec<i64> = runs.iter().map(|r| r.ended.duration_since(r.started).as_secs()).collect();
    assert_eq!(seconds.len(), 2, "{seconds:?}");
    let total: i64 = seconds.iter().sum();
    assert!((295..320).contains(&total), "300 s of work in two parts: {seconds:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rebalance_recommendation_saves_a_checkpoint_and_ends_nothing() {
    let (missing, runs, _) = lived(&catalog::named("rebalanced").expect("a scenario of that name")).await;
    assert_eq!(missing, Vec::<String>::new());
    let seconds: Vec<i64> = runs.iter().map(|r| r.ended.duration_since(r.started).as_secs()).collect();
    // Asked after 100 s, and its power lost after 200, so the first has no end of its own: the second has 200 s of the 300 left to do.
    assert!(matches!(seconds[..], [190..=200]), "{seconds:?}");
}
