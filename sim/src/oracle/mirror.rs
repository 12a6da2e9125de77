//! What the API server holds, as the record of its writes tells it: what oracles compare each write with.

use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use k8s_openapi::api::core::v1::Pod;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Resource, namespace, name.
pub(super) type Key = (String, String, String);

/// One write, with what was there before it.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The process, or the field manager of whoever it was.
    pub(super) who: String,
    /// Whether one of our processes made it.
    pub(super) ours: bool,
    pub(super) resource: String,
    pub(super) name: String,
    /// `None`: it was made.
    pub(super) old: Option<Arc<Value>>,
    /// `None`: it is gone.
    pub(super) new: Option<Arc<Value>>,
}

impl Change {
    /// Before and after, as this type.
    pub(super) fn typed<K: DeserializeOwned>(&self) -> (Option<K>, Option<K>) {
        (typed(&self.old), typed(&self.new))
    }
}

fn typed<K: DeserializeOwned>(value: &Option<Arc<Value>>) -> Option<K> {
    value.as_ref().and_then(|v| K::deserialize(v.as_ref()).ok())
}

/// Every object that oracles look at, as of the last write.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    objects: BTreeMap<Key, Arc<Value>>,
    pub(super) jobs: BTreeMap<Key, Arc<GpuJob>>,
    pub(super) nodes: BTreeMap<String, Arc<GpuNode>>,
    pub(super) pools: BTreeMap<String, Arc<GpuPool>>,
    pub(super) pods: BTreeMap<Key, Arc<Pod>>,
    /// GpuNodes that somebody else than our processes has deleted.
    pub(super) deleted_by_others: BTreeSet<String>,
}

impl Mirror {
    /// Takes a write over and returns what was there before.
    pub(super) fn apply(&mut self, key: &Key, new: Option<&Arc<Value>>) -> Option<Arc<Value>> {
        let value = || new.map(|v| v.as_ref());
        match key.0.as_str() {
            "gpujobs" => put(&mut self.jobs, key.clone(), value()),
            "gpunodes" => put(&mut self.nodes, key.2.clone(), value()),
            "gpupools" => put(&mut self.pools, key.2.clone(), value()),
            "pods" => put(&mut self.pods, key.clone(), value()),
            _ => {}
        }
        match new {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(key),
        }
    }

    /// Whether the Node of this name reports that it is Ready.
    pub(super) fn is_ready(&self, node: &str) -> bool {
        let Some(node) = self.objects.get(&("nodes".into(), String::new(), node.into())) else { return false };
        node["status"]["conditions"].as_array().into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    }

    /// All that is left, by kind.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Key, &Value)> {
        self.objects.iter().map(|(k, v)| (k, v.as_ref()))
    }

    /// The holder of the operator's Lease, if anybody holds it.
    pub(super) fn leader(&self) -> Option<String> {
        let (_, lease) = self.objects.iter().find(|(k, _)| k.0 == "leases" && k.2 == "gpujob-operator")?;
        lease["spec"]["holderIdentity"].as_str().filter(|h| !h.is_empty()).map(str::to_owned)
    }
}

fn put<Id: Ord, K: DeserializeOwned>(all: &mut BTreeMap<Id, Arc<K>>, id: Id, value: Option<&Value>) {
    match value.and_then(|v| K::deserialize(v).ok()) {
        Some(object) => all.insert(id, Arc::new(object)),
        None => all.remove(&id),
    };
}
