//! The rules of one GpuNode, as tables.

use super::*;
use crate::node::observe::LaunchAnswer;
use gpujob_crds::node::{GpuNodeSpec, LaunchIntent, OfferRef};
use gpujob_crds::{Market, Price, Reservation};
use gpujob_provider_core::ErrorClass;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::sync::Arc;

const T0: i64 = 1_000_000;

fn at(s: i64) -> Timestamp {
    Timestamp::from_second(T0 + s).expect("time")
}

fn reservation() -> Reservation {
    Reservation { job_uid: "job".into(), namespace: "ns".into(), name: "j".into(), index: 0, attempt: 1, gpus: 1, asks: None }
}

fn intent() -> GpuNode {
    let offer = OfferRef { instance_type: "g6.xlarge".into(), zone: "a".into(), price_per_hour: Price::from_micros(300_000), gpus: 1 };
    let mut node = GpuNode::new(
        "gn-1",
        GpuNodeSpec {
            launched_for: vec![reservation()],
            launch: LaunchIntent { ordinal: 1, market: Some(Market::Spot), offers: vec![offer], request: serde_json::json!({}) },
            gpus: 1,
            resource_name: "nvidia.com/gpu".into(),
            ..Default::default()
        },
    );
    node.metadata.uid = Some("uid".into());
    node.metadata.creation_timestamp = Some(Time(at(0)));
    node.metadata.finalizers = Some(vec![names::NODE_FINALIZER.into()]);
    node
}

fn instance(state: InstanceState) -> Instance {
    Instance {
        id: "i-1".into(),
        instance_type: "g6.xlarge".into(),
        zone: "a".into(),
        market: Market::Spot,
        state,
        state_reason: None,
        failed: None,
        tags: [(names::NODE_UID_TAG, "uid"), (names::LAUNCH_TAG, "1")].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        private_dns_name: Some("ip-10-0-0-1.ec2.internal".into()),
        private_ip: Some("10.0.0.1".into()),
        provider_id: "aws:///a/i-1".into(),
        launch_time: Some(at(1)),
    }
}

fn world(node: GpuNode) -> NodeWorld {
    NodeWorld {
        node: Arc::new(node),
        idle_after: 300,
        join_deadline: 900,
        gpu_deadline: 300,
        draining: false,
        instances: vec![],
        complete_since: Some(at(-1000)),
        asked: Some(at(0)),
        claimants: vec![],
        absent_jobs: vec![],
        launch: None,
        launching: false,
        never_sent: false,
    }
}

fn kube_node(gpus: i32) -> Arc<Node> {
    let address = |kind: &str, value: &str| NodeAddress { type_: kind.into(), address: value.into() };
    let mut node = Node {
        spec: Some(NodeSpec { provider_id: Some("aws:///a/i-1".into()), ..Default::default() }),
        status: Some(NodeStatus {
            addresses: Some(vec![address("InternalIP", "10.0.0.1"), address("Hostname", "ip-10-0-0-1.ec2.internal")]),
            conditions: Some(vec![NodeCondition { type_: "Ready".into(), status: "True".into(), ..Default::default() }]),
            allocatable: Some([("nvidia.com/gpu".to_owned(), Quantity(gpus.to_string()))].into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    node.metadata.name = Some("ip-10-0-0-1.ec2.internal".into());
    node.metadata.labels = Some([(names::NODE_LABEL.to_owned(), "gn-1".to_owned())].into());
    Arc::new(node)
}

/// Applies the status, as the API server would, and looks again.
fn step(mut world: NodeWorld, now: Timestamp) -> (NodeWorld, Plan) {
    let done = plan(&world, now);
    let mut node = (*world.node).clone();
    node.status = Some(done.status.clone());
    world.node = Arc::new(node);
    (world, done)
}

/// A node that runs and is Initialized since 100.
fn running() -> NodeWorld {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (mut w, _) = step(w, at(10));
    w.claimants = vec![kube_node(1)];
    let (w, done) = step(w, at(100));
    assert!(conditions::is_true(&done.status.conditions, condition::READY), "{:?}", done.status.conditions);
    w
}

fn empty(mut w: NodeWorld) -> NodeWorld {
    let mut node = (*w.node).clone();
    node.status.as_mut().expect("status").assignments = Some(vec![]);
    w.node = Arc::new(node);
    w
}

#[test]
fn an_intent_is_launched_once_and_not_while_one_is_on_the_wire() {
    assert_eq!(plan(&world(intent()), at(1)).actions, vec![Action::Launch]);
    let mut w = world(intent());
    w.launching = true;
    assert_eq!(plan(&w, at(1)).actions, vec![]);
}

#[test]
fn a_launch_that_was_not_recorded_is_adopted_not_repeated() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Pending)];
    let done = plan(&w, at(5));
    assert_eq!(done.status.instance.expect("adopted").id, "i-1");
    assert!(!done.actions.contains(&Action::Launch));
}

#[test]
fn a_refusal_ends_the_intent_and_no_answer_does_not() {
    let answer = |class: ErrorClass| Some(LaunchAnswer { definite: class.is_refusal(), class, message: "m".into(), retry_at: at(10) });
    let mut w = world(intent());
    w.launch = answer(ErrorClass::Capacity);
    assert!(matches!(plan(&w, at(5)).actions[..], [Action::Reclaim(_)]));
    w.launch = answer(ErrorClass::Unknown);
    assert_eq!(plan(&w, at(5)).actions, vec![]);
    assert_eq!(plan(&w, at(5)).wake, Some(at(10)));
    assert_eq!(plan(&w, at(10)).actions, vec![Action::Launch]);
    w.launch = answer(ErrorClass::Mismatch);
    assert!(!plan(&w, at(11)).actions.contains(&Action::Launch), "a mismatch is looked for, never sent again");
}

#[test]
fn an_unanswered_launch_is_given_up_only_after_long_complete_listings() {
    let mut w = world(intent());
    w.launch = Some(LaunchAnswer { class: ErrorClass::Unknown, message: "m".into(), definite: false, retry_at: at(10) });
    let late = 3600 + 400;
    (w.complete_since, w.asked) = (Some(at(late - 100)), Some(at(late)));
    assert_eq!(plan(&w, at(late)).actions, vec![], "listings were incomplete until just now");
    w.complete_since = Some(at(late - 301));
    assert!(matches!(plan(&w, at(late)).actions[..], [Action::Reclaim(_)]));
}

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

fn deleted(w: NodeWorld, when: i64) -> NodeWorld {
    let mut node = (*w.node).clone();
    node.metadata.deletion_timestamp = Some(Time(at(when)));
    NodeWorld { node: Arc::new(node), ..w }
}

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
fn a_settled_node_plans_nothing_and_changes_nothing() {
    let w = running();
    let (w, _) = step(w, at(200));
    let done = plan(&w, at(300));
    assert_eq!(done.actions, vec![]);
    assert_eq!(Some(done.status), w.node.status);
}

/// A Node whose Ready condition has had this status since then.
fn reporting(gpus: i32, status: &str, since: i64) -> Arc<Node> {
    let mut node = (*kube_node(gpus)).clone();
    let condition = &mut node.status.as_mut().expect("status").conditions.as_mut().expect("conditions")[0];
    (condition.status, condition.last_transition_time) = (status.into(), Some(Time(at(since))));
    Arc::new(node)
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
fn a_refusal_of_the_call_after_an_unanswered_send_proves_nothing() {
    let mut w = world(intent());
    w.launch = Some(LaunchAnswer { class: ErrorClass::Unauthorized, message: "m".into(), definite: false, retry_at: at(10) });
    let (w, done) = step(w, at(5));
    assert_eq!(done.actions, vec![]);
    assert!(conditions::find(&done.status.conditions, condition::LAUNCHED).is_none_or(|c| c.status != "False"));
    assert!(!plan(&deleted(w, 6), at(7)).actions.contains(&Action::RemoveFinalizer), "it may have been obeyed");
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
fn an_instance_that_the_provider_ends_before_it_joins_is_held_against_its_offer() {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Pending)];
    let (mut w, _) = step(w, at(10));
    let mut dead = instance(InstanceState::Terminated);
    (dead.state_reason, dead.failed) = (Some("Client.InternalError".into()), Some(ErrorClass::Invalid));
    w.instances = vec![dead];
    let (mut w, done) = step(w, at(20));
    let launched = conditions::find(&done.status.conditions, condition::LAUNCHED).expect("a condition");
    assert_eq!((launched.status.as_str(), launched.reason.as_str()), ("False", "CreatedButFailed"));
    assert!(launched.message.contains("Client.InternalError"), "{}", launched.message);
    assert!(matches!(&done.actions[..], [Action::Blame(f), Action::Reclaim(_)] if f.class == ErrorClass::Invalid), "{:?}", done.actions);

    // Asked to end, or taken back: nobody's fault.
    w.instances[0].failed = None;
    assert!(matches!(&plan(&w, at(30)).actions[..], [Action::Reclaim(_)]));
    // It has been of use.
    let mut joined = running();
    joined.instances[0].state = InstanceState::Terminating;
    joined.instances[0].failed = Some(ErrorClass::Capacity);
    assert!(!plan(&joined, at(200)).actions.iter().any(|a| matches!(a, Action::Blame(_))));
}

#[test]
fn what_is_refused_and_was_never_seen_is_given_up_though_an_earlier_send_is_unanswered() {
    let mut w = world(intent());
    let answer = |class| LaunchAnswer { class, message: "no".into(), definite: false, retry_at: at(5000) };
    w.launch = Some(answer(ErrorClass::Unauthorized));
    w.asked = Some(at(299));
    assert_eq!(plan(&w, at(299)).actions, vec![], "the listing may lag behind");
    w.asked = Some(at(301));
    for class in [ErrorClass::Unauthorized, ErrorClass::NotFound] {
        w.launch = Some(answer(class));
        assert!(matches!(&plan(&w, at(301)).actions[..], [Action::Reclaim(_)]));
    }
    w.launch = Some(answer(ErrorClass::Unknown));
    assert_eq!(plan(&w, at(301)).actions, vec![], "it may yet be obeyed");
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
