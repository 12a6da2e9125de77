//! The garbage collector: what has owners lives as long as one of them, told by UID.

use super::delete::{Options, delete};
use super::path::Target;
use super::resource::Resource;
use super::store::{Actor, Change, Key, State, Stored};
use super::write::settle;
use jiff::Timestamp;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;

const MANAGER: &str = "generic-garbage-collector";

/// One pass: one generation of dependents. How many objects it changed.
pub(crate) fn collect(state: &mut State, now: Timestamp) -> usize {
    // Only what goes, and what has owners, can be of interest: most writes are neither.
    let seen = state.changes.len();
    let matters = |c: &Change| c.deleted || c.after.deleting() || owners(&c.after).next().is_some();
    if !state.changes[state.collected..].iter().any(matters) {
        state.collected = seen;
        return 0;
    }
    let done = pass(state, now);
    if done == 0 {
        state.collected = seen;
    }
    done
}

fn pass(state: &mut State, now: Timestamp) -> usize {
    let all: Vec<(&'static Resource, Key, Arc<Stored>)> = super::resource::all()
        .iter()
        .flat_map(|r| state.of(r).iter().map(move |(key, object)| (r, key.clone(), object.clone())).collect::<Vec<_>>())
        .collect();
    let alive: BTreeSet<&str> = all.iter().map(|(_, _, object)| object.meta("uid")).collect();
    let going: BTreeSet<&str> =
        all.iter().filter(|(_, _, o)| o.deleting() && finalized(o, "foregroundDeletion")).map(|(_, _, o)| o.meta("uid")).collect();
    let orphaning: BTreeSet<&str> =
        all.iter().filter(|(_, _, o)| o.deleting() && finalized(o, "orphan")).map(|(_, _, o)| o.meta("uid")).collect();
    let mut done = 0;
    let mut waited_for: BTreeSet<&str> = BTreeSet::new();
    for (resource, key, object) in &all {
        let owners: Vec<&str> = owners(object).collect();
        if owners.is_empty() {
            continue;
        }
        if owners.iter().any(|uid| orphaning.contains(uid)) {
            disown(state, resource, key, object, now, |uid| orphaning.contains(uid));
            done += 1;
            continue;
        }
        let solid = owners.iter().any(|uid| alive.contains(uid) && !going.contains(uid));
        let waiting = owners.iter().any(|uid| going.contains(uid));
        if waiting {
            waited_for.extend(owners.iter().filter(|uid| going.contains(*uid)));
        }
        if !solid && !object.deleting() {
            let target = Target { resource, namespace: key.0.clone(), name: key.1.clone(), subresource: String::new() };
            let actor = Actor::controller(MANAGER, "delete", now);
            done += usize::from(delete(state, &actor, &target, &Options::only(object.meta("uid"))).is_ok());
        } else if solid && owners.iter().any(|uid| !alive.contains(uid)) {
            disown(state, resource, key, object, now, |uid| !alive.contains(uid));
            done += 1;
        }
    }
    for (resource, key, object) in &all {
        let uid = object.meta("uid");
        for (finalizer, over) in
            [("orphan", orphaning.contains(uid)), ("foregroundDeletion", going.contains(uid) && !waited_for.contains(uid))]
        {
            if over {
                let mut changed = Value::clone(&object.value);
                if let Some(all) = changed["metadata"]["finalizers"].as_array_mut() {
                    all.retain(|f| f != finalizer);
                }
                settle(state, &Actor::controller(MANAGER, "patch", now), resource, key.clone(), changed);
                done += 1;
            }
        }
    }
    done
}

fn finalized(object: &Stored, finalizer: &str) -> bool {
    object.value["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|f| f == finalizer))
}

fn owners(object: &Stored) -> impl Iterator<Item = &str> {
    object.value["metadata"]["ownerReferences"].as_array().into_iter().flatten().filter_map(|o| o["uid"].as_str())
}

fn disown(state: &mut State, resource: &'static Resource, key: &Key, object: &Stored, now: Timestamp, drop: impl Fn(&str) -> bool) {
    let mut changed = Value::clone(&object.value);
    if let Some(all) = changed["metadata"]["ownerReferences"].as_array_mut() {
        all.retain(|o: &Value| !o["uid"].as_str().is_some_and(&drop));
        if all.is_empty()
            && let Some(meta) = changed["metadata"].as_object_mut()
        {
            meta.shift_remove("ownerReferences");
        }
    }
    settle(state, &Actor::controller(MANAGER, "patch", now), resource, key.clone(), changed);
}
