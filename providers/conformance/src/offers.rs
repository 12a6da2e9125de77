//! What a pool is made into, and what it may buy.

use crate::{Buyer, Laboratory};
use gpujob_crds::{Market, Price};
use std::collections::BTreeSet;

/// Preparing again finds what is there, in this process and in another one.
pub async fn preparing_repeats(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-prepares").await;
    for provider in [buyer.provider.clone(), laboratory.provider().await] {
        assert_eq!(provider.prepare(&buyer.pool, &buyer.cluster).await.expect("prepared"), buyer.prepared);
    }
    let templates = buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers");
    assert!(templates.len() <= 1, "made once: {templates:?}");
}

/// What was prepared can be released any number of times, and prepared again to the same.
pub async fn releasing_repeats(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-releases").await;
    let other = Buyer::new(laboratory, "cluster-releases-other").await;
    let uid = buyer.pool.metadata.uid.clone().expect("a UID");
    for _ in 0..2 {
        buyer.provider.release(&uid, &buyer.cluster).await.expect("released");
    }
    assert_eq!(buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers"), []);
    other.buy("gn", 1).await.expect("another cluster's pool is untouched");
    assert_eq!(buyer.provider.prepare(&buyer.pool, &buyer.cluster).await.expect("prepared"), buyer.prepared);
}

/// Offers come cheapest first, in the pool's markets only, each once, and each says what it holds.
pub async fn they_come_cheapest_first(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-offers").await;
    assert!(buyer.offers.windows(2).all(|pair| pair[0] < pair[1]), "cheapest first, each once");
    for offer in &buyer.offers {
        assert!(
            offer.price > Price::ZERO && offer.on_demand_price > Price::ZERO && offer.gpus > 0 && offer.gpu_memory_mib > 0,
            "{offer:?}"
        );
        assert!(offer.vcpus > 0 && offer.memory_mib > 0 && !offer.gpu_model.is_empty(), "{offer:?}");
    }
    for market in [Market::Spot, Market::OnDemand] {
        let zones: BTreeSet<_> = buyer.cheapest(market, 3).into_iter().map(|o| o.zone).collect();
        assert!(buyer.cheapest(market, 3).len() == 3 && !zones.is_empty(), "the laboratory's pool has three {market} offers");
    }
    let mut spot_only = buyer.pool.clone();
    spot_only.spec.markets = vec![Market::Spot];
    let offers = buyer.provider.offers(&spot_only, &buyer.prepared).await.expect("offers");
    assert!(!offers.is_empty() && offers.iter().all(|o| o.market == Market::Spot));
}
