//! What follows from a notice, as tables.

use super::*;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::{GpuNode, Market, Price, Reservation};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

pub(in crate::notice) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).expect("time")
}

pub(in crate::notice) fn time(second: i64) -> Time {
    Time(at(second))
}

/// A spot node of `aws` in `r` that holds attempt 1 of job `job`; its instance is recorded or not.
pub(in crate::notice) fn node(name: &str, instance: Option<&str>) -> Arc<GpuNode> {
    let mut node = GpuNode::new(name, Default::default());
    node.metadata.uid = Some(format!("uid-{name}"));
    (node.spec.provider, node.spec.region) = ("aws".into(), "r".into());
    node.spec.launch.market = Some(Market::Spot);
    let mine = Reservation { job_uid: "job".into(), namespace: "ns".into(), name: "j".into(), attempt: 1, gpus: 1, ..Default::default() };
    let instance = instance.map(|id| InstanceStatus {
        id: id.into(),
        instance_type: "g6.xlarge".into(),
        zone: "a".into(),
        market: Market::Spot,
        price_per_hour: Price::ZERO,
        gpus: 1,
        private_dns_name: None,
        private_ip: None,
        provider_id: None,
        launch_time: None,
    });
    node.status = Some(GpuNodeStatus { instance, assignments: Some(vec![mine]), ..Default::default() });
    Arc::new(node)
}

fn pod(attempt: i32, asked: Option<i64>) -> Arc<Pod> {
    let mut pod = Pod::default();
    pod.metadata.name = Some(format!("j-0-{attempt}"));
    (pod.metadata.namespace, pod.metadata.uid) = (Some("ns".into()), Some("pod-uid".into()));
    let labels = [(names::JOB_UID, "job".to_owned()), (names::ATTEMPT, attempt.to_string()), (names::ROLE, "attempt".into())];
    pod.metadata.labels = Some(labels.map(|(k, v)| (k.to_owned(), v)).into());
    pod.metadata.annotations = asked.map(|s| [(names::CHECKPOINT.to_owned(), at(s).to_string())].into());
    Arc::new(pod)
}

pub(in crate::notice) fn notice(instance: &str, kind: NoticeKind) -> Notice {
    Notice { instance: instance.into(), kind, at: None, code: "marked-for-termination".into(), receipt: Some("r".into()) }
}

fn record(taken: i64) -> Action {
    Action::Record { node: "gn".into(), instance: "i-1".into(), taken_at: at(taken), code: "marked-for-termination".into() }
}

fn checkpoint(taken: Option<i64>) -> Action {
    let (namespace, pod, uid, node) = ("ns".into(), "j-0-1".into(), "pod-uid".into(), "gn".into());
    Action::Checkpoint { namespace, pod, uid, node, taken_at: taken.map(at) }
}

fn planned(nodes: Vec<Arc<GpuNode>>, pods: Vec<Arc<Pod>>, notice: Notice) -> Option<Vec<Action>> {
    plan(&World { nodes, pods }, &[notice], at(100)).wanted.remove(&0)
}

#[test]
fn an_interruption_is_recorded_and_its_pod_told() {
    let ours = notice("i-1", NoticeKind::Interruption);
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![pod(1, None)], ours.clone()), Some(vec![checkpoint(Some(220)), record(220)]));
    let says = Notice { at: Some(at(150)), ..ours };
    assert_eq!(
        planned(vec![node("gn", Some("i-1"))], vec![pod(2, None)], says),
        Some(vec![record(150)]),
        "another attempt's pod is not told"
    );
}

#[test]
fn a_rebalance_recommendation_ends_nothing() {
    let ours = || notice("i-1", NoticeKind::Rebalance);
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![pod(1, None)], ours()), Some(vec![checkpoint(None)]));
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![pod(1, Some(41))], ours()), Some(vec![]), "asked a moment ago");
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![pod(1, Some(40))], ours()), Some(vec![checkpoint(None)]));
}

#[test]
fn a_pod_that_was_asked_a_moment_ago_still_hears_when_its_node_goes() {
    let ours = || notice("i-1", NoticeKind::Interruption);
    let asked = pod(1, Some(90));
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![asked.clone()], ours()), Some(vec![checkpoint(Some(220)), record(220)]));
    let mut told = (*asked).clone();
    told.metadata.annotations.get_or_insert_default().insert(names::TAKEN_AT.into(), at(220).to_string());
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![Arc::new(told)], ours()), Some(vec![record(220)]));
}

#[test]
fn what_is_on_record_is_not_recorded_again() {
    let mut known = (*node("gn", Some("i-1"))).clone();
    known.status.as_mut().expect("set").interrupted = Some(time(90));
    assert_eq!(planned(vec![Arc::new(known)], vec![pod(1, None)], notice("i-1", NoticeKind::Interruption)), Some(vec![]));
    let mut leaving = (*node("gn", Some("i-1"))).clone();
    leaving.metadata.deletion_timestamp = Some(time(90));
    assert_eq!(planned(vec![Arc::new(leaving)], vec![], notice("i-1", NoticeKind::Interruption)), Some(vec![]));
}

#[test]
fn a_stranger_is_forgotten_unless_it_may_be_ours() {
    let strange = || notice("i-9", NoticeKind::Interruption);
    assert_eq!(planned(vec![node("gn", Some("i-1"))], vec![], strange()), Some(vec![]));
    assert_eq!(
        planned(vec![node("gn", Some("i-1")), node("new", None)], vec![], strange()),
        None,
        "its id may be on its way to the record"
    );
}
