//! Templates that prefetch an image, and what is left over.

use crate::cloud::{Cloud, cloud};
use crate::{pool, pool_with};
use gpujob_crds::Market;
use gpujob_provider_conformance::Buyer;
use gpujob_provider_core::{ErrorClass, InstanceState, LaunchCall, LeftoverKind, MachineProvider, Prepared};
use serde_json::json;
use std::time::{Duration, Instant};

const IMAGE: &str = "10.77.0.1:5000/big:1";

/// The variant, asked for as the scheduler does: again and again.
async fn prefetching(buyer: &Buyer, image: &str) -> Prepared {
    let start = Instant::now();
    loop {
        let found = buyer.provider.prefetch(&buyer.pool, &buyer.prepared, image, &buyer.cluster).await.unwrap();
        if let Some(found) = found {
            return found;
        }
        assert!(start.elapsed() < Duration::from_secs(10), "never visible");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn user_data(cloud: &Cloud, id: &str) -> String {
    cloud.control("GET", &format!("instances/{id}"), &json!({}))["user_data"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_image_gets_a_template_of_its_own() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let mut buyer = Buyer::of(aws.clone(), pool(), "cluster-prefetch").await;
    let ask = |image: &'static str| aws.prefetch(&buyer.pool, &buyer.prepared, image, &buyer.cluster);
    assert_eq!(ask(IMAGE).await.unwrap(), None, "made, and not shown yet");
    let variant = ask(IMAGE).await.unwrap().unwrap();
    let mark = cloud.mark();
    assert_eq!(ask(IMAGE).await.unwrap(), Some(variant.clone()));
    assert_eq!(cloud.mark(), mark, "what was shown is not asked for again");
    assert_ne!(variant.0["template"]["name"], buyer.prepared.0["template"]["name"]);
    assert_eq!(variant.0["subnets"], buyer.prepared.0["subnets"]);
    assert_eq!(ask("no image'; reboot").await.unwrap(), None);

    let plain = buyer.buy("gn-plain", 1).await.unwrap();
    buyer.prepared = variant;
    let quick = buyer.buy("gn-quick", 1).await.unwrap();
    assert!(!user_data(&cloud, &plain.id).contains(IMAGE));
    let told = user_data(&cloud, &quick.id);
    assert!(told.contains(&format!("IMAGE='{IMAGE}'")) && told.contains("kind: NodeConfig") && told.contains("dead-man"), "{told}");
    for id in [&plain.id, &quick.id] {
        aws.terminate(id).await.unwrap();
    }
    aws.release("pool-uid", &buyer.cluster).await.unwrap();
    assert_eq!(aws.leftovers(&buyer.cluster).await.unwrap(), [], "a pool takes its variants with it");
}

/// By the process that made it, and by one that was started since and knows only the pool.
#[tokio::test]
async fn a_variant_that_is_gone_is_made_again_for_the_same_request() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let mut buyer = Buyer::of(aws.clone(), pool(), "cluster-gone").await;
    buyer.prepared = prefetching(&buyer, IMAGE).await;
    let call = buyer.call("gn", Market::Spot, 1);
    let restarted = cloud.provider().await;
    for (provider, node_uid) in [(&aws, "uid-1"), (&restarted, "uid-2")] {
        provider.prepare(&buyer.pool, &buyer.cluster).await.unwrap();
        let all = aws.leftovers(&buyer.cluster).await.unwrap();
        let variant = all.iter().find(|l| l.name == call.request["template"]["name"]).unwrap();
        aws.remove(variant).await.unwrap();
        let call = LaunchCall { node_uid: node_uid.to_owned(), ..call.clone() };
        let error = provider.launch(&call).await.unwrap_err();
        assert_eq!(error.class, ErrorClass::NotFound, "{error}");
        let launched = provider.launch(&call).await.unwrap();
        assert!(user_data(&cloud, &launched.id).contains(IMAGE));
        provider.terminate(&launched.id).await.unwrap();
    }
}

#[tokio::test]
async fn another_pool_or_image_is_another_variant() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let one = Buyer::of(aws.clone(), pool(), "cluster-variants").await;
    let other =
        Buyer::of(aws.clone(), pool_with(|p| p["metadata"] = json!({"name": "other", "uid": "other-uid"})), "cluster-variants").await;
    let names = [prefetching(&one, IMAGE).await, prefetching(&one, "10.77.0.1:5000/other:1").await, prefetching(&other, IMAGE).await]
        .map(|prepared| prepared.0["template"]["name"].as_str().unwrap().to_owned());
    assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2], "{names:?}");
    // A pool that this process has not prepared, as after a restart: the caller goes on without.
    let restarted = cloud.provider().await;
    assert_eq!(restarted.prefetch(&one.pool, &one.prepared, IMAGE, &one.cluster).await.unwrap(), None);
    restarted.prepare(&one.pool, &one.cluster).await.unwrap();
    assert_eq!(restarted.prefetch(&one.pool, &one.prepared, IMAGE, &one.cluster).await.unwrap().unwrap().0["template"]["name"], names[0]);
}

#[tokio::test]
async fn leftovers_are_listed_with_their_owners_and_removed() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let buyer = Buyer::of(aws.clone(), pool(), "cluster-leftovers").await;
    let foreign = Buyer::of(aws.clone(), pool(), "cluster-neighbour").await;
    let [base] = aws.leftovers(&buyer.cluster).await.unwrap().try_into().unwrap();
    assert_eq!((base.kind, base.pool_uid.as_deref(), base.node_uid.as_deref()), (LeftoverKind::Template, Some("pool-uid"), None));
    assert_eq!(buyer.prepared.0["template"]["name"], base.name);
    assert!(base.created.is_some());

    let gone = buyer.buy("gn-gone", 1).await.unwrap();
    cloud.fault(&json!({"kind": "node", "keep_volume": true, "times": 1}));
    let kept = buyer.buy("gn-kept", 1).await.unwrap();
    for launched in [&gone, &kept] {
        buyer.until(&launched.id, InstanceState::Running).await;
    }
    assert_eq!(aws.leftovers(&buyer.cluster).await.unwrap(), std::slice::from_ref(&base), "volumes in use are nobody's leftovers");
    for launched in [&gone, &kept] {
        aws.terminate(&launched.id).await.unwrap();
        buyer.until(&launched.id, InstanceState::Terminated).await;
    }
    let found = aws.leftovers(&buyer.cluster).await.unwrap();
    let [volume] = found.iter().filter(|l| l.kind == LeftoverKind::Volume).collect::<Vec<_>>().try_into().unwrap();
    assert_eq!(volume.node_uid.as_deref(), Some("uid-of-gn-kept"));
    assert_eq!(volume.name, "gpujob/gn-kept");
    for leftover in found.iter().chain(&found) {
        aws.remove(leftover).await.unwrap();
    }
    assert_eq!(aws.leftovers(&buyer.cluster).await.unwrap(), []);
    assert_eq!(aws.leftovers(&foreign.cluster).await.unwrap().len(), 1, "the neighbour's is still there");
}
