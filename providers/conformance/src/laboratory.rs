//! How a case sets its scene.

use async_trait::async_trait;
use gpujob_crds::{GpuPool, Market, Price};
use gpujob_provider_core::{MachineProvider, Offer};
use std::sync::Arc;
use std::time::Duration;

/// The calls that can be troubled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Launches.
    Launch,
    /// Lists of instances.
    List,
}

/// What calls meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Refused: too many of them.
    Throttled,
    /// Refused: the credentials may not.
    Unauthorized,
    /// Not done, and the answer says nothing.
    LostBefore,
    /// Done, and the answer says nothing.
    LostAfter,
}

/// A provider over a cloud whose scene can be set. What is set holds until [`Laboratory::calm`].
#[async_trait]
pub trait Laboratory: Send + Sync {
    /// The provider, as a process has it that has just started.
    async fn provider(&self) -> Arc<dyn MachineProvider>;

    /// A pool, as read from a cluster: both markets, at least three offers in two zones in each, spot bought cheapest first
    /// (`lowest-price`), so that what is refused on the way is told.
    fn pool(&self) -> GpuPool;

    /// How many instances there can be at once of an offer; without one, of everything.
    async fn capacity(&self, offer: Option<&Offer>, instances: u32);

    /// How many vCPUs the account may run in a market.
    async fn quota(&self, market: Market, vcpus: u32);

    /// What an offer costs.
    async fn price(&self, offer: &Offer, price: Price);

    /// A zone's subnet has no address left.
    async fn no_addresses(&self, zone: &str);

    /// How long lists do not show new instances.
    async fn lag(&self, lag: Duration);

    /// Has all calls of an operation go wrong.
    async fn trouble(&self, operation: Operation, trouble: Trouble);

    /// Nothing of the above holds any more. What runs, runs on.
    async fn calm(&self);

    /// The instances with this cluster's tag that boot or run, in truth: whatever lists show.
    async fn alive(&self, cluster: &str) -> Vec<String>;

    /// A provider whose lists of this cluster show one instance and break off.
    async fn breaks_off(&self, cluster: &str) -> Arc<dyn MachineProvider>;

    /// Takes a spot instance back, after `notice`.
    async fn interrupt(&self, id: &str, notice: Duration);

    /// Says that a spot instance may be taken.
    async fn rebalance(&self, id: &str);

    /// Where notices are queued.
    fn queue(&self) -> String;

    /// An instance writes this to its console.
    async fn say(&self, id: &str, text: &str);

    /// A disk of this cluster that no instance has, made for the GpuNode of this UID: its id.
    async fn disk(&self, cluster: &str, node_uid: &str) -> String;
}
