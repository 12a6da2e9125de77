//! What is refused, in which class, and of which offers: what the ladder and its memory live by.

use crate::buyer::{place, place_of};
use crate::{Buyer, Laboratory, Operation, Trouble};
use gpujob_crds::{Market, Price};
use gpujob_provider_core::{ErrorClass, Offer, ProviderError, Refusal};
use std::collections::BTreeSet;

/// Of which offers the answer speaks.
fn spoken_of(refusals: &[Refusal]) -> BTreeSet<(&str, &str, Market)> {
    refusals.iter().map(|r| (r.instance_type.as_str(), r.zone.as_str(), r.market)).collect()
}

/// Each of these offers was refused with this class, and so was the call.
fn refused(error: &ProviderError, offers: &[Offer], class: &ErrorClass) {
    assert_eq!(&error.class, class, "{error}");
    assert!(error.refusals.iter().all(|r| &r.class == class && !r.code.is_empty()), "{error:?}");
    assert_eq!(spoken_of(&error.refusals), offers.iter().map(place_of).collect(), "{error:?}");
    assert!(class.is_refusal() && !class.may_have_happened());
}

/// Success and refusals in one answer: both count.
pub async fn a_full_offer_is_told_and_the_next_is_bought(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-next").await;
    let offers = buyer.cheapest(Market::Spot, 3);
    laboratory.capacity(Some(&offers[0]), 0).await;
    let launched = buyer.buy("gn", 3).await.expect("bought");
    assert!(place(&launched) != place_of(&offers[0]) && offers.iter().any(|o| place_of(o) == place(&launched)), "{launched:?}");
    assert_eq!(spoken_of(&launched.refusals), BTreeSet::from([place_of(&offers[0])]));
    assert_eq!(launched.refusals[0].class, ErrorClass::Capacity);
}

/// Nothing is left anywhere: each offer is named.
pub async fn no_capacity_is_said_of_each_offer(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-full").await;
    laboratory.capacity(None, 0).await;
    let error = buyer.buy("gn", 3).await.expect_err("full");
    refused(&error, &buyer.cheapest(Market::Spot, 3), &ErrorClass::Capacity);
    assert!(laboratory.alive(&buyer.cluster).await.is_empty());
}

/// One that ends makes room for the next.
pub async fn capacity_comes_back_with_the_end(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-room").await;
    laboratory.capacity(None, 1).await;
    let first = buyer.buy("a", 1).await.expect("bought");
    assert_eq!(buyer.buy("b", 1).await.expect_err("full").class, ErrorClass::Capacity);
    buyer.provider.terminate(&first.id).await.expect("ended");
    buyer.until(&first.id, gpujob_provider_core::InstanceState::Terminated).await;
    buyer.buy("c", 1).await.expect("room again");
}

/// A spot quota refuses spot in every zone, and on-demand in none.
pub async fn a_quota_is_of_one_market(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-quota").await;
    laboratory.quota(Market::Spot, 1).await;
    let error = buyer.buy("spot", 3).await.expect_err("over the quota");
    refused(&error, &buyer.cheapest(Market::Spot, 3), &ErrorClass::Quota);
    let call = buyer.call("on-demand", Market::OnDemand, 3);
    let launched = buyer.provider.launch(&call).await.expect("another quota");
    assert_eq!(launched.market, Market::OnDemand);
    laboratory.calm().await;
    laboratory.quota(Market::OnDemand, 1).await;
    let error = buyer.provider.launch(&buyer.call("too-many", Market::OnDemand, 3)).await.expect_err("over the quota");
    refused(&error, &buyer.cheapest(Market::OnDemand, 3), &ErrorClass::Quota);
}

/// The price rose after the request was rendered: what is above its limit is not bought, and what is not, is.
pub async fn a_price_above_the_limit_is_not_paid(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-price").await;
    let offers = buyer.cheapest(Market::Spot, 3);
    let (all, last) = (buyer.call("all", Market::Spot, 3), buyer.call("last", Market::Spot, 3));
    for offer in &offers[..2] {
        laboratory.price(offer, Price::from_micros(500_000_000)).await;
    }
    let launched = buyer.provider.launch(&last).await.expect("the last");
    assert_eq!(place(&launched), place_of(&offers[2]));
    laboratory.price(&offers[2], Price::from_micros(500_000_000)).await;
    let error = buyer.provider.launch(&all).await.expect_err("too dear");
    refused(&error, &offers, &ErrorClass::Price);
    assert_eq!(laboratory.alive(&buyer.cluster).await, [launched.id]);
}

/// A subnet without addresses refuses every type of its zone, in both markets; another zone sells.
pub async fn a_full_subnet_is_of_one_zone(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-subnet").await;
    let zone = buyer.cheapest(Market::Spot, 1)[0].zone.clone();
    laboratory.no_addresses(&zone).await;
    for market in [Market::Spot, Market::OnDemand] {
        let (here, there): (Vec<Offer>, Vec<Offer>) =
            buyer.offers.iter().filter(|o| o.market == market).cloned().partition(|o| o.zone == zone);
        let error = buyer.provider.launch(&buyer.call_for(&format!("here-{market}"), &here[..1], &buyer.prepared)).await.expect_err("full");
        refused(&error, &here[..1], &ErrorClass::Addresses);
        buyer.provider.launch(&buyer.call_for(&format!("there-{market}"), &there[..1], &buyer.prepared)).await.expect("bought");
    }
}

/// Too many calls, or no right to: neither leaves anything behind, and the same call is good later.
pub async fn a_refused_call_does_nothing(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-refused").await;
    for (trouble, class) in [(Trouble::Throttled, ErrorClass::Throttled), (Trouble::Unauthorized, ErrorClass::Unauthorized)] {
        laboratory.trouble(Operation::Launch, trouble).await;
        let error = buyer.buy("gn", 1).await.expect_err("refused");
        assert_eq!(error.class, class, "{error}");
        assert!(!class.may_have_happened() && laboratory.alive(&buyer.cluster).await.is_empty());
        laboratory.calm().await;
    }
    let launched = buyer.buy("gn", 1).await.expect("bought");
    assert_eq!(laboratory.alive(&buyer.cluster).await, [launched.id]);
}
