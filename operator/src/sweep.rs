//! Ends instances that nobody owns. The cloud is listed before the cluster is read, and the cluster is read from the API
//! server, never from a cache: a GpuNode exists before its instance does, so what the second look does not find was not there.

use crate::cloud::is_alive;
use crate::context::{Ctx, within};
use gpujob_crds::{GpuNode, names};
use gpujob_provider_core::{Instance, Listing, MachineProvider, Scope};
use kube::api::{Api, ListParams};
use std::sync::Arc;

/// Whether one of `nodes` owns this instance: its UID is in the tag, and it records this id, or has none yet and its
/// ordinal is the tag's. Names do not count: they are used again.
#[must_use]
pub fn is_owned(instance: &Instance, nodes: &[Arc<GpuNode>]) -> bool {
    let tag = |name: &str| instance.tags.get(name).map(String::as_str);
    nodes.iter().filter(|n| n.metadata.uid.as_deref() == tag(names::NODE_UID_TAG)).any(|node| {
        match node.status.as_ref().and_then(|s| s.instance.as_ref()) {
            Some(recorded) => recorded.id == instance.id,
            None => tag(names::LAUNCH_TAG) == Some(node.spec.launch.ordinal.to_string().as_str()),
        }
    })
}

/// Ends what `listing` shows alive and nobody owns. An incomplete listing serves as well: what is in it is there.
pub async fn sweep(ctx: &Ctx, scope: &Scope, provider: &Arc<dyn MachineProvider>, listing: &Listing) {
    if !ctx.leader.is_leader() {
        return;
    }
    let cached = ctx.stores.nodes.state();
    let ours = |i: &&Instance| i.tags.get(names::CLUSTER_TAG) == Some(&ctx.settings.cluster);
    let suspects: Vec<&Instance> = listing.instances.iter().filter(ours).filter(|i| is_alive(i) && !is_owned(i, &cached)).collect();
    if suspects.is_empty() {
        return;
    }
    let live = match within(Api::<GpuNode>::all(ctx.client.clone()).list(&ListParams::default())).await {
        Ok(list) => list.items.into_iter().map(Arc::new).collect::<Vec<_>>(),
        Err(error) => return tracing::warn!(%error, "sweep: reading GpuNodes"),
    };
    for instance in suspects.into_iter().filter(|i| !is_owned(i, &live)) {
        tracing::warn!(id = instance.id, tags = ?instance.tags, "ending an instance that no GpuNode owns");
        ctx.metrics.orphan_found(&scope.provider);
        let call = ctx.metrics.provider_call(&scope.provider, "terminate");
        if let Err(error) = call.done(provider.terminate(&instance.id).await) {
            tracing::warn!(id = instance.id, %error, "sweep: ending it failed, the next listing tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::{
        Market, Price,
        node::{GpuNodeStatus, InstanceStatus},
    };
    use gpujob_provider_core::InstanceState;

    fn instance(id: &str, uid: &str, ordinal: &str) -> Instance {
        let tags = [(names::NODE_UID_TAG, uid), (names::LAUNCH_TAG, ordinal)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        Instance {
            id: id.into(),
            instance_type: "g6.xlarge".into(),
            zone: "a".into(),
            market: Market::Spot,
            state: InstanceState::Running,
            state_reason: None,
            tags,
            private_dns_name: None,
            private_ip: None,
            provider_id: String::new(),
            launch_time: None,
        }
    }

    fn node(uid: &str, id: Option<&str>) -> Arc<GpuNode> {
        let mut node = GpuNode::new("n", Default::default());
        node.metadata.uid = Some(uid.into());
        node.spec.launch.ordinal = 1;
        let recorded = id.map(|id| InstanceStatus {
            id: id.into(),
            instance_type: String::new(),
            zone: String::new(),
            market: Market::Spot,
            price_per_hour: Price::ZERO,
            gpus: 1,
            private_dns_name: None,
            private_ip: None,
            provider_id: None,
            launch_time: None,
        });
        node.status = Some(GpuNodeStatus { instance: recorded, ..Default::default() });
        Arc::new(node)
    }

    #[test]
    fn ownership_is_by_uid_and_recorded_id() {
        assert!(is_owned(&instance("i-1", "u", "1"), &[node("u", Some("i-1"))]));
        assert!(!is_owned(&instance("i-2", "u", "1"), &[node("u", Some("i-1"))]), "a second instance of one intent");
        assert!(is_owned(&instance("i-1", "u", "1"), &[node("u", None)]), "launched, not recorded yet");
        assert!(!is_owned(&instance("i-1", "u", "2"), &[node("u", None)]), "of another ordinal");
        assert!(!is_owned(&instance("i-1", "u", "1"), &[node("other", None)]), "a GpuNode of the same name, made again");
    }
}
