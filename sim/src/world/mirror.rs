//! What the world's own watches show: pods, Nodes and namespaces, with the change that made it so.

use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// One object as it is now, or was last.
#[derive(Clone, Debug)]
pub(super) enum Change {
    Pod(Arc<Pod>, bool),
    Node(Arc<Node>, bool),
    Namespace(Arc<Namespace>, bool),
}

/// Everything that there is.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub(super) pods: BTreeMap<(String, String), Arc<Pod>>,
    pub(super) nodes: BTreeMap<String, Arc<Node>>,
}

impl Mirror {
    pub(super) fn apply(&mut self, change: &Change) {
        match change {
            Change::Pod(pod, gone) => {
                let key = (pod.namespace().unwrap_or_default(), pod.name_any());
                match gone {
                    true => drop(self.pods.remove(&key)),
                    false => drop(self.pods.insert(key, pod.clone())),
                }
            }
            Change::Node(node, gone) => match gone {
                true => drop(self.nodes.remove(&node.name_any())),
                false => drop(self.nodes.insert(node.name_any(), node.clone())),
            },
            Change::Namespace(..) => {}
        }
    }
}

/// Watches all objects of a kind, for ever. What is missing after a new list is told as gone, and an object that was made
/// again under its old name as another one.
pub(super) async fn watch<K>(api: Api<K>, changes: UnboundedSender<Change>, tell: fn(Arc<K>, bool) -> Change)
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut known: BTreeMap<(Option<String>, Option<String>), Arc<K>> = BTreeMap::new();
    let mut listed: BTreeMap<(Option<String>, Option<String>), Arc<K>> = BTreeMap::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff());
    while let Some(event) = events.next().await {
        let key = |object: &K| (object.meta().namespace.clone(), object.meta().name.clone());
        let say = |object: Arc<K>, old: Option<Arc<K>>| {
            if let Some(old) = old.filter(|old| old.meta().uid != object.meta().uid) {
                let _ = changes.send(tell(old, true));
            }
            let _ = changes.send(tell(object, false));
        };
        match event {
            Ok(watcher::Event::Init) => listed.clear(),
            Ok(watcher::Event::InitApply(object)) => {
                let object = Arc::new(object);
                listed.insert(key(&object), object.clone());
                say(object.clone(), known.insert(key(&object), object));
            }
            Ok(watcher::Event::InitDone) => {
                let gone: Vec<_> = known.keys().filter(|k| !listed.contains_key(k)).cloned().collect();
                for key in gone {
                    if let Some(object) = known.remove(&key) {
                        let _ = changes.send(tell(object, true));
                    }
                }
            }
            Ok(watcher::Event::Apply(object)) => {
                let object = Arc::new(object);
                say(object.clone(), known.insert(key(&object), object));
            }
            Ok(watcher::Event::Delete(object)) => {
                known.remove(&key(&object));
                let _ = changes.send(tell(Arc::new(object), true));
            }
            Err(error) => tracing::debug!(%error, "world: watch"),
        }
    }
}
