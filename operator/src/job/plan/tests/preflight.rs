//! What a short pod finds out while the first instance is on its way.

use super::world::{Cluster, at, committed, failed, plain};
use crate::job::facts::Role;
use crate::job::plan::Action;
use crate::job::pod::storage::Task;
use gpujob_crds::GpuJobSpec;
use gpujob_crds::conditions::job as types;
use gpujob_transfer::receipt::{Ended, Outcome as Answer, Role as Mover, reason};

/// A job whose first instance is being launched.
fn launching(change: impl FnOnce(&mut GpuJobSpec)) -> Cluster {
    let mut c = Cluster::new(change);
    c.reserve("gn-1", 1);
    c.settle();
    c.launch("gn-1");
    c.settle();
    c
}

#[test]
fn a_job_that_can_never_work_is_told_so_and_its_launch_is_cancelled() {
    for word in [reason::BUCKET_NOT_FOUND, reason::INVALID_CREDENTIALS, reason::INPUT_NOT_FOUND, reason::DESTINATION_NOT_EMPTY] {
        let mut c = launching(|_| {});
        assert!(c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::Check, pod_uid, .. } if pod_uid.is_empty())));
        assert_eq!(c.condition(types::STORAGE_READY), "Unknown Checking");
        c.now = at(3);
        c.stored(Role::Check, 1, &failed(Mover::Check, word, false));
        c.settle();
        assert_eq!(c.condition(types::SUCCEEDED), format!("False {word}"));
        assert_eq!(c.condition(types::STORAGE_READY), format!("False {word}"));
        assert_eq!(c.message(), format!("{word}, in words. Nothing was run."));
        assert!(c.node("gn-1").reservations().is_empty() && c.job.metadata.finalizers.is_none());
        assert!(!c.has(Role::Attempt) && !c.has(Role::Release), "nothing was claimed");
    }
}

#[test]
fn what_is_well_is_said_and_holds_nothing_up() {
    let mut c = launching(|_| {});
    c.stored(Role::Check, 1, &plain(Mover::Check, Answer::Done));
    c.settle();
    assert_eq!(c.condition(types::STORAGE_READY), "True Checked");
    c.join("gn-1");
    c.settle();
    assert!(c.has(Role::Attempt));
}

#[test]
fn a_node_that_is_there_already_answers_as_fast_itself() {
    let c = Cluster::running(|_| {});
    assert!(!c.has(Role::Check));
    assert_eq!(c.condition(types::STORAGE_READY), "True Reached");
    let mut c = launching(|_| {});
    c.join("gn-1");
    c.settle();
    assert!(c.has(Role::Attempt), "the pod is not waited for");
    assert!(!c.has(Role::Check), "nor needed any more");
    c.start();
    c.settle();
    assert_eq!(c.condition(types::STORAGE_READY), "True Reached");
}

#[test]
fn where_no_cpu_node_has_room_the_attempt_finds_out() {
    let mut c = launching(|_| {});
    assert_eq!(c.wait(19).wake, Some(at(20)));
    c.wait(1);
    assert_eq!(c.condition(types::STORAGE_READY), "Unknown NotChecked");
    assert!(!c.has(Role::Check), "nobody waits for it");
    c.wait(100);
    let made = c.actions.iter().filter(|a| matches!(a, Action::CreateStoragePod { .. })).count();
    assert_eq!((made, c.condition(types::SUCCEEDED)), (1, "Unknown Launching".into()));
}

#[test]
fn a_store_that_does_not_answer_now_dooms_nobody() {
    let mut c = launching(|_| {});
    c.stored(Role::Check, 1, &failed(Mover::Check, reason::STORE_UNREACHABLE, true));
    c.settle();
    assert_eq!(
        (c.condition(types::STORAGE_READY), c.condition(types::SUCCEEDED)),
        ("Unknown NotChecked".into(), "Unknown Launching".into())
    );
}

#[test]
fn results_that_are_there_already_need_no_node() {
    let mut c = launching(|_| {});
    let mut r = committed(1, Ended::Succeeded);
    (r.outcome, r.reason, r.role) = (Answer::AlreadyCommitted, reason::RESULTS_REUSED.into(), Mover::Check);
    c.stored(Role::Check, 1, &r);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True ResultsReused");
    assert!(c.node("gn-1").reservations().is_empty() && !c.has(Role::Attempt));
}

#[test]
fn nothing_to_move_is_nothing_to_look_at() {
    let c = launching(|s| s.results = None);
    assert!(!c.has(Role::Check));
    assert_eq!(c.condition(types::STORAGE_READY), "absent");
}

#[test]
fn later_attempts_know_what_the_first_has_found() {
    let mut c = Cluster::running(|_| {});
    c.nodes.clear();
    c.settle();
    c.stored(Role::Resolve, 1, &plain(Mover::Resolve, Answer::Free));
    c.wait(130);
    c.reserve("gn-2", 2);
    c.settle();
    c.launch("gn-2");
    c.settle();
    assert_eq!(c.status().attempt, Some(2));
    assert!(!c.has(Role::Check));
}
