//! The end of a GpuNode, and what leads to it.

use super::*;

#[test]
fn the_finalizer_goes_only_when_the_cloud_says_gone() {
    let mut w = deleted(empty(running()), 600);
    assert_eq!(plan(&w, at(600)).actions, vec![Action::Terminate("i-1".into())]);
    w.instances = vec![instance(InstanceState::Terminating)];
    assert_eq!(plan(&w, at(605)).actions, vec![]);
    w.instances = vec![instance(InstanceState::Terminated)];
    assert_eq!(plan(&w, at(610)).actions, vec![Action::DeleteNode("ip-10-0-0-1.ec2.internal".into()), Action::RemoveFinalizer]);
    // Absent: terminated again by id, and believed gone only after long complete listings.
    w.instances = vec![];
    w.asked = Some(at(620));
    assert_eq!(plan(&w, at(620)).actions, vec![Action::Terminate("i-1".into())]);
    w.asked = Some(at(901));
    assert!(plan(&w, at(901)).actions.contains(&Action::RemoveFinalizer));
}

#[test]
fn a_dying_node_lets_its_pods_stop_first() {
    let w = deleted(running(), 600);
    assert_eq!(plan(&w, at(601)).actions, vec![]);
    assert_eq!(plan(&w, at(720)).actions, vec![Action::Terminate("i-1".into())]);
}

#[test]
fn an_intent_that_was_refused_leaves_nothing_and_an_unknown_one_may() {
    let mut w = world(intent());
    w.launch = Some(LaunchAnswer { class: ErrorClass::Capacity, message: "m".into(), definite: true, retry_at: at(10) });
    let (w, _) = step(w, at(5));
    assert_eq!(plan(&deleted(w, 5), at(6)).actions, vec![Action::RemoveFinalizer]);
    let unknown = deleted(world(intent()), 5);
    assert_eq!(plan(&unknown, at(6)).actions, vec![], "it may have been sent by a process that died");
}

#[test]
fn a_drain_gives_back_whatever_there_is_and_launches_nothing() {
    let mut starting = world(intent());
    starting.draining = true;
    assert!(matches!(plan(&starting, at(1)).actions[..], [Action::Reclaim(_)]), "nothing is launched");
    let mut busy = running();
    busy.draining = true;
    assert!(matches!(plan(&busy, at(150)).actions[..], [Action::Reclaim(_)]));
    let (_, done) = step(deleted(busy, 150), at(160));
    assert!(!done.actions.iter().any(|a| matches!(a, Action::Reclaim(_))), "it goes its usual way: {:?}", done.actions);
}

fn noticed(mut w: NodeWorld, second: i64) -> NodeWorld {
    let mut node = (*w.node).clone();
    node.status.as_mut().expect("status").interrupted = Some(Time(at(second)));
    w.node = Arc::new(node);
    w
}

#[test]
fn a_node_that_is_taken_back_is_cordoned_and_given_back_when_empty() {
    let w = noticed(running(), 200);
    let (mut w, done) = step(w, at(200));
    assert_eq!(done.actions, vec![Action::Cordon("ip-10-0-0-1.ec2.internal".into())], "its pod has the time that is left");
    let ready = conditions::find(&done.status.conditions, condition::READY).expect("set");
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "Interrupted"));
    assert_eq!(done.status.interrupted, Some(Time(at(200))), "this controller keeps what the notice controller wrote");
    let mut cordoned = (*w.claimants[0]).clone();
    cordoned.spec.as_mut().expect("spec").unschedulable = Some(true);
    w.claimants = vec![Arc::new(cordoned)];
    assert_eq!(plan(&w, at(260)).actions, vec![]);
    assert_eq!(plan(&empty(w), at(260)).actions, vec![Action::Reclaim("the cloud takes it back, and it is empty")]);
}

#[test]
fn only_what_had_its_time_and_never_joined_is_asked_for_its_console() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (w, _) = step(w, at(10));
    let deleted = |w: &NodeWorld, second: i64| {
        let mut w = w.clone();
        let mut node = (*w.node).clone();
        node.metadata.deletion_timestamp = Some(Time(at(second)));
        w.node = Arc::new(node);
        w
    };
    assert!(never_joined(&deleted(&w, 905)) && !never_joined(&w), "the API server's clock may be behind");
    assert!(!never_joined(&deleted(&w, 904)), "somebody deleted it before its time was up");
    assert!(!never_joined(&deleted(&noticed(w, 500), 910)), "it was taken back");
    assert!(!never_joined(&deleted(&running(), 2000)));
}

#[test]
fn an_intent_that_was_never_sent_may_go_at_once() {
    let mut node = intent();
    node.metadata.deletion_timestamp = Some(Time(at(5)));
    let mut w = world(node);
    assert!(!plan(&w, at(10)).actions.contains(&Action::RemoveFinalizer), "it may be on its way");
    w.never_sent = true;
    assert!(plan(&w, at(10)).actions.contains(&Action::RemoveFinalizer));
}
