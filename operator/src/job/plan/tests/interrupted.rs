//! What the cluster and the cloud take away.

use super::world::{Cluster, at, committed, failed, plain};
use crate::job::facts::{FETCH, Role, STAGE};
use crate::job::next::{Next, next};
use crate::job::plan::Action;
use gpujob_crds::conditions::job as types;
use gpujob_crds::job_status::{Attempt, Outcome};
use gpujob_transfer::receipt::{Ended, Outcome as Answer, Role as Mover, reason};
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A disturbance: what is done to the cluster.
type Blow = fn(&mut Cluster);

fn evicted(c: &mut Cluster) {
    let status = c.pod(Role::Attempt, 1).status.get_or_insert_default();
    (status.phase, status.reason) = (Some("Failed".into()), Some("Evicted".into()));
}

fn disrupted(c: &mut Cluster) {
    let now = c.now;
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some("DeletionByTaintManager".into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    c.pod(Role::Attempt, 1).status.get_or_insert_default().conditions = Some(vec![condition]);
}

fn deleted(c: &mut Cluster) {
    let now = c.now;
    let meta = &mut c.pod(Role::Attempt, 1).metadata;
    (meta.deletion_timestamp, meta.deletion_grace_period_seconds) = (Some(Time(now)), Some(0));
}

const BLOWS: [(&str, Blow); 6] = [
    ("Evicted", evicted),
    ("DeletionByTaintManager", disrupted),
    ("PodDeleted", deleted),
    ("PodVanished", |c| c.pods.clear()),
    ("NodeLost", |c| c.nodes.clear()),
    ("NodeDeleted", |c| {
        let now = c.now;
        c.node("gn-1").metadata.deletion_timestamp = Some(Time(now));
    }),
];

#[test]
fn no_interruption_counts_as_a_failure_and_the_store_is_asked_before_the_next() {
    for (word, blow) in BLOWS {
        let mut c = Cluster::running(|s| s.backoff_limit = Some(0));
        c.now = at(20);
        blow(&mut c);
        c.settle();
        let a = c.attempt(1);
        assert_eq!((a.outcome, a.reason.as_deref()), (Some(Outcome::Interrupted), Some(word)));
        assert_eq!((c.status().failures, c.status().interruptions), (None, Some(1)), "{word}");
        assert!(matches!(next(&c.job, c.now), Next::No(_)), "{word}: the store is asked first");
        assert!(
            c.nodes.iter().all(|n| n.metadata.deletion_timestamp.is_some() || n.reservations().is_empty() || c.has(Role::Attempt)),
            "{word}"
        );
        c.stored(Role::Resolve, 1, &plain(Mover::Resolve, Answer::Free));
        c.settle();
        assert_eq!(next(&c.job, c.now), Next::NotBefore(at(30)), "{word}");
        c.wait(120);
        assert_eq!(next(&c.job, c.now), Next::Attempt(2), "{word}");
        assert!(c.nodes.iter().all(|n| n.reservations().is_empty()), "{word}");
        assert!(!c.pods.iter().any(|p| !p.metadata.finalizers.clone().unwrap_or_default().is_empty()), "{word}");
    }
}

#[test]
fn an_exit_before_the_disruption_stands_and_one_after_does_not() {
    for (exit, blow, stands) in [(19, 20, true), (20, 20, false), (25, 20, false)] {
        let mut c = Cluster::running(|_| {});
        c.now = at(blow);
        disrupted(&mut c);
        c.now = at(exit);
        c.exit(0, "");
        c.now = at(30);
        c.settle();
        let word = if stands { "Unknown Delivering" } else { "Unknown Waiting" };
        assert_eq!(c.condition(types::SUCCEEDED), word, "exit {exit}, disruption {blow}");
        assert_eq!(c.attempt(1).disruption.is_none(), stands);
    }
}

#[test]
fn a_recorded_exit_outlives_its_node() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.nodes.clear();
    c.pods
        .retain(|p| !p.metadata.name.as_ref().unwrap().starts_with("digits-0-1-") || p.metadata.name.as_ref().unwrap().contains("commit"));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
    c.stored(Role::Commit, 1, &committed(1, Ended::Succeeded));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
}

#[test]
fn a_node_that_goes_before_the_seal_has_lost_the_attempt_within_minutes() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.nodes.clear();
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering", "the seal may have been written just before");
    c.wait(121);
    assert_eq!((c.attempt(1).outcome, c.attempt(1).reason.as_deref()), (Some(Outcome::Interrupted), Some("NodeLost")));
    assert!(c.has(Role::Resolve) && !c.has(Role::Commit));
}

#[test]
fn a_commit_pod_that_is_never_started_is_made_again() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    let first = c.pod(Role::Commit, 1).metadata.uid.clone();
    c.pod(Role::Commit, 1).status.get_or_insert_default().phase = Some("Pending".into());
    c.wait(301);
    assert_ne!(c.pod(Role::Commit, 1).metadata.uid, first);
}

#[test]
fn a_sidecar_that_died_without_a_word_has_lost_the_attempt() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.state(Role::Attempt, 1, STAGE, super::world::ended(137, c.now, ""));
    c.settle();
    assert_eq!(c.attempt(1).reason.as_deref(), Some("SidecarLost"));
    assert!(c.has(Role::Resolve) && !c.has(Role::Commit));
}

#[test]
fn resolve_may_find_the_job_done() {
    let mut c = Cluster::running(|_| {});
    evicted(&mut c);
    c.settle();
    let mut r = committed(1, Ended::Succeeded);
    (r.role, r.outcome, r.reason) = (Mover::Resolve, Answer::RolledForward, "RolledForward".into());
    c.stored(Role::Resolve, 1, &r);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
    assert_eq!((c.attempt(1).outcome, c.attempt(1).storage.as_deref()), (Some(Outcome::Succeeded), Some("Committed")));
}

#[test]
fn a_resolve_that_finds_no_node_does_not_hold_the_job() {
    let mut c = Cluster::running(|_| {});
    evicted(&mut c);
    c.settle();
    assert!(matches!(next(&c.job, c.now), Next::No(_)));
    c.wait(60);
    assert_eq!(c.attempt(1).storage.as_deref(), Some("Unresolved"));
    assert_eq!(next(&c.job, c.now), Next::Attempt(2));
}

#[test]
fn interruptions_have_a_limit_and_a_growing_wait() {
    let mut c = Cluster::new(|s| {
        s.results = None;
        s.interruption_limit = Some(2);
    });
    for (n, wait) in [(1, 10), (2, 20)] {
        c.reserve(&format!("gn-{n}"), n);
        c.settle();
        c.join(&format!("gn-{n}"));
        c.settle();
        c.answer(Role::Attempt, n, FETCH, &failed(Mover::Fetch, reason::STORE_UNREACHABLE, true));
        c.settle();
        assert!(matches!(next(&c.job, c.now), Next::NotBefore(t) if t.duration_since(c.now).as_secs() == wait));
        c.wait(wait);
    }
    c.reserve("gn-3", 3);
    c.settle();
    c.join("gn-3");
    c.settle();
    c.nodes.clear();
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False InterruptionLimitExceeded");
}

#[test]
fn a_launch_that_came_to_nothing_is_no_attempt() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.nodes.clear();
    c.settle();
    assert!(c.status().attempts.is_empty() && c.status().interruptions.is_none());
    assert_eq!(next(&c.job, c.now), Next::Attempt(1));
}

#[test]
fn of_two_reservations_for_one_attempt_one_goes() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-b", 1);
    c.reserve("gn-a", 1);
    c.settle();
    assert_eq!(c.status().node.as_deref(), Some("gn-a"));
    assert!(c.node("gn-b").reservations().is_empty() && !c.node("gn-a").reservations().is_empty());
    assert!(c.actions.iter().any(|a| matches!(a, Action::Release { resource_version, .. } if resource_version == "7")));
}

#[test]
fn after_a_drain_a_job_waits_and_holds_nothing_that_only_an_operator_could_take_away() {
    let mut c = Cluster::running(|s| s.backoff_limit = Some(0));
    (c.now, c.draining) = (at(20), true);
    let now = c.now;
    c.node("gn-1").metadata.deletion_timestamp = Some(Time(now));
    c.settle();
    assert_eq!(c.attempt(1).outcome, Some(Outcome::Interrupted));
    c.nodes.clear();
    c.pods.clear();
    c.wait(30);
    assert_eq!(c.job.metadata.finalizers, None, "nobody may be there to take it away");
    assert_eq!((c.status().failures, c.status().completion_time), (None, None));
    // The next install goes on where this one was.
    c.draining = false;
    c.stored(Role::Resolve, 1, &plain(Mover::Resolve, Answer::Free));
    c.wait(60);
    assert_eq!(next(&c.job, c.now), Next::Attempt(2));
    c.reserve("gn-2", 2);
    c.settle();
    assert!(c.job.metadata.finalizers.is_some());
}

#[test]
fn seconds_that_were_lost_are_counted() {
    let mut c = Cluster::running(|_| {});
    c.wait(60);
    evicted(&mut c);
    c.settle();
    let lost = c.status().receipt.map_or(0, |r| r.lost_seconds);
    assert!((60..=90).contains(&lost), "{lost}");
}

#[test]
fn a_place_that_somebody_else_has_is_none() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.node("gn-1").status.get_or_insert_default().assignments = Some(vec![]);
    c.node("gn-1").spec.launched_for.clear();
    c.settle();
    // Nothing was bought for it: it never was an attempt.
    assert!(c.status().attempts.is_empty() && !c.has(Role::Attempt), "{:?}", c.status().attempts);
}

/// Its number must not be used again: its pod would be met as the next one's, and be interrupted again.
#[test]
fn an_interruption_after_as_many_failures_as_are_kept_stays_on_record() {
    let mut c = Cluster::running(|s| s.backoff_limit = Some(100));
    let open = c.attempt(1);
    let failure = |number| Attempt { number, outcome: Some(Outcome::Failed), ..open.clone() };
    let status = c.job.status.as_mut().unwrap();
    status.attempts = (-31..=0).map(failure).chain([open.clone()]).collect();
    c.now = at(20);
    evicted(&mut c);
    c.settle();
    let last = c.status().attempts.last().cloned().unwrap();
    assert_eq!((last.number, last.outcome, c.status().interruptions), (1, Some(Outcome::Interrupted), Some(1)));
}
