//! Who gets what, as tables.

use super::*;
use crate::capacity::Record;
use crate::scheduler::worlds::*;
use gpujob_crds::pool::Limits;
use gpujob_crds::{Market, Price, conditions};
use gpujob_provider_core::{Demand, Offer};

fn one() -> Wants {
    Wants { demand: Demand { gpus: 1, ..Default::default() }, ..Wants::default() }
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
    let capped = wanting("j", Wants { price_cap: Some(Price::from_micros(299_999)), ..one() });
    assert_eq!(why(&world(vec![capped], vec![pool(two())])), "PriceAboveBudget");
    let limits = Limits { nodes: Some(1), ..Default::default() };
    let plan_two = plan(&world(vec![job("a"), job("b")], vec![limited(two(), limits)]), now());
    assert_eq!((bought(&plan_two).len(), plan_two.waiting[&1].reason.as_str()), (1, "PoolLimit"));
    // The dearest that may come must be within the limit, not only the best.
    let limits = Limits { price_per_hour: Some(Price::from_micros(320_000)), ..Default::default() };
    let plan = plan(&world(vec![job("a")], vec![limited(two(), limits)]), now());
    assert_eq!(bought(&plan)[0].offers.len(), 1);
    assert_eq!(bought(&plan)[0].max_price, Price::from_micros(300_000));
}

#[test]
fn every_wait_says_why() {
    assert_eq!(why(&world(vec![job("j")], vec![])), "NoPool");
    assert_eq!(why(&world(vec![wanting("j", Wants { pools: vec!["x".into()], ..one() })], vec![pool(vec![])])), "NoPool");
    let big = wanting("j", Wants { demand: Demand { gpus: 8, ..Default::default() }, ..Wants::default() });
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
    let (spot, on_demand) = (offer("g6.xlarge", "a", Market::Spot, 300_000, 1), offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1));
    let w = world(vec![job("j")], vec![remembering(vec![(spot.clone(), refused(30)), (on_demand, Record::default())])]);
    assert_eq!(bought(&plan(&w, now()))[0].market, Market::OnDemand, "the next rung of the ladder");
    let waits = plan(&world(vec![job("j")], vec![remembering(vec![(spot, refused(30))])]), now());
    assert_eq!(waits.waiting[&0].reason, "NoCapacity");
    assert_eq!(waits.waiting[&0].tried[0].answer, "InsufficientInstanceCapacity");
    assert_eq!(waits.wake, Some(Timestamp::from_second(1030).expect("time")));
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
    let mut w = world(vec![wanting("j", Wants { misfits, ..one() })], vec![pool(offers)]);
    w.nodes = vec![node("n", 4, 0)];
    assert_eq!(bought(&plan(&w, now()))[0].offers[0].instance_type, "g6.2xlarge");
}

/// Found by the simulator (node-deleted/clean): the job waited nine minutes on a GpuNode whose Node had been deleted a moment ago.
#[test]
fn a_node_whose_node_object_is_gone_is_not_given_to_a_job() {
    let mut bereft = (*node("n", 4, 0)).clone();
    let wanted = conditions::want(conditions::node::INITIALIZED, conditions::Status::Unknown, "NodeMissing", "");
    conditions::set(&mut bereft.status.as_mut().expect("status").conditions, &wanted, 1, now());
    let mut w = world(vec![job("j")], vec![pool(vec![offer("g6.12xlarge", "a", Market::Spot, 100, 4)])]);
    w.nodes = vec![Arc::new(bereft)];
    assert_eq!(bought(&plan(&w, now())).len(), 1);
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
