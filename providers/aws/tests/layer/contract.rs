//! The contract of a provider, over the lab's EC2: the same cases that the simulator's cloud passes.

use crate::cloud::{Cloud, answering, cloud, provider_at};
use async_trait::async_trait;
use aws_sdk_ec2::types::{ResourceType, Tag, TagSpecification};
use gpujob_crds::{GpuPool, Market, Price, names};
use gpujob_provider_conformance::{Laboratory, Operation, Trouble};
use gpujob_provider_core::{MachineProvider, Offer};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::sync::MutexGuard;

gpujob_provider_conformance::suite!(
    #[tokio::test]
    crate::contract::open()
);

/// The lab's EC2, for one test.
struct Ec2 {
    cloud: MutexGuard<'static, Cloud>,
    queue: String,
}

async fn open() -> Ec2 {
    let cloud = cloud().await;
    // Messages outlive a reset, and a queue may be purged once a minute only: each test has one of its own.
    static TESTS: AtomicU32 = AtomicU32::new(0);
    let name = format!("contract-{}", TESTS.fetch_add(1, Ordering::SeqCst));
    let sqs = aws_sdk_sqs::Client::new(&cloud.config("lab", "lab-secret").await);
    let made = sqs.create_queue().queue_name(&name).send().await.unwrap();
    cloud.control("POST", "config", &json!({"event_queue": name}));
    Ec2 { cloud, queue: made.queue_url.unwrap() }
}

#[async_trait]
impl Laboratory for Ec2 {
    async fn provider(&self) -> Arc<dyn MachineProvider> {
        self.cloud.provider().await
    }

    fn pool(&self) -> GpuPool {
        crate::pool_with(|pool| {
            pool["spec"]["markets"] = json!(["spot", "on-demand"]);
            pool["spec"]["allocationStrategy"] = json!("lowest-price");
        })
    }

    async fn capacity(&self, offer: Option<&Offer>, instances: u32) {
        let mut row = json!({"kind": "capacity", "available": instances});
        if let Some(offer) = offer {
            row.as_object_mut().unwrap().extend(place(offer));
        }
        self.cloud.fault(&row);
    }

    async fn quota(&self, market: Market, vcpus: u32) {
        self.cloud.fault(&json!({"kind": "quota", "market": market, "vcpus": vcpus}));
    }

    async fn price(&self, offer: &Offer, price: Price) {
        self.cloud.fault(&json!({"kind": "price", "type": offer.instance_type, "zone": offer.zone, "price": price.dollars()}));
    }

    async fn no_addresses(&self, zone: &str) {
        self.cloud.fault(&json!({"kind": "capacity", "zone": zone, "available": 0, "error": "InsufficientFreeAddressesInSubnet"}));
    }

    async fn lag(&self, lag: Duration) {
        self.cloud.fault(&json!({"kind": "lag", "seconds": lag.as_secs_f64()}));
    }

    async fn trouble(&self, operation: Operation, trouble: Trouble) {
        let action = match operation {
            Operation::Launch => "CreateFleet",
            Operation::List => "DescribeInstances",
        };
        let (when, code) = match trouble {
            Trouble::Throttled => ("before", "RequestLimitExceeded"),
            Trouble::Unauthorized => ("before", "UnauthorizedOperation"),
            Trouble::LostBefore => ("before", "InternalError"),
            Trouble::LostAfter => ("after", "InternalError"),
        };
        // More often than the SDK tries.
        self.cloud.fault(&json!({"kind": "call", "action": action, "when": when, "code": code, "times": 1000}));
    }

    async fn calm(&self) {
        self.cloud.control("DELETE", "faults", &json!({}));
    }

    async fn alive(&self, cluster: &str) -> Vec<String> {
        let instances = self.cloud.control("GET", "instances", &json!({}));
        let lives = |i: &&Value| i["state"] == "pending" || i["state"] == "running";
        let ours = instances.as_array().unwrap().iter().filter(lives).filter(|i| i["tags"][names::CLUSTER_TAG] == cluster);
        ours.map(|i| i["id"].as_str().unwrap().to_owned()).collect()
    }

    async fn breaks_off(&self, cluster: &str) -> Arc<dyn MachineProvider> {
        // The layer answers a thousand instances with the first page: a server that answers the second with an error.
        let page = "<DescribeInstancesResponse><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId>\
                    <instanceState><name>running</name></instanceState></item></instancesSet></item></reservationSet>\
                    <nextToken>more</nextToken></DescribeInstancesResponse>";
        let broken = "<Response><Errors><Error><Code>InternalError</Code><Message>no</Message></Error></Errors></Response>";
        let filter = format!("={cluster}");
        let address = answering(move |request| match request {
            request if !request.contains(&filter) => (400, broken),
            request if request.contains("NextToken=more") => (500, broken),
            _ => (200, page),
        });
        Arc::new(provider_at(&address, "lab", "lab-secret").await)
    }

    async fn interrupt(&self, id: &str, notice: Duration) {
        self.cloud.control("POST", &format!("instances/{id}/interrupt"), &json!({"notice": notice.as_secs_f64()}));
    }

    async fn rebalance(&self, id: &str) {
        self.cloud.control("POST", &format!("instances/{id}/rebalance"), &json!({}));
    }

    fn queue(&self) -> String {
        self.queue.clone()
    }

    async fn say(&self, id: &str, text: &str) {
        self.cloud.control("POST", &format!("instances/{id}/console"), &json!({"append": text}));
    }

    async fn disk(&self, cluster: &str, node_uid: &str) -> String {
        let ec2 = aws_sdk_ec2::Client::new(&self.cloud.config("lab", "lab-secret").await);
        let tag = |key: &str, value: &str| Tag::builder().key(key).value(value).build();
        let tags = TagSpecification::builder()
            .resource_type(ResourceType::Volume)
            .tags(tag(names::CLUSTER_TAG, cluster))
            .tags(tag(names::NODE_UID_TAG, node_uid))
            .build();
        let made = ec2.create_volume().size(1).availability_zone("us-east-1a").tag_specifications(tags).send().await.unwrap();
        made.volume_id().unwrap().to_owned()
    }
}

fn place(offer: &Offer) -> serde_json::Map<String, Value> {
    let place = json!({"type": offer.instance_type, "zone": offer.zone, "market": offer.market});
    place.as_object().unwrap().clone()
}
