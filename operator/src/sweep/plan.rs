//! What nobody owns. Pure.

use crate::cloud::is_alive;
use gpujob_crds::{GpuNode, GpuPool, names};
use gpujob_provider_core::{Instance, Leftover, LeftoverKind};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A template of a pool that exists is left alone for so long: it may have been made a moment before its pool's status names it.
const YOUNG: SignedDuration = SignedDuration::from_mins(30);
/// The most prefetch variants of one pool.
pub(super) const MOST_VARIANTS: usize = 50;

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

/// The instances of this cluster that live and that none of `nodes` owns. A foreign cluster's are never among them.
pub(super) fn unowned<'a>(instances: &'a [Instance], nodes: &[Arc<GpuNode>], cluster: &str) -> Vec<&'a Instance> {
    let by_uid: BTreeMap<&str, &Arc<GpuNode>> = nodes.iter().filter_map(|n| n.metadata.uid.as_deref().map(|uid| (uid, n))).collect();
    let owned = |i: &Instance| {
        let owner = i.tags.get(names::NODE_UID_TAG).and_then(|uid| by_uid.get(uid.as_str()));
        owner.is_some_and(|node| is_owned(i, std::slice::from_ref(node)))
    };
    let ours = |i: &&Instance| i.tags.get(names::CLUSTER_TAG).map(String::as_str) == Some(cluster);
    instances.iter().filter(ours).filter(|i| is_alive(i) && !owned(i)).collect()
}

/// What the API server says, read after the cloud was listed, and what this process uses.
#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) nodes: Vec<Arc<GpuNode>>,
    pub(super) pools: Vec<Arc<GpuPool>>,
    /// What launches of this process may name soon: each pool's own templates and the variants in use, with their last use.
    pub(super) used: Vec<(serde_json::Value, Timestamp)>,
}

/// The leftovers that may go.
pub(super) fn removable<'a>(leftovers: &'a [Leftover], world: &World, now: Timestamp) -> Vec<&'a Leftover> {
    let mut gone: Vec<&Leftover> = vec![];
    let mut variants: BTreeMap<&str, Vec<(Option<Timestamp>, &Leftover)>> = BTreeMap::new();
    for one in leftovers {
        match one.kind {
            LeftoverKind::Volume => gone.extend(Some(one).filter(|v| is_lost_volume(v, world))),
            LeftoverKind::Template => {
                let Some(pool_uid) = one.pool_uid.as_deref() else { continue };
                if is_awaited(one, world) {
                    continue;
                }
                let Some(pool) = world.pools.iter().find(|p| p.metadata.uid.as_deref() == Some(pool_uid)) else {
                    gone.push(one);
                    continue;
                };
                let young = one.created.is_none_or(|at| now.duration_since(at) < YOUNG);
                let base = pool.status.as_ref().and_then(|s| s.prepared.as_ref()).is_none_or(|p| names_it(p, one));
                if !young && !base {
                    let used = world.used.iter().filter(|(value, _)| names_it(value, one)).map(|(_, at)| *at).max();
                    variants.entry(pool_uid).or_default().push((used, one));
                }
            }
        }
    }
    for (_, mut of_pool) in variants {
        // Latest use first; what nobody here uses comes last, and goes.
        of_pool.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.id.cmp(&b.1.id)));
        let kept = of_pool.iter().take(MOST_VARIANTS).filter(|(used, _)| used.is_some()).count();
        gone.extend(of_pool.into_iter().skip(kept).map(|(_, one)| one));
    }
    gone
}

/// A disk that no instance uses, whose GpuNode is no more. Without a GpuNode's UID it is not known to be ours to remove.
fn is_lost_volume(volume: &Leftover, world: &World) -> bool {
    volume.node_uid.as_deref().is_some_and(|uid| !world.nodes.iter().any(|n| n.metadata.uid.as_deref() == Some(uid)))
}

/// Whether a launch that may still be sent, or sent again, names this template.
fn is_awaited(template: &Leftover, world: &World) -> bool {
    let unresolved = |n: &&Arc<GpuNode>| n.status.as_ref().is_none_or(|s| s.instance.is_none());
    world.nodes.iter().filter(unresolved).any(|n| names_it(&n.spec.launch.request, template))
}

/// Whether a provider's own JSON names this thing, by id or by name, anywhere.
fn names_it(value: &serde_json::Value, one: &Leftover) -> bool {
    match value {
        serde_json::Value::String(text) => *text == one.id || (!one.name.is_empty() && *text == one.name),
        serde_json::Value::Array(all) => all.iter().any(|v| names_it(v, one)),
        serde_json::Value::Object(all) => all.values().any(|v| names_it(v, one)),
        _ => false,
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
