//! Launches that pull an image while the instance boots.

use crate::{Buyer, Laboratory};
use gpujob_crds::Market;
use gpujob_provider_core::{LeftoverKind, Prepared};
use std::time::Duration;
use tokio::time::{Instant, sleep};

async fn variant(buyer: &Buyer, image: &str) -> Prepared {
    let start = Instant::now();
    loop {
        if let Some(variant) = buyer.provider.prefetch(&buyer.pool, &buyer.prepared, image, &buyer.cluster).await.expect("an answer") {
            return variant;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "no variant for {image}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// One variant for one image: launches may name it, its offers are the pool's, and it goes with the pool.
pub async fn a_variant_is_made_once_and_launches(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-prefetch").await;
    let one = variant(&buyer, "registry.example/big:1").await;
    let other = variant(&buyer, "registry.example/big:2").await;
    assert!(one != buyer.prepared && one != other);
    assert_eq!(variant(&buyer, "registry.example/big:1").await, one, "found again");
    let templates = buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers");
    assert_eq!(templates.iter().filter(|l| l.kind == LeftoverKind::Template).count(), 3, "the pool's own and two more: {templates:?}");

    let offers = buyer.provider.offers(&buyer.pool, &one).await.expect("offers");
    assert_eq!(offers, buyer.offers);
    let call = buyer.call_for("gn", &buyer.cheapest(Market::Spot, 3), &one);
    let launched = buyer.provider.launch(&call).await.expect("bought");
    assert_eq!(buyer.provider.launch(&call).await.expect("a replay").id, launched.id);

    buyer.provider.release(&buyer.pool.metadata.uid.clone().expect("a UID"), &buyer.cluster).await.expect("released");
    assert_eq!(buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers"), []);
}

/// What cannot be pulled is left to the kubelet to complain of.
pub async fn what_is_no_image_is_not_prefetched(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-no-image").await;
    for image in ["", "two words", "a; reboot"] {
        for _ in 0..2 {
            let answer = buyer.provider.prefetch(&buyer.pool, &buyer.prepared, image, &buyer.cluster).await.expect("an answer");
            assert_eq!(answer, None, "{image:?}");
        }
    }
    assert_eq!(buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers").len(), 1);
}
