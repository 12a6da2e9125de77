//! Deadlines, suspension, deletion, time to live, and pods that are refused.

use super::world::{Cluster, at, committed};
use crate::job::facts::{Role, STAGE};
use crate::job::next::{Next, next};
use crate::job::plan::{Action, plan, refused};
use crate::job::pod::storage::Task;
use gpujob_crds::conditions::{self, job as types};
use gpujob_crds::job_status::Outcome;
use gpujob_transfer::receipt::{Ended, Outcome as Answer, Receipt, Role as Mover};
use k8s_openapi::api::core::v1::PodCondition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

#[test]
fn a_pod_that_its_node_refuses_ends_and_only_a_size_speaks_of_the_type() {
    let others = "4 node(s) didn't match Pod's node affinity/selector. preemption: 0/5 nodes are available: 5 No preemption victims found.";
    for (words, reason) in [
        ("1 Insufficient cpu", "Misfit"),
        ("1 Insufficient memory, 1 Insufficient nvidia.com/gpu", "Misfit"),
        ("1 Insufficient ephemeral-storage", "Misfit"),
        ("1 Too many pods", "Misfit"),
        ("1 Insufficient nvidia.com/gpu", "Unschedulable"),
        ("1 node(s) were unschedulable", "Unschedulable"),
        ("1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }", "Unschedulable"),
    ] {
        let mut c = Cluster::new(|_| {});
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        let gpus = conditions::want(conditions::node::INITIALIZED, true, "Initialized", "");
        let now = c.now;
        conditions::set(&mut c.node("gn-1").status.as_mut().expect("set").conditions, &gpus, 1, now);
        c.settle();
        let message = format!("0/5 nodes are available: {words}, {others}");
        let scheduled = PodCondition { type_: "PodScheduled".into(), status: "False".into(), message: Some(message), ..Default::default() };
        c.pod(Role::Attempt, 1).status.get_or_insert_default().conditions = Some(vec![scheduled]);
        c.wait(119);
        assert_eq!(c.attempt(1).outcome, None, "{words}");
        c.wait(2);
        assert_eq!(c.attempt(1).reason.as_deref(), Some(reason), "{words}");
        assert_eq!(c.attempt(1).outcome, Some(Outcome::Interrupted), "{words}");
    }
}

#[test]
fn the_active_deadline_stops_the_program_and_keeps_what_it_left() {
    let mut c = Cluster::running(|s| s.active_deadline_seconds = Some(100));
    assert_eq!(c.settle().wake, Some(at(100)));
    c.wait(100);
    assert_eq!(c.grace(1), Some(None), "the pod's own grace has room for delivery");
    assert_eq!(c.status().attempts[0].outcome, None);
    c.now = at(104);
    c.exit(143, "");
    c.settle();
    assert!(c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::CommitFailed(143), .. })));
    c.stored(Role::Commit, 1, &committed(1, Ended::Failed));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False DeadlineExceeded");
    assert_eq!(c.condition(types::RESULTS_STORED), "True CommittedAsFailed");
    assert_eq!(c.status().failures, None);
}

#[test]
fn an_exit_zero_on_sigterm_of_the_deadline_is_no_success() {
    let mut c = Cluster::running(|s| s.active_deadline_seconds = Some(100));
    c.wait(100);
    c.now = at(101);
    c.exit(0, "");
    c.settle();
    assert!(!c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::CommitSucceeded, .. })));
}

#[test]
fn the_queue_deadline_ends_a_job_that_never_started() {
    let mut c = Cluster::new(|s| s.queue_deadline_seconds = Some(30));
    assert_eq!(c.settle().wake, Some(at(30)));
    c.reserve("gn-1", 1);
    c.wait(30);
    assert_eq!(c.condition(types::SUCCEEDED), "False QueueDeadlineExceeded");
    assert!(c.nodes[0].reservations().is_empty());
    let mut c = Cluster::running(|s| s.queue_deadline_seconds = Some(30));
    c.wait(60);
    assert_eq!(c.status().state.as_deref(), Some("Running"));
}

#[test]
fn suspending_stops_the_attempt_gives_the_node_back_and_counts_nothing() {
    let mut c = Cluster::running(|_| {});
    c.job.spec.suspend = Some(true);
    c.settle();
    assert_eq!((c.attempt(1).outcome, c.attempt(1).reason.as_deref()), (Some(Outcome::Interrupted), Some("Suspended")));
    assert_eq!(c.condition(types::SUSPENDED), "False Stopping");
    assert_eq!(c.grace(1), Some(Some(100)));
    assert!(!c.nodes[0].reservations().is_empty(), "the program still runs on it");
    c.exit(143, "");
    c.answer(Role::Attempt, 1, STAGE, &Receipt::new(Mover::Stage, Answer::Sealed, ""));
    c.settle();
    assert!(c.nodes[0].reservations().is_empty());
    assert_eq!(c.condition(types::SUSPENDED), "True Suspended");
    assert_eq!((c.status().interruptions, c.status().failures), (None, None));
    c.stored(Role::Resolve, 1, &Receipt::new(Mover::Resolve, Answer::Free, ""));
    c.settle();
    assert_eq!(next(&c.job, c.now), Next::No("it is suspended"));
    c.job.spec.suspend = Some(false);
    c.settle();
    assert_eq!((next(&c.job, c.now), c.condition(types::SUSPENDED)), (Next::Attempt(2), "False Resumed".into()));
}

#[test]
fn deletion_goes_outcome_reservation_pod_job() {
    let mut c = Cluster::running(|_| {});
    c.job.metadata.deletion_timestamp = Some(Time(at(20)));
    c.now = at(20);
    let (first, _) = c.pass();
    assert!(first.actions.is_empty(), "the outcome first: {:?}", first.actions);
    assert_eq!(c.attempt(1).reason.as_deref(), Some("Deleted"));
    c.settle();
    assert!(!c.gone && !c.nodes[0].reservations().is_empty(), "the program still runs");
    c.exit(143, "");
    c.settle();
    assert!(!c.gone, "the destination is given back first");
    c.stored(Role::Release, 1, &Receipt::new(Mover::Discard, Answer::Discarded, ""));
    c.settle();
    assert!(c.gone && c.nodes[0].reservations().is_empty() && !c.has(Role::Attempt));
    let kinds: Vec<_> = c.actions.iter().rev().take(3).rev().collect();
    assert!(matches!(kinds[..], [Action::Release { .. }, Action::RemovePodFinalizer { .. }, Action::RemoveJobFinalizer]), "{kinds:?}");
}

#[test]
fn a_pod_that_never_ends_holds_no_reservation_for_ever() {
    let mut c = Cluster::running(|_| {});
    c.job.metadata.deletion_timestamp = Some(Time(at(0)));
    c.settle();
    assert!(!c.gone);
    c.wait(120);
    assert!(c.gone && c.nodes[0].reservations().is_empty());
}

#[test]
fn time_to_live_deletes_what_has_ended() {
    let mut c = Cluster::running(|s| {
        s.results = None;
        s.ttl_seconds_after_finished = Some(60);
    });
    c.exit(0, "");
    assert_eq!(c.settle().wake, Some(at(60)));
    c.now = at(60);
    c.pass();
    assert!(c.gone && c.actions.contains(&Action::DeleteJob));
}

#[test]
fn a_settled_job_only_follows_its_generation() {
    let mut c = Cluster::running(|s| s.results = None);
    c.exit(0, "");
    c.settle();
    let before = c.status();
    c.wait(100_000);
    assert_eq!(c.status(), before);
    c.job.metadata.generation = Some(2);
    c.settle();
    assert_eq!(c.status().observed_generation, Some(2));
    assert_eq!(c.status().completion_time, before.completion_time);
}

#[test]
fn a_refused_pod_ends_the_job_with_the_words_of_the_refusal() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.pass();
    c.pods.clear();
    let p = refused(&c.world(), c.now, "PodRejected", "violates PodSecurity");
    c.job.status = Some(p.status);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False PodRejected");
    assert_eq!(c.message(), "violates PodSecurity");
    assert!(c.nodes[0].reservations().is_empty() && c.job.metadata.finalizers.is_none());
}

#[test]
fn a_job_of_another_controller_is_left_alone() {
    let mut c = Cluster::new(|s| s.managed_by = Some("kueue.x-k8s.io/multikueue".into()));
    c.reserve("gn-1", 1);
    let p = plan(&c.world(), c.now);
    assert!(p.actions.is_empty() && p.status == Default::default());
}

#[test]
fn a_finalizer_of_somebody_else_does_not_keep_a_job_for_ever() {
    let mut c = Cluster::running(|s| {
        s.ttl_seconds_after_finished = Some(60);
        s.results = None;
    });
    c.exit(0, "");
    c.settle();
    c.wait(10);
    assert_eq!(c.condition(types::SUCCEEDED), "True Completed");
    c.job.metadata.finalizers.get_or_insert_default().push("somebody.else/audit".into());
    c.now = at(75);
    c.pass();
    assert!(c.actions.contains(&Action::DeleteJob), "who holds it lets it go itself: {:?}", c.actions);
}
