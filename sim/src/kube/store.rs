//! Every object and every change to one, under one counter of revisions.

use super::resource::{self, Resource};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Namespace (empty for cluster-scoped objects) and name.
pub(crate) type Key = (String, String);

/// One version of an object. Never changed; shared by the store, the history and the log.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) value: Arc<Value>,
    text: OnceLock<Bytes>,
}

impl Stored {
    fn new(value: Value) -> Arc<Self> {
        Arc::new(Stored { value: Arc::new(value), text: OnceLock::new() })
    }

    /// As JSON, written once however many watches send it.
    pub(crate) fn text(&self) -> Bytes {
        self.text.get_or_init(|| Bytes::from(serde_json::to_vec(&*self.value).expect("a value is JSON"))).clone()
    }

    pub(crate) fn meta(&self, field: &str) -> &str {
        self.value["metadata"][field].as_str().unwrap_or_default()
    }

    pub(crate) fn deleting(&self) -> bool {
        !self.value["metadata"]["deletionTimestamp"].is_null()
    }
}

/// What a revision did.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    pub(crate) resource: &'static Resource,
    pub(crate) key: Key,
    /// `None`: it was made.
    pub(crate) before: Option<Arc<Stored>>,
    /// As it was last, under this revision, when it was deleted.
    pub(crate) after: Arc<Stored>,
    pub(crate) deleted: bool,
}

/// A mutation that went through.
#[derive(Clone, Debug)]
pub struct Write {
    /// From 1, without gaps.
    pub number: u64,
    /// By the clock of the API server.
    pub at: Timestamp,
    /// As RBAC says it: `create`, `update`, `patch`, `apply`, `delete`.
    pub verb: &'static str,
    /// The plural, such as `gpujobs`.
    pub resource: &'static str,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Of the object.
    pub name: String,
    /// Such as `status`; mostly empty.
    pub subresource: String,
    /// Who wrote: the field manager.
    pub manager: String,
    /// Whether the object is gone.
    pub deleted: bool,
    /// The revision that it made.
    pub revision: u64,
    object: Arc<Stored>,
}

impl Write {
    /// The object after the write; when it is gone, as it was last.
    #[must_use]
    pub fn object(&self) -> &Arc<Value> {
        &self.object.value
    }
}

/// Who writes, how and when.
#[derive(Clone, Debug)]
pub(crate) struct Actor {
    pub(crate) verb: &'static str,
    pub(crate) subresource: String,
    pub(crate) manager: String,
    pub(crate) now: Timestamp,
    /// Everything is checked and nothing is kept.
    pub(crate) dry: bool,
}

impl Actor {
    /// One of the cluster's own controllers.
    pub(crate) fn controller(manager: &str, verb: &'static str, now: Timestamp) -> Self {
        Actor { verb, subresource: String::new(), manager: manager.to_owned(), now, dry: false }
    }
}

/// Everything that the server knows.
#[derive(Debug)]
pub(crate) struct State {
    objects: Vec<BTreeMap<Key, Arc<Stored>>>,
    pub(crate) changes: Vec<Change>,
    pub(crate) revision: u64,
    /// Changes at or before this are gone.
    pub(crate) compacted: u64,
    pub(crate) writes: Vec<Write>,
    /// What containers have said: (namespace, pod, container).
    pub(crate) logs: BTreeMap<(String, String, String), String>,
    /// How many changes the garbage collector has nothing to do about.
    pub(crate) collected: usize,
    named: u64,
}

/// Nobody should think that revisions start at 1.
const FIRST: u64 = 1_000;

impl State {
    pub(crate) fn new() -> Self {
        State {
            objects: resource::all().iter().map(|_| BTreeMap::new()).collect(),
            changes: vec![],
            revision: FIRST,
            compacted: FIRST,
            writes: vec![],
            logs: BTreeMap::new(),
            collected: 0,
            named: 0,
        }
    }

    pub(crate) fn of(&self, resource: &Resource) -> &BTreeMap<Key, Arc<Stored>> {
        &self.objects[resource.id]
    }

    pub(crate) fn get(&self, resource: &Resource, namespace: &str, name: &str) -> Option<&Arc<Stored>> {
        self.objects[resource.id].get(&(namespace.to_owned(), name.to_owned()))
    }

    /// The objects of a kind as they were at a revision. The caller has seen that it is not before [`State::compacted`].
    pub(crate) fn at(&self, resource: &Resource, revision: u64) -> BTreeMap<Key, Arc<Stored>> {
        let mut objects = self.objects[resource.id].clone();
        for change in self.changes.iter().rev().take_while(|c| c.revision > revision) {
            if change.resource.id == resource.id {
                match &change.before {
                    Some(before) => drop(objects.insert(change.key.clone(), before.clone())),
                    None => drop(objects.remove(&change.key)),
                }
            }
        }
        objects
    }

    /// Changes after a revision.
    pub(crate) fn since(&self, revision: u64) -> usize {
        self.changes.partition_point(|c| c.revision <= revision)
    }

    /// Forgets what was before: lists and watches from there are answered 410.
    pub(crate) fn compact(&mut self, revision: u64) {
        self.compacted = self.compacted.max(revision.min(self.revision));
    }

    /// Keeps an object: its revision is set here and nowhere else.
    pub(crate) fn put(&mut self, actor: &Actor, resource: &'static Resource, key: Key, mut value: Value) -> Arc<Stored> {
        let revision = self.revision + u64::from(!actor.dry);
        value["metadata"]["resourceVersion"] = Value::from(revision.to_string());
        let after = Stored::new(value);
        if !actor.dry {
            let before = self.objects[resource.id].insert(key.clone(), after.clone());
            self.record(actor, Change { revision, resource, key, before, after: after.clone(), deleted: false });
        }
        after
    }

    /// Takes an object away, and gives back its last state.
    pub(crate) fn remove(&mut self, actor: &Actor, resource: &'static Resource, key: Key, mut last: Value) -> Arc<Stored> {
        let revision = self.revision + u64::from(!actor.dry);
        last["metadata"]["resourceVersion"] = Value::from(revision.to_string());
        let after = Stored::new(last);
        if !actor.dry {
            let before = self.objects[resource.id].remove(&key);
            self.record(actor, Change { revision, resource, key, before, after: after.clone(), deleted: true });
        }
        after
    }

    fn record(&mut self, actor: &Actor, change: Change) {
        self.revision = change.revision;
        self.writes.push(Write {
            number: self.writes.len() as u64 + 1,
            at: actor.now,
            verb: actor.verb,
            resource: &change.resource.plural,
            namespace: change.key.0.clone(),
            name: change.key.1.clone(),
            subresource: actor.subresource.clone(),
            manager: actor.manager.clone(),
            deleted: change.deleted,
            revision: change.revision,
            object: change.after.clone(),
        });
        self.changes.push(change);
    }

    /// A UID that is new, and the same in every run that does the same.
    pub(crate) fn uid(&mut self, resource: &Resource, key: &Key) -> String {
        let hash = self.hash(&format!("{}/{}/{}", resource.plural, key.0, key.1));
        let hex: String = hash.iter().take(16).map(|b| format!("{b:02x}")).collect();
        format!("{}-{}-4{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
    }

    /// Five letters after a `generateName`, of the alphabet that leaves bad words out.
    pub(crate) fn suffix(&mut self, prefix: &str) -> String {
        const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
        let hash = self.hash(prefix);
        hash.iter().take(5).map(|b| char::from(ALPHABET[usize::from(*b) % ALPHABET.len()])).collect()
    }

    fn hash(&mut self, what: &str) -> [u8; 32] {
        self.named += 1;
        Sha256::digest(format!("{what}#{}", self.named)).into()
    }
}

/// `metadata` of an object, made if it is not there.
pub(crate) fn metadata(object: &mut Value) -> &mut Value {
    if !object["metadata"].is_object() {
        object["metadata"] = json!({});
    }
    &mut object["metadata"]
}
