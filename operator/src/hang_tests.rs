//! No head-of-line blocking: the real controllers, in virtual time, beside a provider, or a namespace, that never
//! answers.

use crate::ctx_test::{HUNG, Surroundings, WELL};
use crate::run::controllers;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::pool::AwsPool;
use gpujob_crds::{GpuNode, GpuPool, Market, Price, Reservation, names};
use gpujob_provider_core::{Notice, NoticeKind};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

fn path(name: &str) -> String {
    format!("/apis/gpujob.dev/v1alpha1/gpunodes/{name}")
}

/// A GpuNode of this region, in cache and API server. Its launch is not sent yet, unless it has an instance.
fn node(s: &mut Surroundings, name: &str, region: &str, instance: Option<&str>, change: impl FnOnce(&mut GpuNode)) {
    let mut node = GpuNode::new(name, Default::default());
    (node.metadata.uid, node.metadata.resource_version) = (Some(format!("uid-{name}")), Some("7".into()));
    node.metadata.creation_timestamp = Some(Time(s.ctx.clock.now()));
    node.metadata.finalizers = Some(vec![names::NODE_FINALIZER.into()]);
    (node.spec.provider, node.spec.region, node.spec.pool_uid) = ("aws".into(), region.into(), format!("pool-{region}"));
    (node.spec.launch.ordinal, node.spec.launch.market, node.spec.gpus) = (1, Some(Market::Spot), 1);
    node.spec.launched_for =
        vec![Reservation { job_uid: "job".into(), name: "j".into(), namespace: "ns".into(), attempt: 1, gpus: 1, ..Default::default() }];
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
    let assignments = Some(node.spec.launched_for.clone());
    node.status = Some(GpuNodeStatus { instance, assignments, ..Default::default() });
    change(&mut node);
    s.api.put(&path(name), &node);
    s.caches.node(node);
}

/// What a watch would bring: the cache as the API server has it.
fn watch(s: &mut Surroundings, name: &str) {
    s.caches.node(serde_json::from_value(s.api.get(&path(name))).expect("a GpuNode"));
}

fn start(s: &mut Surroundings) -> CancellationToken {
    let shutdown = CancellationToken::new();
    let ends = s.ends.take().expect("started once");
    tokio::spawn(controllers(s.ctx.clone(), ends, shutdown.clone()));
    for known in s.ctx.stores.nodes.state() {
        s.ctx.queues.nodes.send(known.name_any()).expect("open");
    }
    shutdown
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_delays_no_other_launch_listing_or_end() {
    let mut s = Surroundings::new();
    s.hung.hang();
    for n in 0..8 {
        node(&mut s, &format!("hung-{n}"), HUNG, None, |_| {});
        let now = s.ctx.clock.now();
        node(&mut s, &format!("ending-{n}"), HUNG, Some(&format!("i-{n}")), |n| n.metadata.deletion_timestamp = Some(Time(now)));
    }
    node(&mut s, "well", WELL, None, |_| {});
    let now = s.ctx.clock.now();
    node(&mut s, "well-ending", WELL, Some("i-well"), |n| {
        n.metadata.deletion_timestamp = Some(Time(now));
        n.status.as_mut().expect("set").assignments = Some(vec![]);
    });
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(s.well.count("launch"), 1, "{:?}", s.well.calls());
    assert_eq!(s.well.count("terminate"), 1, "{:?}", s.well.calls());
    assert!(s.hung.count("launch") == 0, "its connection hangs");
    for known in s.ctx.stores.nodes.state() {
        watch(&mut s, &known.name_any());
    }
    // For minutes: listings go on, and what hangs is tried again.
    let before = s.well.count("list");
    tokio::time::sleep(Duration::from_secs(120)).await;
    assert!(s.well.count("list") >= before + 30, "{} listings in two minutes", s.well.count("list") - before);
    assert!(s.hung.count("connect") > 20, "{}", s.hung.count("connect"));
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_delays_no_other_call_of_its_own_provider() {
    let mut s = Surroundings::new();
    s.hung.hang_at("terminate");
    s.hung.hang_at("notices");
    let now = s.ctx.clock.now();
    node(&mut s, "ending", HUNG, Some("i-1"), |n| n.metadata.deletion_timestamp = Some(Time(now)));
    node(&mut s, "spot", HUNG, Some("i-2"), |_| {});
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_secs(1)).await;
    watch(&mut s, "ending");
    tokio::time::sleep(Duration::from_secs(200)).await;
    node(&mut s, "new", HUNG, None, |_| {});
    s.ctx.queues.nodes.send("new".into()).expect("open");
    let listed = s.hung.count("list");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(s.hung.count("launch"), 1);
    assert!(s.hung.count("list") > listed && s.hung.count("terminate") >= 2, "{:?}", s.hung.calls());
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_notice_is_recorded_within_five_seconds_though_another_region_is_silent() {
    let mut s = Surroundings::new();
    s.hung.hang();
    node(&mut s, "hung", HUNG, Some("i-hung"), |_| {});
    node(&mut s, "well", WELL, Some("i-well"), |_| {});
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(s.api.get(&path("well"))["status"]["interrupted"].is_null());
    let (asked, second) = (s.well.count("notices"), s.ctx.clock.now());
    assert!((13..=16).contains(&asked), "asked every 4 s: {asked}");
    let notice = Notice { instance: "i-well".into(), kind: NoticeKind::Interruption, at: None, code: "marked".into(), receipt: None };
    s.well.script(|w| w.notices = vec![notice]);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = s.api.get(&path("well"))["status"].clone();
    let taken: jiff::Timestamp = status["takenAt"].as_str().expect("recorded").parse().expect("time");
    assert!((120..=125).contains(&taken.duration_since(second).as_secs()), "{status}");
    assert!(status["assignments"].is_array() && status["instance"]["id"] == "i-well", "nothing else was touched: {status}");
    let offer = gpujob_provider_core::Offer {
        price: Price::ZERO,
        instance_type: "g6.xlarge".into(),
        zone: "a".into(),
        market: Market::Spot,
        on_demand_price: Price::ZERO,
        gpus: 1,
        gpu_model: "L4".into(),
        gpu_memory_mib: 1,
        vcpus: 1,
        memory_mib: 1,
    };
    let record = s.ctx.capacity.records("", WELL, &[offer], s.ctx.clock.now()).remove(0);
    assert!((990..=1000).contains(&record.interruptions), "once, though it was told twice: {record:?}");
    assert_eq!(s.well.count("acknowledge"), 0, "what was polled needs no receipt");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_hangs_delays_no_record_of_another_node() {
    let mut s = Surroundings::new();
    let notice = |id: String| Notice { instance: id, kind: NoticeKind::Interruption, at: None, code: "marked".into(), receipt: None };
    let mut notices = vec![];
    for n in 0..40 {
        let (name, id, uid) = (format!("gn-{n:02}"), format!("i-{n:02}"), format!("job-{n}"));
        node(&mut s, &name, WELL, Some(&id), |node| {
            node.status.as_mut().and_then(|s| s.assignments.as_mut()).expect("set")[0].job_uid.clone_from(&uid);
        });
        let namespace = if n == 39 { "well" } else { "hangs" };
        let mut pod = Pod::default();
        (pod.metadata.name, pod.metadata.namespace, pod.metadata.uid) = (Some(uid.clone()), Some(namespace.into()), Some(uid.clone()));
        let labels = [(names::ROLE, "attempt"), (names::ATTEMPT, "1"), (names::JOB_UID, &uid)];
        pod.metadata.labels = Some(labels.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
        s.api.put(&format!("/api/v1/namespaces/{namespace}/pods/{uid}"), &pod);
        s.caches.pod(pod);
        notices.push(notice(id));
    }
    s.api.hang("/namespaces/hangs/");
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let before = s.well.count("notices");
    s.well.script(|w| w.notices = notices);
    tokio::time::sleep(Duration::from_millis(4000 + 2000 + 1000 + 200)).await;
    let recorded = |n: u32| s.api.get(&path(&format!("gn-{n:02}")))["status"]["interrupted"].is_string();
    assert!((0..40).all(recorded), "{:?}", (0..40).filter(|n| !recorded(*n)).collect::<Vec<_>>());
    let asked = s.api.get("/api/v1/namespaces/well/pods/job-39")["metadata"]["annotations"].clone();
    assert!(asked[names::CHECKPOINT].is_string() && asked[names::TAKEN_AT].is_string(), "{asked}");
    assert!(s.well.count("notices") >= before + 2, "and the next question is asked meanwhile");
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acknowledged_when_it_is_on_record_and_not_before() {
    let mut s = Surroundings::new();
    let mut pool = GpuPool::new("p", Default::default());
    pool.metadata.uid = Some("pool-well".into());
    pool.spec.aws = Some(AwsPool { interruption_queue: Some("https://q/1".into()), region: WELL.into(), ..Default::default() });
    s.caches.pool(pool);
    node(&mut s, "well", WELL, Some("i-well"), |_| {});
    let notice =
        |id: &str| Notice { instance: id.into(), kind: NoticeKind::Interruption, at: None, code: "m".into(), receipt: Some(id.into()) };
    s.well.script(|w| w.notices = vec![notice("i-well"), notice("i-another-cluster's")]);
    // Its record cannot be written: somebody else writes the same GpuNode again and again.
    let live = s.api.get(&path("well"));
    s.api.forbid(&path("well"));
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let acknowledged = |s: &Surroundings| s.well.calls().iter().filter(|c| c.starts_with("acknowledge")).cloned().collect::<Vec<_>>();
    let before = acknowledged(&s);
    assert!(!before.is_empty() && before.iter().all(|c| c == "acknowledge i-another-cluster's"), "{before:?}");
    s.api.put(&path("well"), &live);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!s.api.get(&path("well"))["status"]["interrupted"].is_null());
    assert!(acknowledged(&s).iter().any(|c| c == "acknowledge i-well"), "{:?}", acknowledged(&s));
    shutdown.cancel();
}

#[tokio::test(start_paused = true)]
async fn the_console_of_what_never_joined_is_kept_and_does_not_hold_its_end_back() {
    for hangs in [false, true] {
        let mut s = Surroundings::new();
        s.well.script(|w| w.console = Some("cloud-init: no route to the API server".into()));
        if hangs {
            s.well.hang_at("console");
        }
        let now = s.ctx.clock.now();
        node(&mut s, "well", WELL, Some("i-well"), |n| {
            let early = now.checked_sub(jiff::SignedDuration::from_hours(1)).expect("time");
            let status = n.status.as_mut().expect("set");
            status.assignments = Some(vec![]);
            let launched = gpujob_crds::conditions::want(gpujob_crds::conditions::node::LAUNCHED, true, "Launched", "");
            gpujob_crds::conditions::set(&mut status.conditions, &launched, 1, early);
            n.metadata.deletion_timestamp = Some(Time(now));
        });
        let shutdown = start(&mut s);
        tokio::time::sleep(Duration::from_millis(5500)).await;
        assert_eq!(s.well.count("terminate"), 1, "hangs: {hangs}");
        let told: Vec<String> = s.api.writes("/events").iter().map(|e| format!("{} {}", e["regarding"]["kind"], e["note"])).collect();
        match hangs {
            true => assert!(told.is_empty(), "{told:?}"),
            false => {
                assert_eq!(told.len(), 2, "{told:?}");
                assert!(
                    told[0].contains("GpuNode") && told[1].contains("GpuJob") && told.iter().all(|t| t.contains("no route")),
                    "{told:?}"
                );
            }
        }
        shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn launches_that_wait_for_their_turn_leave_the_queue_when_their_nodes_are_deleted() {
    let mut s = Surroundings::new();
    let names: Vec<String> = (0..300).map(|n| format!("gn-{n:03}")).collect();
    names.iter().for_each(|name| node(&mut s, name, WELL, None, |_| {}));
    let shutdown = start(&mut s);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let sent = s.well.count("launch");
    assert!((1..100).contains(&sent), "{sent} in the first second");
    let now = s.ctx.clock.now();
    for name in &names {
        let mut gone: GpuNode = serde_json::from_value(s.api.get(&path(name))).expect("a GpuNode");
        gone.metadata.deletion_timestamp = Some(Time(now));
        gone.status.as_mut().expect("set").assignments = Some(vec![]);
        s.api.put(&path(name), &gone);
        s.caches.node(gone);
        s.ctx.queues.nodes.send(name.clone()).expect("open");
    }
    node(&mut s, "wanted", WELL, None, |_| {});
    s.ctx.queues.nodes.send("wanted".into()).expect("open");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(s.well.calls().iter().any(|call| call == "launch wanted"), "{:?}", s.well.calls());
    assert!(s.well.count("launch") <= sent + 2, "{} were sent after all", s.well.count("launch") - sent);
    shutdown.cancel();
}
