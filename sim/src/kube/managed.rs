//! `metadata.managedFields`: read, kept up to date by writes that are no apply, and written.

use super::fields::{Fields, Path, Step, collect, ownable, step};
use super::resource::Resource;
use super::shape::{Listed, Shape};
use super::store::{Actor, metadata};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// One manager's fields.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    /// Whether by apply.
    pub(crate) applied: bool,
    pub(crate) subresource: String,
    pub(crate) version: String,
    pub(crate) time: String,
    pub(crate) fields: Fields,
}

impl Entry {
    pub(crate) fn is(&self, actor: &Actor, applied: bool) -> bool {
        self.manager == actor.manager && self.applied == applied && self.subresource == actor.subresource
    }

    /// Of somebody who has nothing yet.
    pub(crate) fn new(actor: &Actor, applied: bool, resource: &Resource) -> Self {
        Entry {
            manager: actor.manager.clone(),
            applied,
            subresource: actor.subresource.clone(),
            version: resource.api_version(),
            time: String::new(),
            fields: Fields::default(),
        }
    }
}

/// The owners of an object's fields.
pub(crate) fn read(object: &Value) -> Vec<Entry> {
    let entries = object["metadata"]["managedFields"].as_array().into_iter().flatten();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    entries
        .map(|entry| Entry {
            manager: text(entry, "manager"),
            applied: entry["operation"] == "Apply",
            subresource: text(entry, "subresource"),
            version: text(entry, "apiVersion"),
            time: text(entry, "time"),
            fields: Fields::parse(&entry["fieldsV1"]),
        })
        .collect()
}

/// Writes the owners into an object. Whoever owns nothing is left out; whoever's fields have changed gets the time.
pub(crate) fn write(object: &mut Value, mut entries: Vec<Entry>, before: &[Entry], now: &str) {
    entries.retain(|e| !e.fields.0.is_empty());
    for entry in &mut entries {
        let same = before.iter().find(|b| (&b.manager, b.applied, &b.subresource) == (&entry.manager, entry.applied, &entry.subresource));
        match same {
            Some(same) if same.fields == entry.fields => {}
            _ => entry.time = now.to_owned(),
        }
    }
    entries.sort_by(|a, b| (!a.applied, &a.time, &a.manager, &a.subresource).cmp(&(!b.applied, &b.time, &b.manager, &b.subresource)));
    let written = entries.iter().map(|e| {
        let mut entry = json!({
            "manager": e.manager, "operation": if e.applied { "Apply" } else { "Update" }, "apiVersion": e.version, "time": e.time,
            "fieldsType": "FieldsV1", "fieldsV1": e.fields.write(),
        });
        if !e.subresource.is_empty() {
            entry["subresource"] = Value::from(e.subresource.clone());
        }
        entry
    });
    let written: Vec<Value> = written.collect();
    if written.is_empty() {
        if let Some(map) = metadata(object).as_object_mut() {
            map.shift_remove("managedFields");
        }
    } else {
        metadata(object)["managedFields"] = Value::from(written);
    }
}

/// After a write that is no apply: what it changed is the writer's and nobody else's; what it removed is nobody's.
pub(crate) fn updated(mut entries: Vec<Entry>, resource: &Resource, before: &Value, after: &Value, actor: &Actor) -> Vec<Entry> {
    let (mut changed, mut removed) = (BTreeSet::new(), BTreeSet::new());
    let shape = Shape::root(resource);
    diff(before, after, shape, &mut vec![], &mut changed, &mut removed);
    if changed.is_empty() && removed.is_empty() {
        return entries;
    }
    let gone = |path: &Path| (1..=path.len()).any(|n| removed.contains(&path[..n]));
    for entry in &mut entries {
        let own = entry.is(actor, false);
        entry.fields.0.retain(|path| !gone(path) && (own || !changed.contains(path)));
    }
    if !entries.iter().any(|e| e.is(actor, false)) {
        entries.push(Entry::new(actor, false, resource));
    }
    if let Some(own) = entries.iter_mut().find(|e| e.is(actor, false)) {
        own.fields.0.extend(changed);
    }
    entries
}

/// The leaves that are new or other, and the paths that are gone.
fn diff(before: &Value, after: &Value, shape: Shape<'_>, path: &mut Path, changed: &mut BTreeSet<Path>, removed: &mut BTreeSet<Path>) {
    if before == after {
        return;
    }
    match (before, after) {
        (Value::Object(old), Value::Object(new)) if !shape.atomic_map() => {
            for (name, value) in new {
                if !ownable(path, name) {
                    continue;
                }
                path.push(Step::Field(name.clone()));
                match old.get(name) {
                    Some(was) => diff(was, value, shape.field(name), path, changed, removed),
                    None => collect(value, shape.field(name), path, true, changed),
                }
                path.pop();
            }
            for name in old.keys().filter(|name| !new.contains_key(*name) && ownable(path, name)) {
                removed.insert(path.iter().cloned().chain([Step::Field(name.clone())]).collect());
            }
        }
        (Value::Array(old), Value::Array(new)) if shape.list() != Listed::Atomic => {
            let find = |items: &[Value], wanted: &Step| items.iter().position(|i| step(i, shape) == *wanted);
            for item in new {
                let at = step(item, shape);
                let was = find(old, &at);
                path.push(at);
                match was {
                    Some(was) if item.is_object() => diff(&old[was], item, shape.item(), path, changed, removed),
                    Some(_) => {}
                    None => {
                        changed.insert(path.clone());
                        if item.is_object() {
                            collect(item, shape.item(), path, true, changed);
                        }
                    }
                }
                path.pop();
            }
            for item in old {
                let at = step(item, shape);
                if find(new, &at).is_none() {
                    removed.insert(path.iter().cloned().chain([at]).collect());
                }
            }
        }
        (_, after) => collect(after, shape, path, true, changed),
    }
}
