//! An instance that was bought: joining, GPUs, work.

use super::*;

#[test]
fn only_the_node_that_matches_in_everything_is_adopted() {
    let joined = |claimants: Vec<Arc<Node>>| {
        let mut w = world(intent());
        w.instances = vec![instance(InstanceState::Running)];
        let (mut w, _) = step(w, at(10));
        w.claimants = claimants;
        plan(&w, at(20)).status.node_name
    };
    let with = |change: fn(&mut Node)| {
        let mut node = (*kube_node(1)).clone();
        change(&mut node);
        Arc::new(node)
    };
    assert!(joined(vec![kube_node(1)]).is_some());
    assert!(
        joined(vec![with(|n| n.status.as_mut().expect("s").addresses.as_mut().expect("a")[0].address = "10.0.0.9".into())]).is_none(),
        "another address"
    );
    assert!(joined(vec![with(|n| n.spec.as_mut().expect("s").provider_id = Some("aws:///a/i-2".into()))]).is_none(), "another id");
    assert!(joined(vec![kube_node(1), with(|n| n.metadata.name = Some("thief".into()))]).is_none(), "two claimants: neither");
}

#[test]
fn ready_without_gpu_is_waited_for_and_replaced_after_its_deadline() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (mut w, _) = step(w, at(10));
    w.claimants = vec![kube_node(0)];
    let (w, done) = step(w, at(100));
    assert_eq!(done.actions, vec![Action::Adopt("ip-10-0-0-1.ec2.internal".into())]);
    assert!(!conditions::is_true(&done.status.conditions, condition::READY));
    assert_eq!(plan(&w, at(399)).actions, vec![]);
    assert_eq!(plan(&w, at(400)).actions, vec![Action::Reclaim(NO_GPU)]);
}

#[test]
fn what_never_joins_is_replaced() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (w, _) = step(w, at(10));
    assert_eq!(plan(&w, at(909)).actions, vec![]);
    assert!(matches!(plan(&w, at(910)).actions[..], [Action::Reclaim(_)]));
}

#[test]
fn a_busy_node_is_never_taken_and_an_empty_one_after_the_window() {
    let w = running();
    assert_eq!(plan(&w, at(1_000_000)).actions, vec![]);
    let (w, done) = step(empty(w), at(200));
    assert_eq!((done.actions, done.wake), (vec![], Some(at(500))));
    assert_eq!(plan(&w, at(499)).actions, vec![]);
    assert_eq!(plan(&w, at(500)).actions, vec![Action::Reclaim("it was empty for the idle window")]);
    // A job that comes in between stops the clock.
    let mut node = (*w.node).clone();
    node.status.as_mut().expect("s").assignments = Some(vec![reservation()]);
    let busy = NodeWorld { node: Arc::new(node), ..w };
    let done = plan(&busy, at(500));
    assert_eq!((done.actions, done.status.idle_since), (vec![], None));
}

#[test]
fn an_instance_that_boots_for_nobody_is_given_back_at_once_and_one_that_has_booted_after_the_window() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (w, _) = step(w, at(10));
    let (booting, done) = step(empty(w), at(20));
    assert_eq!((done.actions, done.wake), (vec![], Some(at(35))));
    assert_eq!(plan(&booting, at(34)).actions, vec![]);
    assert_eq!(plan(&booting, at(35)).actions, vec![Action::Reclaim("nobody needs it any more")]);
    // It is ready in time: from then on it is worth the pool's idle window.
    let mut ready = booting;
    ready.claimants = vec![kube_node(1)];
    let (ready, done) = step(ready, at(30));
    assert_eq!(done.wake, Some(at(330)));
    assert_eq!(plan(&ready, at(329)).actions, vec![]);
}

#[test]
fn an_instance_that_died_is_given_up_at_once() {
    let mut w = running();
    w.instances = vec![instance(InstanceState::Terminating)];
    assert_eq!(plan(&w, at(150)).actions, vec![Action::Reclaim("the instance is gone")]);
    // Not listed, but its kubelet reports: the cloud API is behind.
    w.instances = vec![];
    w.asked = Some(at(10_000));
    assert!(!plan(&w, at(10_000)).actions.contains(&Action::Reclaim("the instance is gone")));
}

#[test]
fn a_settled_node_plans_nothing_and_changes_nothing() {
    let w = running();
    let (w, _) = step(w, at(200));
    let done = plan(&w, at(300));
    assert_eq!(done.actions, vec![]);
    assert_eq!(Some(done.status), w.node.status);
}

#[test]
fn a_kubelet_that_restarts_under_a_job_is_given_time_for_its_gpus() {
    let mut w = running();
    w.claimants = vec![reporting(1, "False", 5000)];
    let (mut w, done) = step(w, at(5000));
    assert_eq!(done.actions, vec![]);
    w.claimants = vec![reporting(0, "True", 5030)];
    let (w, done) = step(w, at(5031));
    assert_eq!((done.actions, done.wake), (vec![], Some(at(5330))), "the deadline runs from the kubelet's latest start");
    assert_eq!(plan(&w, at(5330)).actions, vec![Action::Reclaim(NO_GPU)]);
}

#[test]
fn a_node_that_joined_and_is_silent_is_given_back_after_its_deadline() {
    let gone = ("its Node was deleted", vec![], 30);
    for (why, claimants, borne) in [(SILENT, vec![reporting(1, "Unknown", 5000)], 600), gone] {
        let mut w = running();
        w.claimants = claimants;
        let (w, done) = step(w, at(5000));
        assert_eq!((done.actions, done.wake), (vec![], Some(at(5000 + borne))));
        assert_eq!(plan(&w, at(4999 + borne)).actions, vec![]);
        assert_eq!(plan(&w, at(5000 + borne)).actions, vec![Action::Reclaim(why)]);
    }
}

#[test]
fn each_wait_for_a_node_that_was_there_has_its_own_clock() {
    // Ready without GPUs from 10 on, then silent, then gone: what was waited for before counts for none of it.
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    w.gpu_deadline = 10_000;
    let (mut w, _) = step(w, at(5));
    w.claimants = vec![reporting(0, "True", 10)];
    let (mut w, _) = step(w, at(10));
    w.claimants = vec![reporting(0, "Unknown", 700)];
    let (w, done) = step(w, at(740));
    assert_eq!((done.actions, done.wake), (vec![], Some(at(1300))));
    let mut gone = w.clone();
    gone.claimants = vec![];
    let (gone, done) = step(gone, at(800));
    assert_eq!(done.actions, vec![], "it may come back");
    assert!(!conditions::is_true(&done.status.conditions, condition::REGISTERED));
    assert_eq!(step(gone.clone(), at(830)).1.actions, vec![Action::Reclaim("its Node was deleted")]);
    let mut back = gone;
    back.claimants = vec![reporting(0, "True", 10)];
    let (_, done) = step(back, at(825));
    assert!(conditions::is_true(&done.status.conditions, condition::REGISTERED) && done.actions.is_empty());
    assert_eq!(step(w, at(1300)).1.actions, vec![Action::Reclaim(SILENT)]);
}
