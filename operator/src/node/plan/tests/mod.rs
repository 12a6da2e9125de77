//! The rules of one GpuNode, as tables.

use super::*;
use crate::node::observe::LaunchAnswer;
use gpujob_crds::node::{GpuNodeSpec, LaunchIntent, OfferRef};
use gpujob_crds::{Market, Price, Reservation};
use gpujob_provider_core::ErrorClass;
use k8s_openapi::api::core::v1::{Node, NodeAddress, NodeCondition, NodeSpec, NodeStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use std::sync::Arc;

mod end;
mod launch;
mod live;

pub(super) const T0: i64 = 1_000_000;

pub(super) fn at(s: i64) -> Timestamp {
    Timestamp::from_second(T0 + s).expect("time")
}

pub(super) fn reservation() -> Reservation {
    Reservation { job_uid: "job".into(), namespace: "ns".into(), name: "j".into(), index: 0, attempt: 1, gpus: 1, asks: None }
}

pub(super) fn intent() -> GpuNode {
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

pub(super) fn instance(state: InstanceState) -> Instance {
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
        launch_time: Timestamp::from_millisecond(1000 * (T0 + 1) + 7).ok(),
    }
}

pub(super) fn world(node: GpuNode) -> NodeWorld {
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
        brought: None,
        launching: false,
        never_sent: false,
    }
}

pub(super) fn kube_node(gpus: i32) -> Arc<Node> {
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
pub(super) fn step(mut world: NodeWorld, now: Timestamp) -> (NodeWorld, Plan) {
    let done = plan(&world, now);
    let mut node = (*world.node).clone();
    // What the API does not keep would be written again and again.
    node.status = serde_json::to_value(&done.status).and_then(serde_json::from_value).ok();
    world.node = Arc::new(node);
    assert_eq!(plan(&world, now).status, done.status, "a second look writes nothing");
    (world, done)
}

/// A node that runs and is Initialized since 100.
pub(super) fn running() -> NodeWorld {
    let mut w = world(intent());
    w.instances = vec![instance(InstanceState::Running)];
    let (mut w, _) = step(w, at(10));
    w.claimants = vec![kube_node(1)];
    let (w, done) = step(w, at(100));
    assert!(conditions::is_true(&done.status.conditions, condition::READY), "{:?}", done.status.conditions);
    w
}

pub(super) fn empty(mut w: NodeWorld) -> NodeWorld {
    let mut node = (*w.node).clone();
    node.status.as_mut().expect("status").assignments = Some(vec![]);
    w.node = Arc::new(node);
    w
}

/// A Node whose Ready condition has had this status since then.
pub(super) fn reporting(gpus: i32, status: &str, since: i64) -> Arc<Node> {
    let mut node = (*kube_node(gpus)).clone();
    let condition = &mut node.status.as_mut().expect("status").conditions.as_mut().expect("conditions")[0];
    (condition.status, condition.last_transition_time) = (status.into(), Some(Time(at(since))));
    Arc::new(node)
}

pub(super) fn deleted(w: NodeWorld, when: i64) -> NodeWorld {
    let mut node = (*w.node).clone();
    node.metadata.deletion_timestamp = Some(Time(at(when)));
    NodeWorld { node: Arc::new(node), ..w }
}
