//! A destination whose holder is gone is taken over, and nobody else's is.

use super::world::{Cluster, at, failed, plain};
use crate::job::facts::{FETCH, Role};
use gpujob_crds::conditions::job as types;
use gpujob_crds::job_status::Outcome;
use gpujob_transfer::receipt::{Holder, Outcome as Answer, Receipt, Role as Mover, reason};
use gpujob_transfer::spec::TransferSpec;

const HERE: &str = "this-cluster";

/// A refusal, because that job holds the destination.
fn held(by: Mover, uid: &str, cluster: &str) -> Receipt {
    let holder = Holder { uid: uid.into(), job: "team/older".into(), cluster: cluster.into() };
    Receipt { holder: Some(holder), ..failed(by, reason::DESTINATION_IN_USE, false) }
}

/// A job whose node is there: its fetch is the first to ask.
fn starting() -> Cluster {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.settle();
    c
}

/// One pass as `act::reconcile` makes it, with these jobs alive.
fn look(c: &mut Cluster, alive: &[&str]) {
    if let Some(holder) = c.world().suspect(HERE).filter(|h| !alive.contains(&h.uid.as_str())) {
        c.absent.push(holder.uid);
    }
    c.settle();
    // What one pass has read is no other's to know.
    c.absent.clear();
    c.settle();
}

/// Whose claims the containers of an attempt's pod may take.
fn told(c: &mut Cluster, attempt: i32) -> Vec<String> {
    let spec = c.pod(Role::Attempt, attempt).spec.clone().unwrap();
    let fetch = spec.init_containers.unwrap().into_iter().find(|i| i.name == FETCH).unwrap();
    let text = fetch.env.unwrap().into_iter().find(|e| e.name == "GPUJOB_TRANSFER").unwrap().value.unwrap();
    serde_json::from_str::<TransferSpec>(&text).unwrap().abandoned
}

#[test]
fn the_next_attempt_takes_over_what_a_gone_job_held() {
    let mut c = starting();
    assert!(told(&mut c, 1).is_empty());
    c.answer(Role::Attempt, 1, FETCH, &held(Mover::Fetch, "older-uid", HERE));
    look(&mut c, &[]);
    assert_eq!((c.attempt(1).outcome, c.attempt(1).reason.as_deref()), (Some(Outcome::Interrupted), Some("DestinationAbandoned")));
    assert_eq!((c.status().abandoned, c.status().failures), (vec!["older-uid".to_owned()], None));
    assert!(!c.has(Role::Resolve), "it claimed nothing: there is nothing to ask");
    c.wait(10);
    c.reserve("gn-2", 2);
    c.settle();
    c.join("gn-2");
    c.settle();
    assert_eq!(told(&mut c, 2), ["older-uid"]);
    // Refused again by the very same, that cannot be mended by a third try.
    c.answer(Role::Attempt, 2, FETCH, &held(Mover::Fetch, "older-uid", HERE));
    look(&mut c, &[]);
    assert_eq!(c.condition(types::SUCCEEDED), "False DestinationInUse");
}

#[test]
fn what_is_alive_or_of_another_cluster_keeps_its_claim() {
    for (cluster, alive) in [(HERE, &["older-uid"][..]), ("another-cluster", &[]), ("", &[])] {
        let mut c = starting();
        c.answer(Role::Attempt, 1, FETCH, &held(Mover::Fetch, "older-uid", cluster));
        look(&mut c, alive);
        assert_eq!(c.condition(types::SUCCEEDED), "False DestinationInUse", "{cluster}");
        assert!(c.status().abandoned.is_empty());
    }
}

#[test]
fn a_check_that_meets_it_costs_no_attempt() {
    for (alive, condition) in [(&[][..], "Unknown Launching"), (&["older-uid"], "False DestinationInUse")] {
        let mut c = Cluster::new(|_| {});
        c.reserve("gn-1", 1);
        c.settle();
        c.launch("gn-1");
        c.settle();
        c.now = at(3);
        c.stored(Role::Check, 1, &held(Mover::Check, "older-uid", HERE));
        look(&mut c, alive);
        assert_eq!(c.condition(types::SUCCEEDED), condition);
        if alive.is_empty() {
            assert_eq!(c.condition(types::STORAGE_READY), "Unknown NotChecked");
            c.join("gn-1");
            c.settle();
            assert_eq!(told(&mut c, 1), ["older-uid"]);
        }
    }
}

#[test]
fn a_question_between_attempts_that_meets_it_is_answered() {
    for alive in [&[][..], &["older-uid"]] {
        let mut c = starting();
        // The node goes before the first attempt's fetch has claimed anything.
        c.nodes.clear();
        c.settle();
        assert!(c.has(Role::Resolve));
        c.stored(Role::Resolve, 1, &held(Mover::Resolve, "older-uid", HERE));
        look(&mut c, alive);
        if alive.is_empty() {
            assert_eq!((c.status().abandoned, c.attempt(1).storage.as_deref()), (vec!["older-uid".to_owned()], Some("Unresolved")));
        } else {
            assert_eq!(c.condition(types::SUCCEEDED), "False DestinationInUse");
        }
    }
}

#[test]
fn nothing_is_asked_about_jobs_that_hold_nothing() {
    let mut c = starting();
    assert_eq!(c.world().suspect(HERE), None);
    c.answer(Role::Attempt, 1, FETCH, &plain(Mover::Fetch, Answer::Done));
    assert_eq!(c.world().suspect(HERE), None);
    let mut c = starting();
    c.answer(Role::Attempt, 1, FETCH, &held(Mover::Fetch, "older-uid", HERE));
    assert_eq!((c.world().suspect(HERE).map(|h| h.job), c.world().suspect("")), (Some("team/older".into()), None));
}
