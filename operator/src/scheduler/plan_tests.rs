//! Who gets what, as tables.

use super::*;
use crate::capacity::Believed;
use crate::scheduler::observe::PoolView;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::pool::Limits;
use gpujob_crds::{GpuNodeSpec, GpuPool, Market};
use gpujob_provider_core::{Demand, Prepared};

fn offer(instance_type: &str, zone: &str, market: Market, micros: i64, gpus: i32) -> Offer {
    Offer {
        price: Price::from_micros(micros),
        instance_type: instance_type.into(),
        zone: zone.into(),
        market,
        on_demand_price: Price::from_micros(800_000),
        gpus,
        gpu_model: "L4".into(),
        gpu_memory_mib: 22_888,
        vcpus: 8,
        memory_mib: 32_768,
    }
}

fn job(uid: &str) -> Pending {
    Pending {
        uid: uid.into(),
        namespace: "ns".into(),
        name: uid.into(),
        attempt: 1,
        priority: 0,
        created: Timestamp::UNIX_EPOCH,
        demand: Demand { gpus: 1, ..Default::default() },
        pools: vec![],
        markets: vec![],
        price_cap: None,
        misfits: vec![],
        not_before: None,
    }
}

fn pool(offers: Vec<Offer>) -> PoolView {
    let mut pool = GpuPool::new("p", Default::default());
    pool.metadata.uid = Some("pool-uid".into());
    pool.spec.markets = vec![Market::Spot, Market::OnDemand];
    PoolView {
        pool: Arc::new(pool),
        ready: true,
        why_not: String::new(),
        prepared: Some(Prepared(serde_json::json!({}))),
        offers: offers.into_iter().map(|o| (o, None)).collect(),
        blocked: None,
    }
}

fn limited(offers: Vec<Offer>, limits: Limits) -> PoolView {
    let mut view = pool(offers);
    let mut changed = (*view.pool).clone();
    changed.spec.limits = Some(limits);
    view.pool = Arc::new(changed);
    view
}

fn world(jobs: Vec<Pending>, pools: Vec<PoolView>) -> World {
    World {
        pending: jobs,
        silent: vec![],
        nodes: vec![],
        pools,
        namespaces: [("ns".to_owned(), [("team".to_owned(), "a".to_owned())].into())].into(),
    }
}

fn node(name: &str, gpus: i32, reserved: i32) -> Arc<GpuNode> {
    let mut node = GpuNode::new(name, GpuNodeSpec { pool: "p".into(), pool_uid: "pool-uid".into(), gpus, ..Default::default() });
    node.spec.launch.market = Some(Market::Spot);
    node.metadata.uid = Some(name.into());
    node.status = Some(GpuNodeStatus {
        instance: Some(InstanceStatus {
            id: name.into(),
            instance_type: "g6.12xlarge".into(),
            zone: "a".into(),
            market: Market::Spot,
            price_per_hour: Price::from_micros(1_500_000),
            gpus,
            private_dns_name: None,
            private_ip: None,
            provider_id: None,
            launch_time: None,
        }),
        assignments: Some(
            (0..reserved)
                .map(|n| Reservation { job_uid: format!("other-{name}-{n}"), gpus: 1, attempt: 1, ..Default::default() })
                .collect(),
        ),
        ..Default::default()
    });
    Arc::new(node)
}

fn now() -> Timestamp {
    Timestamp::from_second(1000).expect("time")
}

fn bought(plan: &Plan) -> Vec<&Rung> {
    plan.actions
        .iter()
        .filter_map(|a| match a {
            Action::Launch { rung, .. } => Some(rung),
            Action::Reserve { .. } => None,
        })
        .collect()
}

fn why(world: &World) -> String {
    plan(world, now()).waiting.values().next().map_or_else(String::new, |w| w.reason.clone())
}

#[test]
fn the_cheapest_that_fits_with_its_near_equals() {
    let offers = vec![
        offer("g6.2xlarge", "b", Market::Spot, 310_000, 1),
        offer("g6.xlarge", "a", Market::Spot, 360_000, 1),
        offer("g6.xlarge", "c", Market::Spot, 500_000, 1),
        offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1),
    ];
    let plan = plan(&world(vec![job("j")], vec![pool(offers)]), now());
    let rungs = bought(&plan);
    assert_eq!(rungs[0].offers.iter().map(Offer::label).collect::<Vec<_>>(), ["spot g6.2xlarge b", "spot g6.xlarge a"]);
    assert_eq!(rungs[0].max_price, Price::from_micros(800_000));
}

#[test]
fn a_free_node_is_taken_before_anything_is_bought_and_the_fullest_first() {
    let mut w = world(vec![job("j")], vec![pool(vec![offer("g6.12xlarge", "a", Market::Spot, 100, 4)])]);
    w.nodes = vec![node("empty", 4, 0), node("full", 4, 4), node("half", 4, 2)];
    match &plan(&w, now()).actions[..] {
        [Action::Reserve { node, .. }] => assert_eq!(node.name_any(), "half"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn two_jobs_never_share_one_gpu() {
    let mut w = world(vec![job("a"), job("b")], vec![pool(vec![offer("g6.12xlarge", "a", Market::Spot, 100, 4)])]);
    w.nodes = vec![node("n", 4, 3)];
    let plan = plan(&w, now());
    assert!(matches!(&plan.actions[..], [Action::Reserve { reservation, .. }, Action::Launch { .. }] if reservation.job_uid == "a"));
}

#[test]
fn a_dying_or_foreign_node_is_not_taken() {
    let mut dying = (*node("dying", 4, 0)).clone();
    dying.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let mut foreign = (*node("foreign", 4, 0)).clone();
    foreign.spec.pool_uid = "a pool of the same name, made again".into();
    let mut w = world(vec![job("j")], vec![pool(vec![offer("g6.12xlarge", "a", Market::Spot, 100, 4)])]);
    w.nodes = vec![Arc::new(dying), Arc::new(foreign)];
    assert_eq!(bought(&plan(&w, now())).len(), 1);
}

#[test]
fn money_is_a_limit() {
    let two = || vec![offer("g6.xlarge", "a", Market::Spot, 300_000, 1), offer("g6.xlarge", "b", Market::Spot, 350_000, 1)];
    let capped = Pending { price_cap: Some(Price::from_micros(299_999)), ..job("j") };
    assert_eq!(why(&world(vec![capped], vec![pool(two())])), "PriceAboveBudget");
    let limits = Limits { nodes: Some(1), ..Default::default() };
    let plan_two = plan(&world(vec![job("a"), job("b")], vec![limited(two(), limits)]), now());
    assert_eq!((bought(&plan_two).len(), plan_two.waiting["b"].reason.as_str()), (1, "PoolLimit"));
    // The dearest that may come must be within the limit, not only the best.
    let limits = Limits { price_per_hour: Some(Price::from_micros(320_000)), ..Default::default() };
    let plan = plan(&world(vec![job("a")], vec![limited(two(), limits)]), now());
    assert_eq!(bought(&plan)[0].offers.len(), 1);
    assert_eq!(bought(&plan)[0].max_price, Price::from_micros(300_000));
}

#[test]
fn every_wait_says_why() {
    assert_eq!(why(&world(vec![job("j")], vec![])), "NoPool");
    assert_eq!(why(&world(vec![Pending { pools: vec!["x".into()], ..job("j") }], vec![pool(vec![])])), "NoPool");
    let big = Pending { demand: Demand { gpus: 8, ..Default::default() }, ..job("j") };
    assert_eq!(why(&world(vec![big], vec![pool(vec![offer("g6.xlarge", "a", Market::Spot, 1, 1)])])), "NoOfferFits");
    let mut unready = pool(vec![]);
    unready.ready = false;
    assert_eq!(why(&world(vec![job("j")], vec![unready])), "PoolNotReady");
    let mut closed = pool(vec![offer("g6.xlarge", "a", Market::Spot, 1, 1)]);
    let mut changed = (*closed.pool).clone();
    changed.spec.namespaces = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector {
        match_labels: Some([("team".to_owned(), "b".to_owned())].into()),
        ..Default::default()
    });
    closed.pool = Arc::new(changed);
    assert_eq!(why(&world(vec![job("j")], vec![closed])), "NoPool");
}

#[test]
fn what_was_refused_is_not_asked_again_and_the_wait_says_until_when() {
    let capacity = crate::capacity::Capacity::default();
    let one = offer("g6.xlarge", "a", Market::Spot, 300_000, 1);
    let refusal = gpujob_provider_core::Refusal {
        instance_type: "g6.xlarge".into(),
        zone: "a".into(),
        market: Market::Spot,
        code: "InsufficientInstanceCapacity".into(),
        class: gpujob_provider_core::ErrorClass::Capacity,
    };
    capacity.refused("p", "r", &[refusal], "", now());
    let believed: Option<Believed> = capacity.records("p", "r", std::slice::from_ref(&one), now()).remove(0).refused;
    let mut view = pool(vec![]);
    view.offers = vec![(one, believed.clone()), (offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1), None)];
    let w = world(vec![job("j")], vec![view.clone()]);
    assert_eq!(bought(&plan(&w, now()))[0].market, Market::OnDemand, "the next rung of the ladder");
    view.offers.pop();
    let waits = plan(&world(vec![job("j")], vec![view]), now());
    assert_eq!(waits.waiting["j"].reason, "NoCapacity");
    assert_eq!(waits.waiting["j"].tried[0].answer, "InsufficientInstanceCapacity");
    assert_eq!(waits.wake, believed.map(|b| b.until));
}

#[test]
fn the_name_of_a_try_that_still_ends_is_not_used_again() {
    let mut ending = (*node(&names::gpu_node("j", 0, 1, 1), 1, 1)).clone();
    ending.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
    let mut w = world(vec![job("j")], vec![pool(vec![offer("g6.xlarge", "a", Market::Spot, 1, 1)])]);
    w.nodes = vec![Arc::new(ending)];
    assert!(matches!(&plan(&w, now()).actions[..], [Action::Launch { name, .. }] if *name == names::gpu_node("j", 0, 1, 2)));
}

#[test]
fn what_was_too_small_before_is_not_bought_or_taken_again() {
    let misfits = vec![(Some("n".to_owned()), Some("g6.xlarge".to_owned()))];
    let offers = vec![offer("g6.xlarge", "a", Market::Spot, 100, 1), offer("g6.2xlarge", "a", Market::Spot, 200, 1)];
    let mut w = world(vec![Pending { misfits, ..job("j") }], vec![pool(offers)]);
    w.nodes = vec![node("n", 4, 0)];
    assert_eq!(bought(&plan(&w, now()))[0].offers[0].instance_type, "g6.2xlarge");
}

#[test]
fn a_node_that_is_silent_is_not_given_to_a_job() {
    let mut silent = (*node("n", 4, 0)).clone();
    let wanted = conditions::want(conditions::node::INITIALIZED, conditions::Status::Unknown, "NodeNotReady", "");
    let earlier = Timestamp::from_second(1000 - 121).expect("time");
    conditions::set(&mut silent.status.as_mut().expect("status").conditions, &wanted, 1, earlier);
    let mut w = world(vec![job("j")], vec![pool(vec![offer("g6.12xlarge", "a", Market::Spot, 100, 4)])]);
    w.nodes = vec![Arc::new(silent)];
    assert_eq!(bought(&plan(&w, now())).len(), 1);
}
