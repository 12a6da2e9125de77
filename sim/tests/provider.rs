//! The fake cloud passes what every provider of machines must pass: the same cases that providers/aws passes over the lab's EC2.

use async_trait::async_trait;
use gpujob_crds::{GpuPool, Market, Price, names};
use gpujob_provider_conformance::{Buyer, Laboratory, Operation, Trouble};
use gpujob_provider_core::{ErrorClass, MachineProvider, Offer};
use gpujob_sim::clock::SimClock;
use gpujob_sim::cloud::{Failure, FakeCloud, Fault, Operation as Call, Places, QUEUE, When};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

gpujob_provider_conformance::suite!(
    #[tokio::test(start_paused = true)]
    crate::open()
);

/// The fake, in virtual time.
struct Fake {
    cloud: FakeCloud,
    prices: Vec<Offer>,
}

async fn open() -> Fake {
    let cloud = FakeCloud::new(Arc::new(SimClock::new()));
    let prices = cloud.market();
    Fake { cloud, prices }
}

impl Fake {
    async fn process(&self, name: &str) -> Arc<dyn MachineProvider> {
        self.cloud.clouds_of(name).machines(&self.cloud.scope()).await.expect("served")
    }
}

#[async_trait]
impl Laboratory for Fake {
    async fn provider(&self) -> Arc<dyn MachineProvider> {
        self.process("operator").await
    }

    fn pool(&self) -> GpuPool {
        let tags = json!({"tags": {"gpujob.dev/cluster": "lab"}});
        let pool = json!({
            "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": "spot", "uid": "pool-uid"},
            "spec": {"aws": {
                "region": "us-east-1", "subnets": tags, "securityGroups": tags, "instanceProfile": "gpujob-node",
                "bootstrap": {"clusterName": "lab", "apiServerEndpoint": "https://10.77.0.1:6443", "certificateAuthority": "Y2E=", "cidr": "10.96.0.0/16"},
            }, "instances": {"types": ["g4dn.*", "g6.*"]}, "markets": ["spot", "on-demand"], "allocationStrategy": "lowest-price"},
        });
        serde_json::from_value(pool).expect("a pool")
    }

    async fn capacity(&self, offer: Option<&Offer>, instances: u32) {
        self.cloud.set_capacity(&offer.map_or(Places::all(), Places::from), Some(instances));
    }

    async fn quota(&self, market: Market, vcpus: u32) {
        self.cloud.set_quota('g', market, i32::try_from(vcpus).ok());
    }

    async fn price(&self, offer: &Offer, price: Price) {
        self.cloud.set_price(&Places::from(offer), price);
    }

    async fn no_addresses(&self, zone: &str) {
        self.cloud.refuse(&Places::all().zone(zone), Some("InsufficientFreeAddressesInSubnet"));
    }

    async fn lag(&self, lag: Duration) {
        self.cloud.set_lag(lag);
    }

    async fn trouble(&self, operation: Operation, trouble: Trouble) {
        let call = match operation {
            Operation::Launch => Call::Launch,
            Operation::List => Call::List,
        };
        let failure = match trouble {
            Trouble::Throttled => Failure::Refused(ErrorClass::Throttled),
            Trouble::Unauthorized => Failure::Refused(ErrorClass::Unauthorized),
            Trouble::LostBefore => Failure::Lost(When::Before),
            Trouble::LostAfter => Failure::Lost(When::After),
        };
        self.cloud.fault(Fault::next(call, failure).times(u32::MAX));
    }

    async fn calm(&self) {
        self.cloud.calm();
        self.cloud.set_capacity(&Places::all(), None);
        self.cloud.refuse(&Places::all(), None);
        self.cloud.set_lag(Duration::ZERO);
        for market in [Market::Spot, Market::OnDemand] {
            self.cloud.set_quota('g', market, None);
        }
        for offer in &self.prices {
            self.cloud.set_price(&Places::from(offer), offer.price);
        }
    }

    async fn alive(&self, cluster: &str) -> Vec<String> {
        self.cloud.alive(names::CLUSTER_TAG, cluster).into_iter().map(|m| m.id).collect()
    }

    async fn breaks_off(&self, cluster: &str) -> Arc<dyn MachineProvider> {
        let buyer = Buyer::new(self, cluster).await;
        for node in ["one", "other"] {
            buyer.buy(node, 1).await.expect("bought");
        }
        self.cloud.fault(Fault::next(Call::List, Failure::Incomplete(1)).of("broken"));
        self.process("broken").await
    }

    async fn interrupt(&self, id: &str, notice: Duration) {
        assert!(self.cloud.interrupt(id, notice));
    }

    async fn rebalance(&self, id: &str) {
        assert!(self.cloud.rebalance(id));
    }

    fn queue(&self) -> String {
        QUEUE.to_owned()
    }

    async fn say(&self, id: &str, text: &str) {
        self.cloud.say(id, text);
    }

    async fn disk(&self, cluster: &str, node_uid: &str) -> String {
        let tags = [(names::CLUSTER_TAG, cluster), (names::NODE_UID_TAG, node_uid)];
        self.cloud.plant_volume(BTreeMap::from(tags.map(|(key, value)| (key.to_owned(), value.to_owned()))))
    }
}
