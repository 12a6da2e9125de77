//! Destinations that are given back, and deliveries that nobody waits for any longer.

use super::world::{Cluster, at, committed, failed, plain};
use crate::job::facts::{FETCH, Role, STAGE};
use crate::job::plan::Action;
use crate::job::pod::storage::Task;
use gpujob_crds::conditions::{find, job as types};
use gpujob_crds::job_status::Outcome;
use gpujob_transfer::receipt::{Ended, Outcome as Answer, Receipt, Role as Mover, reason};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// A job that failed for good after its attempt had claimed the destination.
fn failed_after_claim() -> Cluster {
    let mut c = Cluster::running(|s| s.interruption_limit = Some(0));
    c.nodes.clear();
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False InterruptionLimitExceeded");
    c
}

fn asks_to_release(c: &Cluster) -> usize {
    c.actions.iter().filter(|a| matches!(a, Action::CreateStoragePod { task: Task::Release { .. }, .. })).count()
}

#[test]
fn a_job_that_failed_for_good_gives_its_destination_back() {
    let mut c = failed_after_claim();
    assert_eq!(asks_to_release(&c), 1);
    let keeps = |a: &Action| matches!(a, Action::CreateStoragePod { task: Task::Release { forget: false }, .. });
    assert!(c.actions.iter().any(keeps), "somebody may look into its checkpoints");
    assert!(c.job.metadata.finalizers.is_none(), "its end waits for nothing");
    c.stored(Role::Release, 1, &plain(Mover::Discard, Answer::Discarded));
    c.settle();
    assert_eq!(c.attempt(1).storage.as_deref(), Some("Released"));
    c.wait(10_000);
    assert_eq!(asks_to_release(&c), 1);
}

#[test]
fn a_store_that_does_not_answer_is_asked_again_and_then_left_alone() {
    let mut c = failed_after_claim();
    c.stored(Role::Release, 1, &failed(Mover::Discard, reason::STORE_UNREACHABLE, true));
    c.wait(10);
    assert_eq!(asks_to_release(&c), 2);
    c.wait(600);
    assert!(!c.has(Role::Release));
    assert_eq!((c.attempt(1).storage, c.settle().wake), (None, None));
}

#[test]
fn a_claim_that_was_refused_is_nobodys_to_give_back() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.settle();
    c.answer(Role::Attempt, 1, FETCH, &failed(Mover::Fetch, reason::DESTINATION_IN_USE, false));
    c.settle();
    assert_eq!((c.condition(types::SUCCEEDED), asks_to_release(&c)), ("False DestinationInUse".into(), 0));
}

#[test]
fn delivered_results_are_kept_by_their_job() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.settle();
    c.stored(Role::Commit, 1, &committed(1, Ended::Succeeded));
    c.settle();
    c.job.metadata.deletion_timestamp = Some(Time(at(20)));
    c.settle();
    assert_eq!(asks_to_release(&c), 0);
}

#[test]
fn a_job_that_is_deleted_gives_its_destination_back_before_it_goes() {
    for answers in [true, false] {
        let mut c = Cluster::running(|_| {});
        c.now = at(20);
        c.job.metadata.deletion_timestamp = Some(Time(at(20)));
        c.settle();
        assert_eq!(asks_to_release(&c), 1, "while the program still ends");
        assert!(c.actions.iter().any(|a| matches!(a, Action::CreateStoragePod { task: Task::Release { forget: true }, .. })));
        c.exit(143, "");
        c.settle();
        assert!(!c.gone && c.nodes[0].reservations().is_empty());
        if answers {
            c.stored(Role::Release, 1, &plain(Mover::Discard, Answer::Discarded));
            c.settle();
        } else {
            c.wait(20); // a namespace that ends takes no new pods
        }
        assert!(c.gone, "answers: {answers}");
    }
}

#[test]
fn a_job_that_never_claimed_anything_is_deleted_at_once() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.job.metadata.deletion_timestamp = Some(Time(at(5)));
    c.settle();
    assert!(c.gone && asks_to_release(&c) == 0);
}

/// A delivery that ran out of time at second 60.
fn late() -> Cluster {
    let mut c = Cluster::running(|s| s.delivery_deadline_seconds = Some(60));
    c.exit(0, "");
    assert_eq!(c.settle().wake, Some(at(60)));
    c.wait(60);
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering", "the results may yet be published");
    assert_eq!(asks_to_release(&c), 1);
    c
}

#[test]
fn a_late_delivery_fails_once_the_store_says_that_nothing_will_be_published() {
    let mut c = late();
    c.stored(Role::Commit, 1, &Receipt { outcome: Answer::Revoked, ..failed(Mover::Commit, reason::REVOKED, false) });
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering", "revoked by our own word");
    c.stored(Role::Release, 1, &plain(Mover::Discard, Answer::Discarded));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False DeliveryDeadlineExceeded");
    assert_eq!((c.attempt(1).outcome, c.attempt(1).storage.as_deref()), (Some(Outcome::Failed), Some("Released")));
    assert!(c.job.metadata.finalizers.is_none() && c.nodes[0].reservations().is_empty());
    assert_eq!(asks_to_release(&c), 1, "given back once");
}

#[test]
fn a_late_delivery_that_was_past_the_point_of_no_return_succeeds() {
    let mut c = late();
    let mut r = committed(1, Ended::Succeeded);
    (r.role, r.outcome, r.reason) = (Mover::Discard, Answer::RolledForward, "RolledForward".into());
    c.stored(Role::Release, 1, &r);
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
    assert_eq!(c.condition(types::RESULTS_STORED), "True Committed");
}

#[test]
fn a_seal_that_comes_after_the_question_changes_nothing() {
    let mut c = late();
    c.answer(Role::Attempt, 1, STAGE, &plain(Mover::Stage, Answer::Sealed));
    c.stored(Role::Commit, 1, &Receipt { outcome: Answer::Revoked, ..failed(Mover::Commit, reason::REVOKED, false) });
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering", "revoked by our own word: not run again");
    c.stored(Role::Release, 1, &plain(Mover::Discard, Answer::Discarded));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "False DeliveryDeadlineExceeded");
    assert_eq!((c.status().interruptions, c.attempt(1).storage.as_deref()), (None, Some("Released")));
}

#[test]
fn a_late_delivery_ends_some_time_though_the_store_says_nothing() {
    let mut c = late();
    c.stored(Role::Release, 1, &failed(Mover::Discard, reason::STORE_UNREACHABLE, true));
    c.wait(600);
    assert_eq!(c.condition(types::SUCCEEDED), "False DeliveryDeadlineExceeded");
    assert!(c.message().contains(".gpujob/epoch"), "{}", c.message());
}

#[test]
fn what_is_staged_is_kept_from_its_seal_on() {
    let mut c = Cluster::running(|_| {});
    c.exit(0, "");
    c.wait(1000);
    c.answer(Role::Attempt, 1, STAGE, &plain(Mover::Stage, Answer::Sealed));
    c.stored(Role::Commit, 1, &failed(Mover::Commit, reason::ACCESS_DENIED, false));
    c.settle();
    assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
    let said = find(&c.status().conditions, types::SUCCEEDED).unwrap().message.clone();
    assert!(said.contains("The results are staged at the destination and kept until 1970-01-12T14:13:20Z"), "{said}");
}

#[test]
fn what_a_person_can_mend_keeps_the_results_where_they_are() {
    for mended in [true, false] {
        let mut c = Cluster::running(|_| {});
        c.exit(0, "");
        c.settle();
        c.stored(Role::Commit, 1, &failed(Mover::Commit, reason::INVALID_CREDENTIALS, false));
        c.settle();
        assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
        let said = find(&c.status().conditions, types::SUCCEEDED).unwrap().message.clone();
        assert!(said.starts_with("InvalidCredentials, in words. The results are on gn-1 and kept there while it may be mended, at least until 1970-01-12T13:56:40Z"), "{said}");
        assert!(c.has(Role::Attempt) && !c.nodes[0].reservations().is_empty());
        if mended {
            c.wait(10);
            c.stored(Role::Commit, 1, &committed(1, Ended::Succeeded));
            c.settle();
            assert_eq!(c.condition(types::SUCCEEDED), "True Delivered");
        } else {
            // The sidecar counts from its own first failure, and says when it has given up.
            c.wait(1000);
            assert_eq!(c.condition(types::SUCCEEDED), "Unknown Delivering");
            c.answer(Role::Attempt, 1, STAGE, &failed(Mover::Stage, reason::INVALID_CREDENTIALS, false));
            c.settle();
            assert_eq!(c.condition(types::SUCCEEDED), "False InvalidCredentials");
        }
    }
}
