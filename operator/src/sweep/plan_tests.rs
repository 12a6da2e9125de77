//! What is owned and what is not, as tables.

use super::*;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::pool::GpuPoolStatus;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::InstanceState;
use serde_json::{Value, json};

fn instance(id: &str, uid: &str, ordinal: &str) -> Instance {
    let tags = [(names::CLUSTER_TAG, "us"), (names::NODE_UID_TAG, uid), (names::LAUNCH_TAG, ordinal)];
    Instance {
        id: id.into(),
        instance_type: "g6.xlarge".into(),
        zone: "a".into(),
        market: Market::Spot,
        state: InstanceState::Running,
        state_reason: None,
        failed: None,
        tags: tags.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        private_dns_name: None,
        private_ip: None,
        provider_id: String::new(),
        launch_time: None,
    }
}

fn node(uid: &str, id: Option<&str>) -> Arc<GpuNode> {
    let mut node = GpuNode::new("n", Default::default());
    node.metadata.uid = Some(uid.into());
    node.spec.launch.ordinal = 1;
    let recorded = id.map(|id| InstanceStatus {
        id: id.into(),
        instance_type: String::new(),
        zone: String::new(),
        market: Market::Spot,
        price_per_hour: Price::ZERO,
        gpus: 1,
        private_dns_name: None,
        private_ip: None,
        provider_id: None,
        launch_time: None,
    });
    node.status = Some(GpuNodeStatus { instance: recorded, ..Default::default() });
    Arc::new(node)
}

#[test]
fn ownership_is_by_uid_and_recorded_id() {
    assert!(is_owned(&instance("i-1", "u", "1"), &[node("u", Some("i-1"))]));
    assert!(!is_owned(&instance("i-2", "u", "1"), &[node("u", Some("i-1"))]), "a second instance of one intent");
    assert!(is_owned(&instance("i-1", "u", "1"), &[node("u", None)]), "launched, not recorded yet");
    assert!(!is_owned(&instance("i-1", "u", "2"), &[node("u", None)]), "of another ordinal");
    assert!(!is_owned(&instance("i-1", "u", "1"), &[node("other", None)]), "a GpuNode of the same name, made again");
}

#[test]
fn only_what_lives_and_is_ours_is_ended() {
    let all = [
        instance("i-owned", "u", "1"),
        instance("i-orphan", "gone", "1"),
        Instance { tags: [(names::CLUSTER_TAG.to_owned(), "others".to_owned())].into(), ..instance("i-foreign", "gone", "1") },
        Instance { tags: BTreeMap::new(), ..instance("i-untagged", "gone", "1") },
        Instance { state: InstanceState::Terminating, ..instance("i-ending", "gone", "1") },
    ];
    let ids: Vec<&str> = unowned(&all, &[node("u", None)], "us").iter().map(|i| i.id.as_str()).collect();
    assert_eq!(ids, ["i-orphan"]);
}

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + minute * 60).expect("time")
}

fn volume(node: Option<&str>) -> Leftover {
    let node_uid = node.map(str::to_owned);
    Leftover { kind: LeftoverKind::Volume, id: "vol".into(), name: String::new(), pool_uid: None, node_uid, created: None }
}

fn template(name: &str, pool: Option<&str>, minute: i64) -> Leftover {
    let (kind, pool_uid) = (LeftoverKind::Template, pool.map(str::to_owned));
    Leftover { kind, id: format!("lt-{name}"), name: name.into(), pool_uid, node_uid: None, created: Some(at(minute)) }
}

fn pool(uid: &str, prepared: Option<Value>) -> Arc<GpuPool> {
    let mut pool = GpuPool::new("p", Default::default());
    pool.metadata.uid = Some(uid.into());
    pool.status = Some(GpuPoolStatus { prepared, ..Default::default() });
    Arc::new(pool)
}

fn goes(one: Leftover, world: &World) -> bool {
    !removable(&[one], world, at(100)).is_empty()
}

#[test]
fn a_disk_goes_with_its_gpunode_and_not_before() {
    let world = World { nodes: vec![node("u", Some("i-1"))], ..World::default() };
    assert!(!goes(volume(Some("u")), &world) && goes(volume(Some("gone")), &world));
    assert!(!goes(volume(None), &world), "whose it is nobody knows");
}

#[test]
fn a_template_goes_with_its_pool_unless_a_launch_still_names_it() {
    let waiting = |request: Value, id: Option<&str>| {
        let mut n = (*node("u", id)).clone();
        n.spec.launch.request = request;
        Arc::new(n)
    };
    let request = json!({"configs": [{"template": {"LaunchTemplateName": "base"}}]});
    assert!(goes(template("base", Some("gone"), 99), &World::default()));
    assert!(!goes(template("base", None, 0), &World::default()), "whose it is nobody knows");
    let world = |n| World { nodes: vec![n], ..World::default() };
    assert!(!goes(template("base", Some("gone"), 0), &world(waiting(request.clone(), None))));
    assert!(!goes(template("base", Some("gone"), 0), &world(waiting(json!({"id": "lt-base"}), None))), "named by id");
    assert!(goes(template("base", Some("gone"), 0), &world(waiting(request, Some("i-1")))), "that launch has its answer");
}

#[test]
fn of_a_pool_that_exists_only_old_unused_variants_go() {
    let with = |prepared, used| World { pools: vec![pool("p", prepared)], used, ..World::default() };
    let base = || Some(json!({"template": "base"}));
    assert!(!goes(template("base", Some("p"), 0), &with(base(), vec![])));
    assert!(goes(template("variant", Some("p"), 0), &with(base(), vec![])));
    assert!(!goes(template("variant", Some("p"), 71), &with(base(), vec![])), "too young: its use may not be known yet");
    assert!(!goes(template("variant", Some("p"), 0), &with(None, vec![])), "the base is not known");
    assert!(!goes(template("variant", Some("p"), 0), &with(base(), vec![(json!({"template": "variant"}), at(50))])));
    let ageless = Leftover { created: None, ..template("variant", Some("p"), 0) };
    assert!(!goes(ageless, &with(base(), vec![])));
}

#[test]
fn beyond_fifty_variants_the_least_recently_used_go() {
    let names: Vec<String> = (0..55).map(|n| format!("v{n:02}")).collect();
    let all: Vec<Leftover> = names.iter().map(|n| template(n, Some("p"), 0)).collect();
    let used = names.iter().zip(0..).map(|(n, minute)| (json!({"template": n}), at(minute))).collect();
    let world = World { pools: vec![pool("p", Some(json!({"template": "base"})))], used, ..World::default() };
    let mut gone: Vec<&str> = removable(&all, &world, at(100)).iter().map(|l| l.name.as_str()).collect();
    gone.sort_unstable();
    assert_eq!(gone, ["v00", "v01", "v02", "v03", "v04"]);
}
