use super::*;
use crate::cloud::fixture::{Buyer, cloud};
use crate::cloud::{Places, TERMINATED};
use gpujob_provider_core::InstanceState;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_replay_is_answered_with_the_original_even_when_that_is_dead() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let call = buyer.call("gn", 3);
    let first = buyer.provider.launch(&call).await.expect("bought");
    cloud.set_capacity(&Places::all(), Some(0));
    cloud.kill(&first.id, TERMINATED);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let again = buyer.provider.launch(&call).await.expect("the original");
    assert_eq!((&again.id, again.instance.map(|i| i.state)), (&first.id, Some(InstanceState::Terminated)));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    let later = buyer.provider.launch(&call).await.expect("the original");
    assert_eq!((later.id, later.instance), (first.id, None), "no longer shown");
    assert_eq!(cloud.instances().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_request_or_ordinal_is_told_apart() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let call = buyer.call("gn", 2);
    let first = buyer.provider.launch(&call).await.expect("bought");
    let other = LaunchCall { request: buyer.call("gn", 3).request, ..call.clone() };
    assert_eq!(buyer.provider.launch(&other).await.expect_err("other").class, ErrorClass::Mismatch);
    let next = buyer.provider.launch(&LaunchCall { ordinal: 2, ..call }).await.expect("bought");
    assert_ne!(first.id, next.id);
    let tags = &cloud.instance(&next.id).expect("made").tags;
    assert_eq!((tags[names::NODE_UID_TAG].as_str(), tags[names::LAUNCH_TAG].as_str()), ("uid-gn", "2"));
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_on_the_way_is_told_beside_what_was_bought() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let [first, second, third] = &buyer.offers[..3] else { panic!("offers") };
    cloud.set_capacity(&Places::from(first), Some(0));
    cloud.refuse(&Places::from(second), Some("InsufficientFreeAddressesInSubnet"));
    let launched = buyer.buy("gn", 3).await.expect("bought");
    assert_eq!((launched.instance_type.as_str(), launched.zone.as_str()), (third.instance_type.as_str(), third.zone.as_str()));
    let told: Vec<_> = launched.refusals.iter().map(|r| (r.instance_type.as_str(), r.zone.as_str(), r.code.as_str())).collect();
    assert_eq!(
        told,
        [
            (first.instance_type.as_str(), first.zone.as_str(), "InsufficientInstanceCapacity"),
            (second.instance_type.as_str(), second.zone.as_str(), "InsufficientFreeAddressesInSubnet"),
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn the_worst_refusal_names_the_class_of_all() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_capacity(&Places::all(), Some(0));
    let full = buyer.buy("a", 3).await.expect_err("full");
    assert_eq!((full.class, full.refusals.len()), (ErrorClass::Capacity, 3));
    cloud.set_quota('g', Market::Spot, Some(0));
    let quota = buyer.buy("b", 3).await.expect_err("quota");
    assert_eq!((quota.class, quota.refusals[0].code.as_str()), (ErrorClass::Quota, "MaxSpotInstanceCountExceeded"));
    let call = buyer.call("c", 3);
    cloud.set_price(&Places::all(), Price::from_micros(50_000_000));
    let dear = buyer.provider.launch(&call).await.expect_err("dear");
    assert_eq!((dear.class, dear.refusals[0].code.as_str()), (ErrorClass::Price, "SpotMaxPriceTooLow"));
    assert!(cloud.instances().is_empty());
}

#[tokio::test(start_paused = true)]
async fn capacity_is_used_up_and_given_back_when_the_instance_is_gone() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_capacity(&Places::all(), Some(1));
    let first = buyer.buy("a", 1).await.expect("bought");
    assert_eq!(buyer.buy("b", 1).await.expect_err("full").class, ErrorClass::Capacity);
    cloud.end(&first.id);
    tokio::time::sleep(Duration::from_secs(19)).await;
    assert_eq!(buyer.buy("b", 1).await.expect_err("dying").class, ErrorClass::Capacity);
    tokio::time::sleep(Duration::from_secs(2)).await;
    buyer.buy("b", 1).await.expect("free again, and a refusal is not remembered");
}

#[tokio::test(start_paused = true)]
async fn a_token_may_remember_its_refusal() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_remembers_refusals(true);
    cloud.set_capacity(&Places::all(), Some(0));
    buyer.buy("a", 1).await.expect_err("full");
    cloud.set_capacity(&Places::all(), None);
    assert_eq!(buyer.buy("a", 1).await.expect_err("the same answer").class, ErrorClass::Capacity);
}

#[tokio::test(start_paused = true)]
async fn strategies_choose_differently() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let [cheapest, second, third] = &buyer.offers[..3] else { panic!("offers") };
    let with = |strategy: &str, node: &str| {
        let mut call = buyer.call(node, 3);
        call.request["allocationStrategy"] = serde_json::json!(strategy);
        call
    };
    cloud.set_capacity(&Places::from(cheapest), Some(0));
    cloud.set_capacity(&Places::from(second), Some(2));
    let silent = buyer.provider.launch(&with("price-capacity-optimized", "a")).await.expect("bought");
    assert_eq!(
        (Place::of(second), silent.refusals.len()),
        (Place { instance_type: silent.instance_type, zone: silent.zone, market: silent.market }, 0)
    );
    let deep = buyer.provider.launch(&with("capacity-optimized", "b")).await.expect("bought");
    assert_eq!((deep.instance_type.as_str(), deep.zone.as_str()), (third.instance_type.as_str(), third.zone.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_launch_needs_its_template() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let call = buyer.call("gn", 1);
    assert!(cloud.drop_template(&cloud.templates()[0].name));
    assert_eq!(buyer.provider.launch(&call).await.expect_err("gone").class, ErrorClass::NotFound);
    Buyer::new(&cloud).await;
    let launched = buyer.provider.launch(&call).await.expect("made again under its name");
    cloud.drop_template(&cloud.templates()[0].name);
    assert_eq!(buyer.provider.launch(&call).await.expect("a replay needs none").id, launched.id);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let call = LaunchCall { request: serde_json::json!({"v": 1}), ..buyer.call("gn", 1) };
    assert_eq!(buyer.provider.launch(&call).await.expect_err("nonsense").class, ErrorClass::Invalid);
}
