//! Programs that end by themselves: well, badly, and with a store that says no.

use super::world::{Cluster, at, committed, ended, failed, plain, prepare};
use crate::job::facts::{FETCH, Role, STAGE};
use crate::job::next::{Next, next};
use crate::job::plan::Action;
use crate::job::pod::storage::Task;
use gpujob_crds::conditions::job as types;
use gpujob_crds::job_status::Outcome;
use gpujob_transfer::receipt::{Ended, Outcome as Answer, Role as Mover, reason};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateWaiting};

#[test]
fn from_reservation_to_delivered_results() {
    let mut c = Cluster::new(|_| {});
    c.settle();
    assert_eq!((c.status().state.as_deref(), next(&c.job, c.now)), (Some("Waiting"), Next::Attempt(1)));
    assert!(c.job.metadata.finalizers.is_none(), "a job that holds nothing may go at once");

    c.now = at(5);
    c.reserve("gn-1", 1);
    c.settle();
    assert_eq!((c.status().state.as_deref(), c.status().node.as_deref()), (Some("Launching"), Some("gn-1")));
    assert_eq!(c.job.metadata.finalizers.as_ref().unwrap().len(), 1);
    assert!(!c.has(Role::Attempt), "no pod before the Node is proved");

    c.now = at(40);
    c.join("gn-1");
    c.settle();
    assert_eq!(c.status().state.as_deref(), Some("Starting"));
    assert_eq!(c.attempt(1).pod_uid.as_deref(), Some("pod-2"));
    assert_eq!(c.attempt(1).template_hash.map(|h| h.len()), Some(16));

    c.now = at(50);
    c.start();
    c.settle();
    assert_eq!((c.status().state.as_deref(), c.condition(types::RUNNING)), (Some("Running"), "True Running".into()));

    c.now = at(110);
    c.exit(0, "");
    let (first, _) = c.pass();
    assert_eq!(c.attempt(1).exit_code, Some(0));
    assert!(
        !first.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { .. })),
        "the exit is on record before anything is decided from it"
    );
    c.settle();
    assert_eq!(c.status().state.as_deref(), Some("Delivering"));
    assert!(
        c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::CommitSucceeded, pod_uid, .. } if pod_uid == "pod-2"))
    );
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");

    c.now = at(113);
    c.answer(Role::Attempt, 1, STAGE, &plain(Mover::Stage, Answer::Sealed));
    c.stored(Role::Commit, 1, &committed(1, Ended::Succeeded));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
    assert_eq!((c.condition(types::RECONCILING), c.condition(types::STALLED)), ("False Ended".into(), "False Delivered".into()));
    assert_eq!(c.condition(types::RESULTS_STORED), "True Committed");
    let (status, a) = (c.status(), c.attempt(1));
    assert_eq!((a.outcome, a.storage.as_deref()), (Some(Outcome::Succeeded), Some("Committed")));
    assert_eq!(status.summary.unwrap()["accuracy"], 0.97);
    let r = status.receipt.unwrap();
    assert_eq!((r.queue_seconds, r.start_seconds, r.run_seconds, r.delivery_seconds, r.lost_seconds), (5, 45, 60, 3, 0));
    // 108 s from reservation to the commit at 3.60 per hour.
    assert_eq!((r.dollars.unwrap().to_string(), r.files, r.bytes), ("0.108".into(), 3, 1200));
    assert_eq!(r.manifest.as_deref(), Some("s3://runs/digits/.gpujob/manifest.json"));
    let order: Vec<usize> = [
        c.actions.iter().position(|a| matches!(a, Action::Release { .. })),
        c.actions.iter().position(|a| matches!(a, Action::RemovePodFinalizer { .. })),
        c.actions.iter().position(|a| matches!(a, Action::RemoveJobFinalizer)),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(order.len() == 3 && order.is_sorted(), "{order:?}");
    assert_eq!(c.nodes[0].reservations(), []);
    assert!(c.has(Role::Attempt), "the pod stays for its log");
    assert_eq!(next(&c.job, c.now), Next::No("it has ended"));
}

#[test]
fn a_store_without_conditional_writes_is_told_with_the_place_of_the_results() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    let mut r = committed(1, Ended::Succeeded);
    r.published_under = Some("attempt-1/".into());
    r.manifest.as_mut().unwrap().key = "attempt-1/.gpujob/manifest.json".into();
    c.stored(Role::Commit, 1, &r);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
    assert!(c.message().contains("at s3://runs/digits/attempt-1/: its store does no conditional writes"), "{}", c.message());
    assert_eq!(c.condition(types::RESULTS_STORED), "True NoConditionalWrites");
    assert_eq!(c.status().receipt.unwrap().manifest.as_deref(), Some("s3://runs/digits/attempt-1/.gpujob/manifest.json"));
}

#[test]
fn without_results_exit_zero_is_enough() {
    let mut c = Cluster::running(|s| s.results = None);
    c.exit(0, "");
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Completed");
    assert_eq!(c.condition(types::RESULTS_STORED), "absent");
    assert!(!c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { .. })));
    assert_eq!(c.nodes[0].reservations(), []);
}

#[test]
fn a_failing_program_is_discarded_run_again_and_kept_the_last_time() {
    let mut c = Cluster::running(|s| s.backoff_limit = Some(1));
    c.exit(3, "ValueError: no such column");
    c.settle();
    assert_eq!((c.attempt(1).outcome, c.status().failures), (Some(Outcome::Failed), Some(1)));
    assert_eq!(c.attempt(1).message.as_deref(), Some("ValueError: no such column"));
    assert!(c.actions.iter().any(|a| matches!(a, Action::SaveLog { .. })));
    assert_eq!(c.nodes[0].reservations(), [], "the GPU is free once the program has ended");
    assert!(matches!(next(&c.job, c.now), Next::No(_)), "not before the store holds nothing of attempt 1");
    c.stored(Role::Discard, 1, &plain(Mover::Discard, Answer::Discarded));
    c.settle();
    assert_eq!(c.attempt(1).storage.as_deref(), Some("Discarded"));
    assert!(matches!(next(&c.job, c.now), Next::NotBefore(t) if t == at(10)));
    c.wait(10);
    assert_eq!(next(&c.job, c.now), Next::Attempt(2));

    c.reserve("gn-2", 2);
    c.settle();
    c.join("gn-2");
    c.settle();
    c.start();
    c.settle();
    c.exit(4, "boom");
    c.settle();
    assert!(c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::CommitFailed(4), .. })));
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
    c.stored(Role::Commit, 2, &committed(2, Ended::Failed));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False BackoffLimitExceeded");
    assert_eq!(c.condition(types::STALLED), "True BackoffLimitExceeded");
    assert_eq!(c.condition(types::RESULTS_STORED), "True CommittedAsFailed");
    assert!(c.message().contains("exit code 4") && c.message().contains("boom"), "{}", c.message());
    assert_eq!((c.status().failures, c.status().interruptions), (Some(2), None));
    assert!(c.job.metadata.finalizers.is_none() && c.nodes.iter().all(|n| n.reservations().is_empty()));
}

#[test]
fn permanent_fetch_errors_end_the_job_with_their_words() {
    for word in [reason::BUCKET_NOT_FOUND, reason::INVALID_CREDENTIALS, reason::INPUT_NOT_FOUND, reason::DESTINATION_NOT_EMPTY] {
        let mut c = Cluster::new(|_| {});
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        c.answer(Role::Attempt, 1, FETCH, &failed(Mover::Fetch, word, false));
        c.settle();
        assert_eq!(c.condition(types::SUCCEEDED), format!("False {word}"));
        assert_eq!(c.condition(types::STALLED), format!("True {word}"));
        assert_eq!(c.message(), format!("{word}, in words."));
        assert!(c.nodes[0].reservations().is_empty() && c.job.metadata.finalizers.is_none());
        assert_eq!(c.status().failures, None, "not the program's failure");
    }
}

#[test]
fn exit_code_two_without_a_receipt_is_permanent_and_one_is_not() {
    for (code, condition) in [(2, "False FetchFailed"), (1, "Unknown Waiting")] {
        let mut c = Cluster::new(|_| {});
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        c.state(Role::Attempt, 1, FETCH, ended(code, c.now, "gibberish"));
        c.settle();
        assert_eq!(c.condition(types::SUCCEEDED), condition);
    }
}

#[test]
fn results_that_are_there_already_are_taken() {
    for (word, own) in [(reason::RESULTS_REUSED, true), ("AlreadyCommitted", false)] {
        let mut c = Cluster::new(|_| {});
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        let mut r = committed(1, Ended::Succeeded);
        (r.outcome, r.reason, r.role) = (Answer::AlreadyCommitted, word.into(), Mover::Fetch);
        assert_eq!(r.exit_code(), 93);
        c.answer(Role::Attempt, 1, FETCH, &r);
        c.settle();
        assert_eq!(c.condition(types::SUCCEEDED), format!("True {word}"), "{own}");
        assert_eq!(c.status().receipt.unwrap().manifest_sha256.unwrap().len(), 64);
        assert!(c.nodes[0].reservations().is_empty());
    }
}

#[test]
fn a_delivery_that_cannot_work_fails_with_its_reason() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.answer(Role::Attempt, 1, STAGE, &failed(Mover::Stage, reason::ACCESS_DENIED, false));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False AccessDenied");
    assert_eq!(c.condition(types::RESULTS_STORED), "False NotDelivered");
    assert!(c.message().contains("could not be delivered"), "{}", c.message());
    assert!(!c.has(Role::Commit), "nobody waits for a seal that never comes");
}

#[test]
fn a_commit_that_may_pass_is_tried_again_and_a_lost_one_runs_again() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.stored(Role::Commit, 1, &failed(Mover::Commit, reason::STORE_UNREACHABLE, true));
    c.settle();
    let before = c.pod(Role::Commit, 1).metadata.uid.clone();
    c.wait(10);
    assert_ne!(c.pod(Role::Commit, 1).metadata.uid, before, "made anew");
    c.stored(Role::Commit, 1, &failed(Mover::Commit, reason::STAGED_FILE_LOST, true));
    c.settle();
    assert_eq!((c.attempt(1).outcome, c.attempt(1).reason.as_deref()), (Some(Outcome::Interrupted), Some("StagedFileLost")));
    assert_eq!(c.status().failures, None);
}

#[test]
fn an_image_that_never_comes_is_given_up() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.settle();
    let waiting = ContainerStateWaiting { reason: Some("ImagePullBackOff".into()), message: Some("no such tag".into()) };
    c.state(Role::Attempt, 1, "main", ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    c.settle();
    assert!(c.message().contains("no such tag"));
    c.wait(300);
    assert_eq!(c.condition(types::SUCCEEDED), "False ImagePullBackOff");
}

#[test]
fn a_sidecar_of_the_users_that_ends_badly_is_no_failure_of_the_program() {
    let mut c = Cluster::running(|s| {
        s.backoff_limit = Some(0);
        prepare(s, Some("Always"));
    });
    let now = c.now;
    c.state(Role::Attempt, 1, "prepare", ended(1, now, ""));
    c.settle();
    assert_eq!((c.attempt(1).exit_code, c.attempt(1).outcome, c.status().failures), (None, None, None));
}

/// The pod is made before the GPUs are there and the inputs fetched: all of that is no waiting for an image.
#[test]
fn an_image_that_is_missed_late_is_borne_as_long_as_one_that_is_missed_early() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.settle();
    c.wait(900);
    let now = c.now;
    c.state(Role::Attempt, 1, FETCH, ended(0, now, ""));
    let waiting = ContainerStateWaiting { reason: Some("ErrImagePull".into()), message: Some("429".into()) };
    c.state(Role::Attempt, 1, "main", ContainerState { waiting: Some(waiting), ..ContainerState::default() });
    c.wait(299);
    assert_eq!(c.attempt(1).outcome, None);
    c.wait(1);
    assert_eq!(c.condition(types::SUCCEEDED), "False ErrImagePull");
}

#[test]
fn what_the_sidecar_could_not_save_is_said_with_the_results() {
    let mut c = Cluster::running(|_| {});
    c.now = at(30);
    c.exit(0, "");
    c.settle();
    let mut sealed = plain(Mover::Stage, Answer::Sealed);
    sealed.warnings = vec!["checkpoint 3 was not saved: its folder has too many files".into()];
    c.answer(Role::Attempt, 1, STAGE, &sealed);
    c.stored(Role::Commit, 1, &committed(1, Ended::Succeeded));
    c.settle();
    assert_eq!(c.condition(types::RESULTS_STORED), "True Committed");
    let status = c.status();
    let said = status.conditions.iter().find(|x| x.type_ == types::RESULTS_STORED).map(|x| x.message.clone());
    assert_eq!(said.as_deref(), Some("checkpoint 3 was not saved: its folder has too many files."));
}
