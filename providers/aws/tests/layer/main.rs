//! The provider against the lab's EC2 layer.

#![allow(clippy::unwrap_used, clippy::disallowed_methods)] // a test waits by the clock

mod cloud;
mod contract;
mod notices;
mod templates;

use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use cloud::{Cloud, cloud};
use gpujob_crds::{GpuPool, Market};
use gpujob_provider_aws::Aws;
use gpujob_provider_conformance::Buyer;
use gpujob_provider_core::{ErrorClass, Leftover, LeftoverKind, MachineProvider, NoticeSource};
use serde_json::{Value, json};

fn pool_with(change: impl FnOnce(&mut Value)) -> GpuPool {
    let tags = json!({"tags": {"gpujob.dev/cluster": "lab"}});
    let mut pool = json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": "spot", "uid": "pool-uid"},
        "spec": {"aws": {
            "region": "us-east-1", "subnets": tags, "securityGroups": tags, "instanceProfile": "gpujob-node",
            "image": {"ssmParameter": "/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/nvidia/recommended/image_id"},
            "bootstrap": {"clusterName": "lab", "apiServerEndpoint": "https://10.77.0.1:6443", "certificateAuthority": "Y2E=", "cidr": "10.96.0.0/16"},
        }, "instances": {"types": ["g4dn.*", "g6.*"]}},
    });
    change(&mut pool);
    serde_json::from_value(pool).unwrap()
}

fn pool() -> GpuPool {
    pool_with(|_| {})
}

/// Closes the spot pool of the cheapest offer, and says which it was.
fn close_cheapest(cloud: &Cloud, buyer: &Buyer) -> (String, String) {
    let cheapest = &buyer.offers[0];
    cloud.fault(&json!({"kind": "capacity", "type": cheapest.instance_type, "zone": cheapest.zone, "market": "spot", "available": 0}));
    (cheapest.instance_type.clone(), cheapest.zone.clone())
}

#[tokio::test]
async fn offers_follow_the_market() {
    let cloud = cloud().await;
    cloud.fault(&json!({"kind": "price", "type": "g4dn.xlarge", "zone": "us-east-1b", "price": 0.1}));
    let aws = cloud.provider().await;
    let both = pool_with(|p| p["spec"]["markets"] = json!(["spot", "on-demand"]));
    let mark = cloud.mark();
    let buyer = Buyer::of(aws.clone(), both, "cluster-offers").await;
    let cheapest = &buyer.offers[0];
    assert_eq!((cheapest.label().as_str(), cheapest.price.micros()), ("spot g4dn.xlarge us-east-1b", 100_000));
    assert_eq!((cheapest.on_demand_price.micros(), cheapest.gpus, cheapest.gpu_model.as_str()), (526_000, 1, "T4"));
    assert!(buyer.offers.iter().any(|o| o.label() == "on-demand g6.xlarge us-east-1a" && o.price.micros() == 804_800));
    assert!(buyer.offers.iter().all(|o| o.instance_type.starts_with("g4dn.") || o.instance_type.starts_with("g6.")));
    assert!(cloud.calls("GetProducts", mark) > 0, "on-demand prices come from the price list");
    let mark = cloud.mark();
    aws.offers(&buyer.pool, &buyer.prepared).await.unwrap();
    assert_eq!(cloud.mark(), mark, "no call at all while everything is fresh");
}

#[tokio::test]
async fn a_refused_offer_is_told_and_the_next_is_bought() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    // The strategy that tries the cheapest first, full or not.
    let cheapest_first = pool_with(|p| p["spec"]["allocationStrategy"] = json!("lowest-price"));
    let buyer = Buyer::of(aws.clone(), cheapest_first, "cluster-next").await;
    let (instance_type, zone) = close_cheapest(&cloud, &buyer);
    let launched = buyer.buy("gn", 3).await.unwrap();
    assert_ne!((launched.instance_type.as_str(), launched.zone.as_str()), (instance_type.as_str(), zone.as_str()));
    let [refusal] = launched.refusals.as_slice() else { panic!("{launched:?}") };
    assert_eq!((&refusal.instance_type, &refusal.zone, refusal.market), (&instance_type, &zone, Market::Spot));
    assert_eq!((refusal.code.as_str(), refusal.class.clone()), ("InsufficientInstanceCapacity", ErrorClass::Capacity));
}

#[tokio::test]
async fn refusals_have_their_classes() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let buyer = Buyer::of(aws.clone(), pool(), "cluster-refused").await;
    for (name, fault, class, says) in [
        ("a", json!({"kind": "capacity", "available": 0}), ErrorClass::Capacity, "InsufficientInstanceCapacity"),
        ("b", json!({"kind": "quota", "market": "spot", "vcpus": 1}), ErrorClass::Quota, "L-3819A6DF"),
        ("c", json!({"kind": "price", "type": "*", "zone": "*", "price": 500.0}), ErrorClass::Price, "SpotMaxPriceTooLow"),
        ("d", json!({"kind": "capacity", "error": "UnauthorizedOperation"}), ErrorClass::Unauthorized, "iam-policy.json"),
        ("e", json!({"kind": "capacity", "error": "InsufficientFreeAddressesInSubnet"}), ErrorClass::Addresses, "us-east-1"),
    ] {
        if name == "c" {
            for offer in &buyer.offers {
                cloud.fault(&json!({"kind": "price", "type": offer.instance_type, "zone": "*", "price": 500.0}));
            }
        } else {
            cloud.fault(&fault);
        }
        let error = buyer.buy(name, 3).await.unwrap_err();
        assert_eq!(error.class, class, "{error}");
        assert!(error.message.contains(says), "{error}");
        assert_eq!(error.refusals.len(), 3, "{error:?}");
        assert!(error.refusals.iter().all(|r| r.instance_type.starts_with('g') && r.zone.starts_with("us-east-1")), "{error:?}");
        assert_eq!(buyer.alive().await, 0);
        cloud.control("DELETE", "faults", &json!({}));
    }
}

#[tokio::test]
async fn throttled_calls_are_tried_again_and_then_said() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    let buyer = Buyer::of(aws.clone(), pool(), "cluster-throttled").await;
    cloud.fault(&json!({"kind": "call", "action": "CreateFleet", "when": "before", "code": "RequestLimitExceeded", "times": 2}));
    buyer.buy("patient", 1).await.unwrap();
    cloud.fault(&json!({"kind": "call", "action": "CreateFleet", "when": "before", "code": "RequestLimitExceeded", "times": 9}));
    let mark = cloud.mark();
    let error = buyer.buy("throttled", 1).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Throttled, "{error}");
    assert_eq!(cloud.calls("CreateFleet", mark), 3, "bounded");
    assert_eq!(buyer.alive().await, 1);
}

#[tokio::test]
async fn wrong_pools_are_told_which_field() {
    let cloud = cloud().await;
    let aws = cloud.provider().await;
    for (field, change) in [
        ("spec.aws.subnets", json!({"subnets": {"tags": {"no": "such"}}})),
        ("spec.aws.subnets", json!({"subnets": {"ids": ["subnet-0123456789abcdef0"]}})),
        ("spec.aws.securityGroups", json!({"securityGroups": {"ids": ["sg-0123456789abcdef0"]}})),
        ("spec.aws.image.ssmParameter", json!({"image": {"ssmParameter": "/no/such"}})),
        ("spec.aws.image", json!({"image": null})),
        ("spec.aws.region", json!({"region": "eu-west-1"})),
    ] {
        let pool = pool_with(|p| p["spec"]["aws"].as_object_mut().unwrap().extend(change.as_object().unwrap().clone()));
        let error = aws.prepare(&pool, "cluster-wrong").await.unwrap_err();
        assert_eq!(error.class, ErrorClass::Invalid, "{error}");
        assert!(error.message.starts_with(field), "{error}");
    }
    let versioned = Aws::with_config("us-east-1", &cloud.config("lab", "lab-secret").await).await.unwrap().with_kubernetes("1.35");
    versioned.prepare(&pool_with(|p| p["spec"]["aws"]["image"] = Value::Null), "cluster-wrong").await.unwrap();
}

#[tokio::test]
async fn wrong_keys_are_said() {
    let cloud = cloud().await;
    let aws = cloud.provider_as("AKIAWRONG", "wrong").await;
    let error = aws.list("cluster-keys").await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
    assert!(error.message.contains("credentials"), "{error}");
}

/// A volume that no instance has, with the tag of a cluster or of nobody.
async fn volume(cloud: &Cloud, cluster: Option<&str>) -> String {
    let ec2 = aws_sdk_ec2::Client::new(&cloud.config("lab", "lab-secret").await);
    let tag = Tag::builder().key(cluster.map_or("Name", |_| "gpujob.dev/cluster")).value(cluster.unwrap_or("theirs")).build();
    let tags = TagSpecification::builder().resource_type(ResourceType::Volume).tags(tag).build();
    let made = ec2.create_volume().size(1).availability_zone("us-east-1a").tag_specifications(tags).send().await.unwrap();
    made.volume_id().unwrap().to_owned()
}

/// The policy that we publish is enough for all that the provider does, and for nothing of others.
#[tokio::test]
async fn the_published_policy_is_enough_and_no_more() {
    let cloud = cloud().await;
    let policy: Value = serde_json::from_str(include_str!("../../../../manifests/aws/iam-policy.json")).unwrap();
    let user = cloud.control("POST", "users", &json!({"name": "operator", "policy": policy}));
    let aws = cloud.provider_as(user["access_key"].as_str().unwrap(), user["secret_key"].as_str().unwrap()).await;
    let mark = cloud.mark();
    let both = pool_with(|p| p["spec"]["markets"] = json!(["spot", "on-demand"]));
    let buyer = Buyer::of(aws.clone(), both, "cluster-policy").await;
    assert!(cloud.calls("GetProducts", mark) > 0);
    let launched = buyer.buy("gn", 2).await.unwrap();
    let on_demand = aws.launch(&buyer.call("gn-od", Market::OnDemand, 2)).await.unwrap();
    assert_eq!(on_demand.market, Market::OnDemand);
    for id in [&launched.id, &on_demand.id] {
        aws.terminate(id).await.unwrap();
    }
    // What is left over, what is written, what is announced.
    let variant = aws.prefetch(&buyer.pool, &buyer.prepared, "registry.example/a:1", &buyer.cluster).await.unwrap();
    assert_eq!(variant, None);
    aws.console(&launched.id).await.unwrap();
    aws.notices(&NoticeSource::Poll).await.unwrap();
    let queue = cloud.control("GET", "world", &json!({}))["queue_url"].as_str().unwrap().to_owned();
    let queue = NoticeSource::Queue(queue);
    let told = aws.notices(&queue).await.unwrap();
    assert!(!told.is_empty());
    aws.acknowledge(&queue, &told).await.unwrap();
    let kept = volume(&cloud, Some(&buyer.cluster)).await;
    let left = aws.leftovers(&buyer.cluster).await.unwrap();
    assert!(left.iter().any(|l| l.id == kept) && left.len() == 3, "a volume, a base and a variant: {left:?}");
    for leftover in &left {
        aws.remove(leftover).await.unwrap();
    }
    aws.release("pool-uid", &buyer.cluster).await.unwrap();

    // One that has no tag of a cluster of ours.
    let admin = cloud.provider().await;
    let mut foreign = Buyer::of(admin.clone(), pool(), "cluster-foreign").await.call("gn", Market::Spot, 1);
    foreign.request["tags"] = json!({"Name": "theirs"});
    let theirs = admin.launch(&foreign).await.unwrap();
    let foreign_volume = volume(&cloud, None).await;
    let theirs_too =
        Leftover { kind: LeftoverKind::Volume, id: foreign_volume, name: String::new(), pool_uid: None, node_uid: None, created: None };
    let error = aws.remove(&theirs_too).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
    admin.remove(&theirs_too).await.unwrap();
    assert_eq!(aws.console(&theirs.id).await.unwrap_err().class, ErrorClass::Unauthorized);
    let error = aws.terminate(&theirs.id).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unauthorized, "{error}");
    let error = aws.launch(&foreign).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Unauthorized, "without the cluster's tag nothing may be launched: {error}");
}
