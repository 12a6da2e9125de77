//! A node that is paid for, and a pod that does not come to its program.

use super::world::{Cluster, at, ended, prepare};
use crate::job::facts::{FETCH, Role, STAGE};
use crate::job::next::{Next, next};
use crate::job::plan::Action;
use gpujob_crds::conditions::{self, job as types};
use gpujob_crds::job_status::Outcome;
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateRunning, ContainerStateWaiting, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

const FULL: &str = "pods \"digits\" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4";

#[test]
fn a_pod_that_a_full_quota_keeps_from_being_made_is_spoken_of_and_not_waited_for_for_ever() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.quota = Some(FULL.into());
    c.pass();
    assert!(c.message().contains("gn-1 has joined") && c.message().contains("exceeded quota: team"), "{}", c.message());
    assert!(!c.pass().1, "said once");
    c.now = at(299);
    c.pass();
    assert_eq!(c.attempt(1).outcome, None);
    c.now = at(300);
    c.pass();
    let a = c.attempt(1);
    assert_eq!((a.outcome, a.reason.as_deref()), (Some(Outcome::Interrupted), Some("PodNotMade")));
    assert!(a.message.unwrap_or_default().contains("exceeded quota: team"));
    assert_eq!(next(&c.job, c.now), Next::NotBefore(at(660)), "nothing is bought at once for a quota that is full");
    c.pass();
    assert!(c.nodes[0].reservations().is_empty(), "others may have the node");
}

#[test]
fn room_in_the_quota_comes_in_time() {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    c.quota = Some(FULL.into());
    c.now = at(290);
    c.pass();
    c.quota = None;
    // Long after the time was up, by an operator that was away: it tries before it gives up.
    c.now = at(2000);
    c.settle();
    assert!(c.has(Role::Attempt) && !c.message().contains("quota"), "{}", c.message());
}

#[test]
fn a_store_that_cannot_be_asked_for_want_of_quota_does_not_end_the_job() {
    let mut c = Cluster::running(|_| {});
    c.nodes.clear();
    c.quota = Some(FULL.into());
    c.pass();
    c.pass();
    assert!(c.message().contains("Asking the store") && c.message().contains("exceeded quota"), "{}", c.message());
    c.now = at(599);
    c.pass();
    assert!(matches!(next(&c.job, c.now), Next::No(_)), "asked again and again");
    c.now = at(700);
    c.pass();
    assert_eq!(c.attempt(1).storage.as_deref(), Some("Unresolved"), "the next attempt finds out");
}

/// Up to a pod that its node has taken at second 0.
fn bound() -> Cluster {
    let mut c = Cluster::new(|_| {});
    c.reserve("gn-1", 1);
    c.settle();
    c.join("gn-1");
    usable(&mut c, "gn-1");
    taken(&mut c, 1);
    c.settle();
    c
}

fn usable(c: &mut Cluster, node: &str) {
    let (now, gpus) = (c.now, conditions::want(conditions::node::INITIALIZED, true, "Initialized", ""));
    conditions::set(&mut c.node(node).status.as_mut().expect("set").conditions, &gpus, 1, now);
    c.settle();
}

/// The scheduler has bound the pod; its kubelet looks for its volumes.
fn taken(c: &mut Cluster, attempt: i32) {
    let now = c.now;
    let condition = |type_: &str, status: &str| PodCondition {
        type_: type_.into(),
        status: status.into(),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    let pod = c.pod(Role::Attempt, attempt);
    pod.spec.as_mut().expect("a pod").node_name = Some("ip-10-0-0-1".into());
    let both = vec![condition("PodScheduled", "True"), condition("PodReadyToStartContainers", "False")];
    pod.status.get_or_insert_default().conditions = Some(both);
    c.state(Role::Attempt, attempt, FETCH, waiting("PodInitializing"));
    c.state(Role::Attempt, attempt, "main", waiting("PodInitializing"));
}

fn waiting(reason: &str) -> ContainerState {
    let waiting = ContainerStateWaiting { reason: Some(reason.into()), message: Some(format!("{reason}, in words")) };
    ContainerState { waiting: Some(waiting), ..ContainerState::default() }
}

#[test]
fn a_pod_without_its_volumes_is_tried_on_one_other_node_and_then_given_up() {
    let mut c = bound();
    assert!(c.message().contains("is starting"), "nothing is said of what most pods take a moment for: {}", c.message());
    c.wait(60);
    assert!(c.message().contains("kubectl events -n team --for pod/digits"), "{}", c.message());
    c.wait(539);
    assert_eq!(c.attempt(1).outcome, None);
    c.wait(1);
    let a = c.attempt(1);
    assert_eq!((a.outcome, a.reason.as_deref()), (Some(Outcome::Interrupted), Some("PodNotStarted")));
    c.nodes.clear();
    c.wait(700);
    c.reserve("gn-2", 2);
    c.settle();
    c.join("gn-2");
    usable(&mut c, "gn-2");
    taken(&mut c, 2);
    c.wait(600);
    assert_eq!(c.condition(types::SUCCEEDED), "False PodNotStarted");
    assert!(c.message().contains("Two nodes") && c.message().contains("kubectl events -n team --for pod/digits"), "{}", c.message());
}

#[test]
fn inputs_that_are_fetched_for_hours_are_no_missing_volume() {
    let mut c = bound();
    let now = c.now;
    c.state(
        Role::Attempt,
        1,
        FETCH,
        ContainerState { running: Some(ContainerStateRunning { started_at: Some(Time(now)) }), ..ContainerState::default() },
    );
    c.wait(7200);
    assert_eq!(c.attempt(1).outcome, None);
    assert!(c.message().contains("Fetching"), "{}", c.message());
}

#[test]
fn an_image_that_one_of_two_containers_lacks_is_not_hidden_by_the_other() {
    for over in [false, true] {
        let mut c = Cluster::new(|s| {
            let containers = &mut s.template.spec.as_mut().expect("a template").containers;
            containers.push(containers[0].clone());
            containers[1].name = "other".into();
        });
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        c.start();
        if over {
            c.exit(0, "");
        }
        c.state(Role::Attempt, 1, "other", waiting("ImagePullBackOff"));
        c.wait(1);
        assert!(c.message().contains("Container other: ImagePullBackOff"), "{over} {}", c.message());
        assert_eq!(c.condition(types::RUNNING), "False Starting", "{over}");
        c.wait(300);
        assert_eq!(c.condition(types::SUCCEEDED), "False ImagePullBackOff", "{over}");
    }
}

#[test]
fn a_sidecar_of_the_users_that_dies_is_started_again_and_an_init_container_is_not() {
    for (restart, outcome) in [(Some("Always"), None), (None, Some(Outcome::Failed))] {
        let mut c = Cluster::new(|s| prepare(s, restart));
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        let now = c.now;
        c.state(Role::Attempt, 1, FETCH, ended(0, now, ""));
        c.state(
            Role::Attempt,
            1,
            STAGE,
            ContainerState { running: Some(ContainerStateRunning { started_at: Some(Time(now)) }), ..ContainerState::default() },
        );
        c.state(Role::Attempt, 1, "prepare", ended(3, now, ""));
        c.pass();
        c.pass();
        let said = c.attempt(1).exit_code;
        assert_eq!(said.is_some(), outcome.is_some(), "{restart:?}");
    }
}

#[test]
fn a_node_that_is_deleted_by_hand_is_held_until_the_last_checkpoint_is_sealed() {
    let mut c = Cluster::running(|_| {});
    c.now = at(20);
    let now = c.now;
    c.node("gn-1").metadata.deletion_timestamp = Some(Time(now));
    c.settle();
    assert_eq!(c.attempt(1).reason.as_deref(), Some("NodeDeleted"));
    assert_eq!(c.grace(1), Some(Some(100)), "it may use what a spot notice would leave");
    c.exit(143, "");
    c.settle();
    assert!(!c.nodes[0].reservations().is_empty(), "the sidecar still writes");
    let now = c.now;
    c.state(Role::Attempt, 1, STAGE, ended(0, now, ""));
    c.settle();
    assert!(c.nodes[0].reservations().is_empty());
    assert!(c.actions.iter().any(|a| matches!(a, Action::Release { .. })));
}
