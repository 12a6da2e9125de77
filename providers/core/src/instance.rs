//! What the cloud says is there.

use crate::ErrorClass;
use gpujob_crds::Market;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Where an instance is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum InstanceState {
    /// Bought, not booted.
    Pending,
    /// Booted.
    Running,
    /// On its way out.
    Terminating,
    /// Gone: it costs nothing and will never come back.
    Terminated,
}

/// One instance as the cloud describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The provider's id.
    pub id: String,
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The market it was bought in.
    pub market: Market,
    /// Where it is in its life.
    pub state: InstanceState,
    /// Why it is on its way out, in the provider's words.
    pub state_reason: Option<String>,
    /// What the provider ended it for by itself, right after it was made or later: `Capacity` where another offer may do, `Invalid` where
    /// a person has to change something. `None`: it lives, was asked to end, ended itself, or was taken back.
    pub failed: Option<ErrorClass>,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The name that its kubelet joins with.
    pub private_dns_name: Option<String>,
    /// Its address.
    pub private_ip: Option<String>,
    /// What its Node's `spec.providerID` must be.
    pub provider_id: String,
    /// When it was launched.
    pub launch_time: Option<Timestamp>,
}

/// Everything of one cluster that the cloud lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// The instances, dead ones included as long as the cloud shows them.
    pub instances: Vec<Instance>,
    /// Whether the list was read to its end. An incomplete one may add facts and never proves absence.
    pub complete: bool,
}

/// What came of a call to end an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Terminated {
    /// It will end.
    InProgress,
    /// The cloud knows of no such instance (any more).
    Gone,
}
