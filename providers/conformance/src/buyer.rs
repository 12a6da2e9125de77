//! Somebody who buys: one pool of one cluster, prepared, with its offers.

use crate::Laboratory;
use gpujob_crds::{GpuPool, Market, Price};
use gpujob_provider_core::{InstanceState, LaunchCall, Launched, MachineProvider, Offer, Prepared, ProviderError, Rendering};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// The longest that a case waits for a cloud.
const PATIENCE: Duration = Duration::from_secs(60);

/// A prepared pool.
pub struct Buyer {
    /// Whom it buys from.
    pub provider: Arc<dyn MachineProvider>,
    /// Who pays.
    pub pool: GpuPool,
    /// For which cluster.
    pub cluster: String,
    /// What the provider made of the pool.
    pub prepared: Prepared,
    /// What can be had, cheapest first.
    pub offers: Vec<Offer>,
}

impl Buyer {
    /// One in a laboratory, with its pool.
    ///
    /// # Panics
    /// When the pool cannot be prepared.
    pub async fn new(laboratory: &dyn Laboratory, cluster: &str) -> Self {
        Buyer::of(laboratory.provider().await, laboratory.pool(), cluster).await
    }

    /// One with a pool of its own.
    ///
    /// # Panics
    /// When the pool cannot be prepared.
    pub async fn of(provider: Arc<dyn MachineProvider>, pool: GpuPool, cluster: &str) -> Self {
        let prepared = provider.prepare(&pool, cluster).await.expect("the pool is prepared");
        let offers = provider.offers(&pool, &prepared).await.expect("it has offers");
        Buyer { provider, pool, cluster: cluster.to_owned(), prepared, offers }
    }

    /// The cheapest `count` offers of a market.
    #[must_use]
    pub fn cheapest(&self, market: Market, count: usize) -> Vec<Offer> {
        self.offers.iter().filter(|o| o.market == market).take(count).cloned().collect()
    }

    /// A launch of these offers, at a tenth more than the dearest costs now, for the GpuNode `node`.
    ///
    /// # Panics
    /// When they are none, or the provider does not render the same twice.
    #[must_use]
    pub fn call_for(&self, node: &str, offers: &[Offer], prepared: &Prepared) -> LaunchCall {
        let market = offers.first().expect("an offer to launch").market;
        let max_price = offers.iter().map(|o| o.price).max().unwrap_or(Price::ZERO).plus_percent(10);
        let rendering = Rendering { pool: &self.pool, prepared, cluster: &self.cluster, node, market, offers, max_price };
        let request = self.provider.render(&rendering).expect("rendered");
        assert_eq!(request.to_string(), self.provider.render(&rendering).expect("rendered").to_string(), "rendering is pure");
        LaunchCall { request, cluster: self.cluster.clone(), node: node.to_owned(), node_uid: format!("uid-of-{node}"), ordinal: 1 }
    }

    /// A launch of the cheapest `count` offers of a market.
    #[must_use]
    pub fn call(&self, node: &str, market: Market, count: usize) -> LaunchCall {
        self.call_for(node, &self.cheapest(market, count), &self.prepared)
    }

    /// Sends a launch of the cheapest `count` spot offers.
    ///
    /// # Errors
    /// As the provider answers.
    pub async fn buy(&self, node: &str, count: usize) -> Result<Launched, ProviderError> {
        self.provider.launch(&self.call(node, Market::Spot, count)).await
    }

    /// Waits until the cloud shows an instance in this state; one that it shows no longer has ended.
    ///
    /// # Panics
    /// When that takes a minute, or the instances cannot be listed.
    pub async fn until(&self, id: &str, state: InstanceState) {
        let start = Instant::now();
        loop {
            let listing = self.provider.list(&self.cluster).await.expect("a list");
            assert!(listing.complete);
            let found = listing.instances.iter().find(|i| i.id == id).map(|i| i.state);
            if found == Some(state) || (found.is_none() && state == InstanceState::Terminated) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{id} is {found:?}, not {state:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// How many instances the list shows that still cost money.
    ///
    /// # Panics
    /// When they cannot be listed.
    pub async fn alive(&self) -> usize {
        let listing = self.provider.list(&self.cluster).await.expect("a list");
        listing.instances.iter().filter(|i| i.state <= InstanceState::Running).count()
    }
}

/// The instance's place as offers have it.
pub(crate) fn place(launched: &Launched) -> (&str, &str, Market) {
    (&launched.instance_type, &launched.zone, launched.market)
}

/// An offer's place.
pub(crate) fn place_of(offer: &Offer) -> (&str, &str, Market) {
    (&offer.instance_type, &offer.zone, offer.market)
}
