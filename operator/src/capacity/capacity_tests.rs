//! What is believed, for how long, and of what.

use super::*;
use gpujob_crds::Price;
use gpujob_provider_core::ErrorClass;

pub(super) fn offer(instance_type: &str, zone: &str) -> Offer {
    Offer {
        price: Price::ZERO,
        instance_type: instance_type.into(),
        zone: zone.into(),
        market: Market::Spot,
        on_demand_price: Price::ZERO,
        gpus: 1,
        gpu_model: "L4".into(),
        gpu_memory_mib: 1,
        vcpus: 4,
        memory_mib: 1,
    }
}

pub(super) fn refusal(class: ErrorClass) -> Refusal {
    Refusal { instance_type: "g6.xlarge".into(), zone: "a".into(), market: Market::Spot, code: "No".into(), class }
}

pub(super) fn at(s: i64) -> Timestamp {
    Timestamp::from_second(s).expect("time")
}

pub(super) fn record(capacity: &Capacity, pool: &str, region: &str, offer: Offer, now: Timestamp) -> Record {
    capacity.records(pool, region, &[offer], now).remove(0)
}

fn refused(capacity: &Capacity, pool: &str, region: &str, offer: Offer, now: Timestamp) -> bool {
    record(capacity, pool, region, offer, now).refused.is_some()
}

#[test]
fn each_class_speaks_of_its_scope() {
    let capacity = Capacity::default();
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(0));
    assert!(refused(&capacity, "p", "r", offer("g6.xlarge", "a"), at(0)));
    assert!(!refused(&capacity, "p", "r", offer("g6.xlarge", "b"), at(0)));
    assert!(!refused(&capacity, "p", "other", offer("g6.xlarge", "a"), at(0)));
    assert!(!refused(&capacity, "p", "r", Offer { market: Market::OnDemand, ..offer("g6.xlarge", "a") }, at(0)));

    let capacity = Capacity::default();
    capacity.refused("p", "r", &[refusal(ErrorClass::Quota)], "ask for L-3819A6DF", at(0));
    let told = record(&capacity, "another pool", "r", offer("g5.xlarge", "b"), at(0)).refused.expect("the whole family");
    assert_eq!(told.message, "ask for L-3819A6DF");
    assert!(!refused(&capacity, "p", "r", offer("p5.4xlarge", "b"), at(0)));
    assert!(!refused(&capacity, "p", "r", Offer { market: Market::OnDemand, ..offer("g6.xlarge", "a") }, at(0)));

    let capacity = Capacity::default();
    capacity.refused("p", "r", &[refusal(ErrorClass::Addresses)], "", at(0));
    assert!(refused(&capacity, "p", "r", Offer { market: Market::OnDemand, ..offer("p5.4xlarge", "a") }, at(0)), "no type fits there");
    assert!(!refused(&capacity, "p", "r", offer("g6.xlarge", "b"), at(0)));
    assert!(!refused(&capacity, "another pool", "r", offer("g6.xlarge", "a"), at(0)), "its subnet may be another");

    let capacity = Capacity::default();
    capacity.refused("p", "r", &[Refusal { zone: String::new(), ..refusal(ErrorClass::Capacity) }], "", at(0));
    assert!(refused(&capacity, "p", "r", offer("g6.xlarge", "b"), at(0)), "a refusal that names no zone speaks of all");
}

#[test]
fn belief_ends_grows_and_is_forgotten_on_success() {
    let capacity = Capacity::default();
    let believed = |s| refused(&capacity, "p", "r", offer("g6.xlarge", "a"), at(s));
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(0));
    // Two requests of one moment are no row.
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(0));
    assert!(believed(29) && !believed(31));
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(31));
    assert!(believed(31 + 59) && !believed(31 + 60));
    assert_eq!(record(&capacity, "p", "r", offer("g6.xlarge", "a"), at(100)).row, 2, "a row is remembered beyond its belief");
    capacity.bought("p", "r", Market::Spot, "g6.xlarge", "a");
    assert!(!believed(32));
    assert_eq!(record(&capacity, "p", "r", offer("g6.xlarge", "a"), at(32)).row, 0);
    // Old rows say nothing.
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(200));
    capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", at(5000));
    assert!(believed(5029) && !believed(5031));
}

#[test]
fn belief_is_bounded() {
    let (capacity, mut now) = (Capacity::default(), at(0));
    for _ in 0..20 {
        capacity.refused("p", "r", &[refusal(ErrorClass::Capacity)], "", now);
        let until = record(&capacity, "p", "r", offer("g6.xlarge", "a"), now).refused.expect("believed").until;
        assert!(until.duration_since(now) <= LONGEST, "{until}");
        now = until;
    }
}

#[test]
fn answers_of_one_moment_hold_a_pool_back_once() {
    let capacity = Capacity::default();
    let error = gpujob_provider_core::ProviderError::new(ErrorClass::Unauthorized, "no rights");
    for _ in 0..5 {
        capacity.block_pool("p", &error, at(100));
    }
    assert!(capacity.blocked("p", at(159)).is_some() && capacity.blocked("p", at(160)).is_none());
    capacity.block_pool("p", &error, at(170));
    assert!(capacity.blocked("p", at(289)).is_some() && capacity.blocked("p", at(290)).is_none(), "the next one in a row is twice as long");
}
