//! The cloud gives notice: the program gets the time that is left, and the next place is bought meanwhile.

use super::world::{Cluster, at, ended};
use crate::job::facts::{Role, STAGE};
use crate::job::next::{Next, next};
use gpujob_crds::GpuJobSpec;
use gpujob_crds::conditions::job as types;
use gpujob_crds::job_status::Outcome;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// The record that the notice controller writes.
fn notice(c: &mut Cluster, node: &str, second: i64) {
    let status = c.node(node).status.get_or_insert_default();
    (status.interrupted, status.taken_at) = (Some(Time(at(second))), Some(Time(at(second + 120))));
}

fn noticed(change: impl FnOnce(&mut GpuJobSpec)) -> Cluster {
    let mut c = Cluster::running(change);
    c.now = at(20);
    notice(&mut c, "gn-1", 20);
    c.settle();
    c
}

/// Main and sidecar have ended.
fn over(c: &mut Cluster, attempt: i32) {
    let now = c.now;
    c.state(Role::Attempt, attempt, "main", ended(143, now, ""));
    c.state(Role::Attempt, attempt, STAGE, ended(0, now, ""));
}

fn attempt_pods(c: &Cluster) -> usize {
    let world = c.world();
    world.pods.iter().filter(|p| p.role == Role::Attempt).count()
}

#[test]
fn the_next_place_is_asked_for_while_the_old_one_still_runs() {
    let mut c = noticed(|s| s.backoff_limit = Some(0));
    let a = c.attempt(1);
    assert_eq!((a.outcome, a.reason.as_deref()), (Some(Outcome::Interrupted), Some("SpotInterruption")));
    assert_eq!((c.status().failures, c.status().interruptions), (None, Some(1)));
    assert_eq!(next(&c.job, c.now), Next::Attempt(2), "no question to the store, no backoff");
    assert!(!c.has(Role::Resolve));
    assert_eq!(c.pod(Role::Attempt, 1).metadata.deletion_grace_period_seconds, Some(115), "all the time there is, less the seal's");
    assert!(!c.node("gn-1").reservations().is_empty(), "held until its pod is over");
}

#[test]
fn a_late_look_leaves_the_program_what_is_left() {
    for (second, grace) in [(20, 115), (100, 35), (139, 2), (300, 2)] {
        let mut c = Cluster::running(|_| {});
        c.now = at(second);
        notice(&mut c, "gn-1", 20);
        c.settle();
        assert_eq!(c.grace(1), Some(Some(grace)), "seen at {second}");
    }
}

#[test]
fn two_attempts_never_run_at_once_but_a_silent_pod_is_not_waited_for() {
    for silent in [false, true] {
        let mut c = noticed(|_| {});
        c.reserve("gn-2", 2);
        c.settle();
        c.join("gn-2");
        let plan = c.settle();
        assert_eq!(c.status().attempt, Some(2));
        assert_eq!(attempt_pods(&c), 1, "the old one still saves its work");
        assert!(plan.why.contains("to end"), "{}", plan.why);
        if silent {
            c.wait(121);
        } else {
            c.now = at(30);
            over(&mut c, 1);
            c.settle();
        }
        assert!(c.node("gn-1").reservations().is_empty(), "silent: {silent}");
        c.start();
        c.settle();
        assert_eq!(c.condition(types::RUNNING), "True Running", "silent: {silent}");
        assert_eq!(c.attempt(2).node.as_deref(), Some("gn-2"));
    }
}

#[test]
fn a_program_that_had_ended_before_is_delivered_and_not_run_again() {
    let mut c = Cluster::running(|_| {});
    c.now = at(19);
    c.exit(0, "");
    c.now = at(20);
    notice(&mut c, "gn-1", 20);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
    assert!(matches!(next(&c.job, c.now), Next::No(_)));
}

#[test]
fn a_program_that_ends_well_because_of_the_notice_has_not_succeeded() {
    let mut c = Cluster::running(|_| {});
    c.now = at(25);
    notice(&mut c, "gn-1", 20);
    c.exit(0, "saved, bye");
    c.settle();
    assert_eq!((c.attempt(1).outcome, c.attempt(1).exit_code), (Some(Outcome::Interrupted), Some(0)));
    assert!(!c.has(Role::Commit) && !c.has(Role::Resolve));
    assert_eq!(next(&c.job, c.now), Next::Attempt(2));
}

#[test]
fn a_notice_before_the_pod_is_made_wastes_no_pod() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.launch("gn-1");
    c.settle();
    notice(&mut c, "gn-1", 20);
    c.settle();
    assert_eq!(attempt_pods(&c), 0);
    assert_eq!(c.attempt(1).reason.as_deref(), Some("SpotInterruption"));
    assert!(c.node("gn-1").reservations().is_empty());
    assert_eq!(next(&c.job, c.now), Next::Attempt(2));
}

#[test]
fn places_that_are_taken_again_within_minutes_are_not_bought_without_a_pause() {
    let again = |lived: i64| {
        let mut c = noticed(|_| {});
        over(&mut c, 1);
        c.settle();
        c.reserve("gn-2", 2);
        c.settle();
        c.join("gn-2");
        c.settle();
        c.start();
        c.now = at(20 + lived);
        notice(&mut c, "gn-2", 20 + lived);
        c.settle();
        next(&c.job, c.now)
    };
    assert_eq!(again(60), Next::NotBefore(at(90)));
    assert_eq!(again(3600), Next::Attempt(3));
}

#[test]
fn no_place_is_bought_beyond_the_limit() {
    let c = noticed(|s| s.interruption_limit = Some(0));
    assert_eq!(c.condition(types::SUCCEEDED), "False InterruptionLimitExceeded");
    assert!(matches!(next(&c.job, c.now), Next::No(_)));
}
