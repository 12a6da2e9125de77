//! What the fake's tests stand on: a pool, a launch of it, and a cloud.

use super::FakeCloud;
use crate::clock::SimClock;
use gpujob_crds::{GpuPool, Market, Price};
use gpujob_provider_core::{LaunchCall, Launched, MachineProvider, Offer, Prepared, ProviderError, Rendering};
use serde_json::json;
use std::sync::Arc;

pub(super) const CLUSTER: &str = "cluster-uid";

pub(super) fn pool() -> GpuPool {
    let tags = json!({"tags": {"a": "b"}});
    serde_json::from_value(json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": "spot", "uid": "pool-uid"},
        "spec": {"aws": {
            "region": "us-east-1", "subnets": tags, "securityGroups": tags, "instanceProfile": "node",
            "bootstrap": {"clusterName": "c", "apiServerEndpoint": "https://10.0.0.1", "certificateAuthority": "Y2E=", "cidr": "10.96.0.0/16"},
        }, "instances": {"types": ["g4dn.xlarge", "g6.*"]}, "markets": ["spot", "on-demand"], "allocationStrategy": "lowest-price"},
    }))
    .expect("a pool")
}

pub(super) fn cloud() -> FakeCloud {
    FakeCloud::new(Arc::new(SimClock::new()))
}

pub(super) async fn machines(cloud: &FakeCloud, process: &str) -> Arc<dyn MachineProvider> {
    cloud.clouds_of(process).machines(&cloud.scope()).await.expect("served")
}

/// A prepared pool.
pub(super) struct Buyer {
    pub(super) provider: Arc<dyn MachineProvider>,
    pub(super) prepared: Prepared,
    pub(super) offers: Vec<Offer>,
}

impl Buyer {
    pub(super) async fn new(cloud: &FakeCloud) -> Self {
        let provider = machines(cloud, "operator").await;
        let prepared = provider.prepare(&pool(), CLUSTER).await.expect("prepared");
        let offers = provider.offers(&pool(), &prepared).await.expect("offers");
        Buyer { provider, prepared, offers }
    }

    /// A launch of the cheapest `count` spot offers, at their prices and 10 % more.
    pub(super) fn call(&self, node: &str, count: usize) -> LaunchCall {
        let offers: Vec<_> = self.offers.iter().filter(|o| o.market == Market::Spot).take(count).cloned().collect();
        let max_price = offers.iter().map(|o| o.price).max().unwrap_or(Price::ZERO).plus_percent(10);
        let (pool, prepared) = (pool(), &self.prepared);
        let rendering = Rendering { pool: &pool, prepared, cluster: CLUSTER, node, market: Market::Spot, offers: &offers, max_price };
        let request = self.provider.render(&rendering).expect("rendered");
        LaunchCall { request, cluster: CLUSTER.into(), node: node.into(), node_uid: format!("uid-{node}"), ordinal: 1 }
    }

    pub(super) async fn buy(&self, node: &str, count: usize) -> Result<Launched, ProviderError> {
        self.provider.launch(&self.call(node, count)).await
    }
}
