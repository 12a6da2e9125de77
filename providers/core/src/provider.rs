//! The contract of a provider of machines. One conformance suite runs against every implementation and every fake.

use crate::{LaunchCall, Launched, Leftover, Listing, Notice, NoticeSource, Offer, ProviderError, Rates, Rendering, Terminated};
use async_trait::async_trait;
use gpujob_crds::GpuPool;
use std::sync::Arc;

/// Where a provider looks: what one listing covers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope {
    /// The provider's name, such as `aws`.
    pub provider: String,
    /// The region.
    pub region: String,
}

/// What a provider made of a pool's settings: ids in place of tags and names. Kept in the pool's status, so that a
/// restarted operator can launch at once; opaque to everyone but the provider.
#[derive(Clone, Debug, PartialEq)]
pub struct Prepared(pub serde_json::Value);

impl Prepared {
    /// The machine image that launches name, where the provider says it under `image`. For metrics and for people.
    #[must_use]
    pub fn image(&self) -> Option<&str> {
        self.0.get("image").and_then(serde_json::Value::as_str)
    }
}

/// Sells machines that join the cluster as Nodes.
///
/// Every method may be called again after a crash at any point, and every method has its own time limit inside.
#[async_trait]
pub trait MachineProvider: Send + Sync {
    /// How often each kind of call may be made in this scope. The caller keeps to it, and slows down when told `Throttled`.
    fn rates(&self) -> Rates {
        Rates::default()
    }

    /// Checks the pool's settings and makes what launches need (a launch template). Repeatable: what exists is found again.
    ///
    /// # Errors
    /// `Invalid` and `Unauthorized` name the field or permission that a person must change.
    async fn prepare(&self, pool: &GpuPool, cluster: &str) -> Result<Prepared, ProviderError>;

    /// Removes what [`MachineProvider::prepare`] made for a pool that is gone.
    ///
    /// # Errors
    /// As the cloud answers; the caller tries again.
    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError>;

    /// Everything that the pool may buy now, with prices, cheapest first.
    ///
    /// # Errors
    /// As the cloud answers; the caller keeps what it knew.
    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError>;

    /// The launch request as JSON. Pure: the same rendering gives the same bytes.
    ///
    /// # Errors
    /// `Invalid` when `prepared` is not this provider's.
    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError>;

    /// Waits until a launch may be sent: whoever paces calls has them wait here, so that the caller can look again whether it is still
    /// wanted. To be called before every [`MachineProvider::launch`]. Who stops waiting (drops the future) delays nobody behind it.
    async fn turn(&self, _node: &str) {}

    /// Sends a recorded request. Replays answer with the original instance.
    ///
    /// # Errors
    /// See [`crate::ErrorClass`]; on `may_have_happened` the caller looks before anything else.
    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError>;

    /// All instances of this cluster in this scope, by tag.
    ///
    /// # Errors
    /// When not even a part could be read.
    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError>;

    /// Ends an instance. Repeatable.
    ///
    /// # Errors
    /// As the cloud answers; an unknown id is `Gone`, not an error.
    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError>;

    /// Warnings that instances will be taken back: of this region, other clusters' too, which the caller passes over.
    ///
    /// # Errors
    /// As the cloud answers; the caller tries again.
    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError>;

    /// Has a queue forget notices that were recorded, or that concern nobody here. Repeatable; nothing to do for polled ones.
    ///
    /// # Errors
    /// As the cloud answers; the notices come again.
    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError>;

    /// The last lines of what an instance wrote to its console, at most 2 KiB, where the provider keeps that.
    ///
    /// # Errors
    /// As the cloud answers; the caller does without.
    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError>;

    /// What has to be named in a launch for the instance to pull `image` while it boots: another [`Prepared`], made on first
    /// use. `None`: not offered, not allowed, or not visible to launches yet; the caller uses the pool's own and asks again later.
    ///
    /// # Errors
    /// As the cloud answers; the caller does without.
    async fn prefetch(&self, pool: &GpuPool, prepared: &Prepared, image: &str, cluster: &str) -> Result<Option<Prepared>, ProviderError>;

    /// Disks without an instance and templates, of this cluster, by tag. In use or not: the caller decides.
    ///
    /// # Errors
    /// As the cloud answers; the caller tries again later.
    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError>;

    /// Removes one of [`MachineProvider::leftovers`]. Repeatable: gone is gone.
    ///
    /// # Errors
    /// As the cloud answers; the caller tries again later.
    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError>;
}

/// Finds the provider of a scope. The operator's `main` makes one that knows the concrete providers.
#[async_trait]
pub trait Clouds: Send + Sync {
    /// The provider that serves this scope, made on first use and kept.
    ///
    /// # Errors
    /// `Invalid` when no such provider is built in.
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError>;

    /// The same, without waiting: only if it was made before.
    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>>;
}
