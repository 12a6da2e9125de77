//! Which rung a job is given, with what is remembered of each offer.

use super::*;
use crate::capacity::Record;
use crate::scheduler::worlds::*;
use gpujob_crds::pool::Limits;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::{ErrorClass, Offer};

fn interrupted(thousandths: i64) -> Record {
    Record { interruptions: thousandths, ..Record::default() }
}

fn labels(world: &World) -> Vec<Vec<String>> {
    bought(&plan(world, now())).iter().map(|rung| rung.offers.iter().map(Offer::label).collect()).collect()
}

fn first(step: Step, offers: Vec<(Offer, Record)>) -> String {
    let w = world(vec![on(step, job("j"))], vec![remembering(offers)]);
    labels(&w).first().map_or_else(|| "waits".to_owned(), |offers| offers[0].clone())
}

#[test]
fn steps_decide_between_the_markets() {
    let spot = |record| (offer("g6.xlarge", "a", Market::Spot, 300_000, 1), record);
    let large = |record| (offer("g6.48xlarge", "a", Market::Spot, 2_000_000, 8), record);
    let on_demand = |record| (offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1), record);
    let none = Record::default;
    for (what, step, offers, expected) in [
        ("spot while there is some", Step::Either, vec![spot(none()), on_demand(none())], "spot g6.xlarge a"),
        ("on-demand when spot was refused", Step::Either, vec![spot(refused(30)), on_demand(none())], "on-demand g6.xlarge a"),
        ("not a dearer spot", Step::Either, vec![spot(refused(30)), large(none()), on_demand(none())], "on-demand g6.xlarge a"),
        ("any spot before its time", Step::Spot, vec![spot(refused(30)), large(none()), on_demand(none())], "spot g6.48xlarge a"),
        ("nothing before its time", Step::Spot, vec![spot(refused(30)), on_demand(none())], "waits"),
        ("no spot that could be waited for", Step::Spot, vec![on_demand(none())], "on-demand g6.xlarge a"),
        ("certainty first", Step::OnDemandFirst, vec![spot(none()), on_demand(none())], "on-demand g6.xlarge a"),
        ("and spot rather than nothing", Step::OnDemandFirst, vec![spot(none()), on_demand(refused(30))], "spot g6.xlarge a"),
        ("spot that is taken back all the time", Step::Either, vec![spot(interrupted(8000)), on_demand(none())], "on-demand g6.xlarge a"),
    ] {
        assert_eq!(first(step, offers), expected, "{what}");
    }
}

#[test]
fn on_demand_needs_the_pool_and_the_job() {
    let offers = || {
        vec![
            (offer("g6.xlarge", "a", Market::Spot, 300_000, 1), refused(30)),
            (offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1), Record::default()),
        ]
    };
    let mut spot_pool = remembering(offers());
    let mut changed = (*spot_pool.pool).clone();
    changed.spec.markets = vec![Market::Spot];
    spot_pool.pool = Arc::new(changed);
    assert_eq!(why(&world(vec![job("j")], vec![spot_pool])), "NoCapacity");
    let wants = Wants { markets: vec![Market::Spot], ..(*job("j").wants).clone() };
    assert_eq!(why(&world(vec![wanting("j", wants)], vec![remembering(offers())])), "NoCapacity");
}

#[test]
fn a_wait_for_on_demand_says_so_and_ends_by_itself() {
    let offers = vec![
        (offer("g6.xlarge", "a", Market::Spot, 300_000, 1), refused(300)),
        (offer("g6.xlarge", "a", Market::OnDemand, 800_000, 1), Record::default()),
    ];
    let mut waits = on(Step::Spot, job("j"));
    let opens = Timestamp::from_second(1100).expect("time");
    (waits.ladder.next, waits.ladder.note) = (Some(opens), Some("on-demand is tried from then".into()));
    let plan = plan(&world(vec![waits], vec![remembering(offers)]), now());
    assert_eq!((plan.wake, plan.waiting[&0].next_try), (Some(opens), Some(opens)));
    assert!(plan.waiting[&0].message.ends_with("; on-demand is tried from then"));
}

#[test]
fn prices_that_are_upside_down_are_taken() {
    let offers = vec![offer("g6.xlarge", "a", Market::Spot, 389_700, 1), offer("g6.2xlarge", "a", Market::Spot, 315_300, 1)];
    assert_eq!(labels(&world(vec![job("j")], vec![pool(offers)])), [["spot g6.2xlarge a"]]);
}

#[test]
fn the_band_is_of_expected_cost_and_budgets_of_list_prices() {
    let spot = |zone: &str, micros| offer("g6.xlarge", zone, Market::Spot, micros, 1);
    let offers =
        vec![(spot("a", 300_000), interrupted(1000)), (spot("b", 310_000), Record::default()), (spot("c", 365_000), Record::default())];
    // A fresh interruption makes a's 0.30 an expected 0.3693: the last of the three, and still within 20 % of b.
    let w = world(vec![job("j")], vec![remembering(offers.clone())]);
    assert_eq!(labels(&w), [["spot g6.xlarge b", "spot g6.xlarge c", "spot g6.xlarge a"]]);
    let mut limited = remembering(offers);
    let mut changed = (*limited.pool).clone();
    changed.spec.limits = Some(Limits { price_per_hour: Some(Price::from_micros(320_000)), ..Default::default() });
    limited.pool = Arc::new(changed);
    let w = world(vec![job("j")], vec![limited]);
    assert_eq!(labels(&w), [["spot g6.xlarge b", "spot g6.xlarge a"]]);
    assert_eq!(bought(&plan(&w, now()))[0].max_price, Price::from_micros(310_000));
}

#[test]
fn refusals_are_counted_and_a_quota_is_named() {
    let mut quota = refused(30);
    let believed = quota.refused.as_mut().expect("refused");
    (believed.class, believed.code) = (ErrorClass::Quota, "MaxSpotInstanceCountExceeded".into());
    believed.message = "Ask for more of the quota \"All G and VT Spot Instance Requests\" (L-3819A6DF)".into();
    let offers =
        vec![(offer("g6.xlarge", "a", Market::Spot, 300_000, 1), refused(30)), (offer("g6.xlarge", "b", Market::Spot, 300_000, 1), quota)];
    let plan = plan(&world(vec![job("j")], vec![remembering(offers)]), now());
    let why = &plan.waiting[&0];
    assert_eq!(why.reason, "QuotaExceeded");
    assert!(
        why.message.contains("all 2 offers that fit") && why.message.contains("1 InsufficientInstanceCapacity, 1 MaxSpot"),
        "{}",
        why.message
    );
    assert!(why.message.contains("L-3819A6DF"), "{}", why.message);
}

#[test]
fn a_refused_intent_counts_for_nothing_and_its_job_gets_the_next_rung() {
    let mut refused = (*node("n", 1, 1)).clone();
    let status = refused.status.as_mut().expect("status");
    status.instance = None;
    let wanted = gpujob_crds::conditions::want(gpujob_crds::conditions::node::LAUNCHED, false, "NoCapacity", "");
    gpujob_crds::conditions::set(&mut status.conditions, &wanted, 1, now());
    let limits = Limits { nodes: Some(1), ..Default::default() };
    let mut w = world(vec![job("j")], vec![limited(vec![offer("g6.xlarge", "b", Market::Spot, 300_000, 1)], limits)]);
    w.nodes = vec![Arc::new(refused)];
    assert_eq!(labels(&w), [["spot g6.xlarge b"]]);
}
