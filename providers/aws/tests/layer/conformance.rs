//! What every provider of machines must do. Takes the trait, and so runs against a cloud and against a fake alike.

use gpujob_crds::{GpuPool, Market, Price};
use gpujob_provider_core::{
    ErrorClass, InstanceState, LaunchCall, Launched, MachineProvider, Offer, Prepared, ProviderError, Rendering, Terminated,
};
use kube::ResourceExt;
use std::time::{Duration, Instant};

/// One pool of one cluster, prepared, with its offers.
pub(crate) struct Buyer<'a> {
    pub(crate) provider: &'a dyn MachineProvider,
    pub(crate) pool: GpuPool,
    pub(crate) cluster: String,
    pub(crate) prepared: Prepared,
    pub(crate) offers: Vec<Offer>,
}

impl<'a> Buyer<'a> {
    pub(crate) async fn new(provider: &'a dyn MachineProvider, pool: GpuPool, cluster: &str) -> Self {
        let prepared = provider.prepare(&pool, cluster).await.unwrap();
        let offers = provider.offers(&pool, &prepared).await.unwrap();
        Buyer { provider, pool, cluster: cluster.to_owned(), prepared, offers }
    }

    /// A launch of the cheapest `count` offers of a market, for the GpuNode `node`.
    pub(crate) fn call(&self, node: &str, market: Market, count: usize) -> LaunchCall {
        let offers: Vec<_> = self.offers.iter().filter(|o| o.market == market).take(count).cloned().collect();
        let max_price = offers.iter().map(|o| o.price).max().unwrap_or(Price::ZERO).plus_percent(10);
        let rendering =
            Rendering { pool: &self.pool, prepared: &self.prepared, cluster: &self.cluster, node, market, offers: &offers, max_price };
        let request = self.provider.render(&rendering).unwrap();
        assert_eq!(request.to_string(), self.provider.render(&rendering).unwrap().to_string(), "rendering is pure");
        LaunchCall { request, cluster: self.cluster.clone(), node: node.to_owned(), node_uid: format!("uid-of-{node}"), ordinal: 1 }
    }

    pub(crate) async fn buy(&self, node: &str, count: usize) -> Result<Launched, ProviderError> {
        self.provider.launch(&self.call(node, Market::Spot, count)).await
    }

    /// Waits until the cloud shows an instance in this state.
    pub(crate) async fn until(&self, id: &str, state: InstanceState) {
        let start = Instant::now();
        loop {
            let listing = self.provider.list(&self.cluster).await.unwrap();
            assert!(listing.complete);
            let found = listing.instances.iter().find(|i| i.id == id).map(|i| i.state);
            if found == Some(state) || (found.is_none() && state == InstanceState::Terminated) {
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{id} is {found:?}, not {state:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// The instances that still cost money.
    pub(crate) async fn alive(&self) -> usize {
        let listing = self.provider.list(&self.cluster).await.unwrap();
        listing.instances.iter().filter(|i| i.state <= InstanceState::Running).count()
    }
}

/// Preparing again finds what is there.
pub(crate) async fn preparing_repeats(buyer: &Buyer<'_>) {
    let again = buyer.provider.prepare(&buyer.pool, &buyer.cluster).await.unwrap();
    assert_eq!(again, buyer.prepared);
}

/// Offers come cheapest first, in the pool's markets only, each once.
pub(crate) async fn offers_are_in_order(buyer: &Buyer<'_>) {
    assert!(!buyer.offers.is_empty());
    assert!(buyer.offers.windows(2).all(|pair| pair[0] < pair[1]));
    assert!(
        buyer
            .offers
            .iter()
            .all(|o| buyer.pool.spec.markets().contains(&o.market) && o.price > Price::ZERO && o.gpus > 0 && o.gpu_memory_mib > 0)
    );
}

/// A launch is bought once, however often it is sent; it shows in its own cluster's list with what says whose it is; and
/// it ends.
pub(crate) async fn one_intent_is_one_instance(buyer: &Buyer<'_>) {
    let call = buyer.call("gn-one", Market::Spot, 3);
    let first = buyer.provider.launch(&call).await.unwrap();
    let again = buyer.provider.launch(&call).await.unwrap();
    assert_eq!(first.id, again.id);
    assert!(buyer.offers.iter().any(|o| o.instance_type == first.instance_type && o.zone == first.zone && o.market == first.market));
    buyer.until(&first.id, InstanceState::Running).await;

    let listing = buyer.provider.list(&buyer.cluster).await.unwrap();
    let [instance] = listing.instances.as_slice() else { panic!("one instance, not {listing:?}") };
    let tag = |key: &str| instance.tags.get(key).map(String::as_str);
    assert_eq!(tag("gpujob.dev/cluster"), Some(buyer.cluster.as_str()));
    assert_eq!(tag("gpujob.dev/node"), Some("gn-one"));
    assert_eq!(tag("gpujob.dev/node-uid"), Some("uid-of-gn-one"));
    assert_eq!(tag("gpujob.dev/launch"), Some("1"));
    assert_eq!(tag("gpujob.dev/pool"), Some(buyer.pool.name_any().as_str()));
    assert_eq!(instance.market, Market::Spot);
    assert!(instance.private_ip.is_some() && instance.private_dns_name.is_some() && instance.launch_time.is_some());
    assert!(instance.provider_id.ends_with(&instance.id));
    assert!(buyer.provider.list("another-cluster").await.unwrap().instances.is_empty());

    assert_eq!(buyer.provider.terminate(&first.id).await.unwrap(), Terminated::InProgress);
    buyer.until(&first.id, InstanceState::Terminated).await;
    buyer.provider.terminate(&first.id).await.unwrap();
    // The token still belongs to the dead one: a replay must not buy another.
    let replayed = buyer.provider.launch(&call).await.unwrap();
    assert_eq!(replayed.id, first.id);
    assert!(replayed.instance.is_none_or(|i| i.state >= InstanceState::Terminating));
    let next = LaunchCall { ordinal: 2, ..call };
    let second = buyer.provider.launch(&next).await.unwrap();
    assert_ne!(second.id, first.id, "another ordinal is another intent");
    buyer.provider.terminate(&second.id).await.unwrap();
}

/// The same token with another request is never a second instance.
pub(crate) async fn another_request_is_a_mismatch(buyer: &Buyer<'_>) {
    let launched = buyer.buy("gn-two", 1).await.unwrap();
    let error = buyer.buy("gn-two", 2).await.unwrap_err();
    assert_eq!(error.class, ErrorClass::Mismatch, "{error}");
    assert!(error.class.may_have_happened());
    assert_eq!(buyer.alive().await, 1);
    buyer.provider.terminate(&launched.id).await.unwrap();
}

/// An id that nobody knows is gone.
pub(crate) async fn the_unknown_is_gone(buyer: &Buyer<'_>, id: &str) {
    assert_eq!(buyer.provider.terminate(id).await.unwrap(), Terminated::Gone);
}
