//! One launch: rendered once, recorded, sent, and replayed byte for byte until its answer is known.

use crate::{Instance, Offer, Prepared, Refusal};
use gpujob_crds::{GpuPool, Market, names};

/// What a provider needs to render a launch request. Everything that is not known before the GpuNode exists (its UID, the
/// token) is added when the request is sent.
#[derive(Clone, Debug)]
pub struct Rendering<'a> {
    /// The pool that pays.
    pub pool: &'a GpuPool,
    /// What the provider made of the pool's settings.
    pub prepared: &'a Prepared,
    /// The cluster's identity: the UID of namespace `kube-system`.
    pub cluster: &'a str,
    /// The GpuNode's name.
    pub node: &'a str,
    /// The market of all offers.
    pub market: Market,
    /// The acceptable offers, cheapest first, each at most at its `price` cap.
    pub offers: &'a [Offer],
    /// The most that may be paid per hour: goes into the request as its price limit.
    pub max_price: gpujob_crds::Price,
}

/// One send of a recorded request.
#[derive(Clone, Debug)]
pub struct LaunchCall {
    /// The request, as the GpuNode records it.
    pub request: serde_json::Value,
    /// The cluster's identity.
    pub cluster: String,
    /// The GpuNode's name.
    pub node: String,
    /// The GpuNode's UID.
    pub node_uid: String,
    /// The launch ordinal.
    pub ordinal: i32,
}

impl LaunchCall {
    /// The token that makes the cloud answer a replay with the original instance.
    #[must_use]
    pub fn token(&self) -> String {
        launch_token(&self.cluster, &self.node_uid, self.ordinal)
    }
}

/// What was bought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Launched {
    /// The instance, as far as the answer describes it; the listing tells the rest.
    pub id: String,
    /// Its type.
    pub instance_type: String,
    /// Its zone.
    pub zone: String,
    /// Its market.
    pub market: Market,
    /// More, when the answer or a look at the instance gave it. A replayed token may answer with a dead one: look here.
    pub instance: Option<Instance>,
    /// Offers that were refused on the way: they feed the capacity memory.
    pub refusals: Vec<Refusal>,
}

/// The token of a launch: at most 64 ASCII characters, the same for every replay, another for every other intent.
#[must_use]
pub fn launch_token(cluster: &str, node_uid: &str, ordinal: i32) -> String {
    names::digest(&[cluster, node_uid, &ordinal.to_string()], 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_is_stable_and_fits() {
        let token = launch_token("cluster", "uid", 1);
        assert_eq!(token, launch_token("cluster", "uid", 1));
        assert!(token.len() <= 64 && token.is_ascii());
        assert_ne!(token, launch_token("cluster", "uid", 2));
        assert_ne!(token, launch_token("other", "uid", 1));
    }
}
