//! The memory goes into a status and comes back.

use super::super::tests::{at, offer, record, refusal};
use super::super::{Capacity, PoolOffers};
use super::*;
use gpujob_provider_core::{Offer, Prepared, ProviderError};
use std::sync::Arc;

fn capacity(offers: Vec<Offer>) -> Capacity {
    let capacity = Capacity::default();
    let prepared = Prepared(serde_json::json!({}));
    capacity.set_offers("p", PoolOffers { uid: "u".into(), generation: 1, prepared, offers: Arc::new(offers), listed: at(0) });
    capacity
}

fn full() -> Capacity {
    let full = capacity(vec![offer("g6.xlarge", "a")]);
    for class in [ErrorClass::Capacity, ErrorClass::Quota, ErrorClass::Addresses] {
        full.refused("p", "r", &[refusal(class)], "words", at(100));
    }
    full.interrupted("r", Market::Spot, "g6.xlarge", "a", at(100));
    full.block_pool("p", &ProviderError::new(ErrorClass::Unauthorized, "no rights"), at(100));
    full
}

#[test]
fn a_restarted_operator_knows_what_the_one_before_was_told() {
    let before = full();
    let said = before.remembered("p", "r", &[], at(101));
    assert_eq!(said.len(), 5);
    let json = serde_json::to_string(&said).expect("JSON");
    let said: Vec<Remembered> = serde_json::from_str(&json).expect("what the API server gives back");
    let after = capacity(vec![offer("g6.xlarge", "a")]);
    after.restore("p", "r", &said, true, at(102));
    for (instance_type, zone) in [("g6.xlarge", "a"), ("g5.xlarge", "b"), ("p5.4xlarge", "a"), ("p5.4xlarge", "b")] {
        let of = |capacity| record(capacity, "p", "r", offer(instance_type, zone), at(102));
        assert_eq!(of(&before), of(&after), "{instance_type} {zone}");
    }
    assert_eq!(before.blocked("p", at(102)), after.blocked("p", at(102)));
    assert_eq!(after.remembered("p", "r", &said, at(102)), said, "and has nothing to write");
}

#[test]
fn what_only_grows_old_is_no_reason_to_write() {
    let known = full();
    let said = known.remembered("p", "r", &[], at(101));
    for later in [200, 2000, 20_000, 200_000] {
        assert_eq!(known.remembered("p", "r", &said, at(later)), said, "{later}");
    }
    known.refused("p", "r", &[refusal(ErrorClass::Price)], "", at(200_000));
    let next = known.remembered("p", "r", &said, at(200_000));
    assert_eq!(next.iter().map(|one| one.reason.as_str()).collect::<Vec<_>>(), ["PriceTooLow"], "the old goes with the next write");
}

#[test]
fn a_follower_forgets_what_the_leader_forgot_and_a_leader_outranks_its_status() {
    let said = full().remembered("p", "r", &[], at(101));
    let refused = |c: &Capacity| record(c, "p", "r", offer("p5.4xlarge", "a"), at(103)).refused.is_some();
    let follower = capacity(vec![]);
    follower.restore("p", "r", &said, false, at(102));
    assert!(refused(&follower));
    follower.restore("p", "r", &[], false, at(103));
    assert!(!refused(&follower), "the leader bought there");
    // The one who leads has bought, and its status still says otherwise.
    let leader = capacity(vec![]);
    leader.restore("p", "r", &said, true, at(102));
    leader.bought("p", "r", Market::Spot, "g6.xlarge", "a");
    leader.restore("p", "r", &said, true, at(103));
    assert!(!refused(&leader));
}

#[test]
fn a_status_stays_small() {
    let zones: Vec<String> = (0..200).map(|n| format!("z{n:03}")).collect();
    let known = capacity(vec![]);
    for (n, zone) in zones.iter().enumerate() {
        let one = gpujob_provider_core::Refusal { zone: zone.clone(), ..refusal(ErrorClass::Capacity) };
        known.refused("p", "r", &[one], "", at(n as i64));
    }
    known.refused("p", "r", &[refusal(ErrorClass::Quota)], &"long ".repeat(1000), at(0));
    let said = known.remembered("p", "r", &[], at(200));
    assert_eq!(said.len(), MOST);
    assert!(said.iter().any(|one| one.reason == "QuotaExceeded" && one.message.as_ref().is_some_and(|m| m.len() <= WORDS)));
    assert!(said.iter().any(|one| one.zone.as_deref() == Some("z199")) && !said.iter().any(|one| one.zone.as_deref() == Some("z000")));
}
