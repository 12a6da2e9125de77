//! Server-side apply: a manager says what it wants, whole; what it wanted before and wants no more goes, unless others want it.

use super::fields::{Fields, Path, get, remove, step, told};
use super::managed::{self, Entry};
use super::refusal::Refusal;
use super::resource::Resource;
use super::shape::{Listed, Shape};
use super::store::Actor;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What an apply makes of an object: its new form, and who owns what.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) object: Value,
    pub(crate) owners: Vec<Entry>,
}

/// Applies `wanted` over `live` (`{}` when there is nothing yet).
pub(crate) fn apply(resource: &Resource, live: &Value, wanted: &Value, actor: &Actor, force: bool) -> Result<Applied, Refusal> {
    if !wanted["metadata"]["managedFields"].is_null() {
        return Err(Refusal::bad_request("metadata.managedFields must be nil"));
    }
    let shape = Shape::root(resource);
    let mut wanted = wanted.clone();
    // An endpoint takes only its own part; the rest is neither written nor owned.
    if actor.subresource == "status" {
        keep_only(&mut wanted, &["apiVersion", "kind", "status"]);
    } else if resource.status
        && resource.schema().is_some()
        && let Some(map) = wanted.as_object_mut()
    {
        map.shift_remove("status");
    }
    let fields = Fields::of(&wanted, shape, false);
    let mut owners = managed::read(live);
    let mine = owners.iter().position(|e| e.is(actor, true));
    let before = mine.map(|at| owners[at].fields.clone()).unwrap_or_default();

    let conflicts = conflicts(&owners, mine, &fields, live, &wanted, shape);
    if !conflicts.is_empty() && !force {
        return Err(refused(&conflicts));
    }
    for (at, owner) in owners.iter_mut().enumerate() {
        if Some(at) != mine {
            owner.fields.0.retain(|path| !conflicts.iter().any(|(_, of, taken)| *of == at && *taken == path));
        }
    }

    let mut object = live.clone();
    merge(&mut object, &wanted, shape);
    // Holders first: an item without its keys could not be found.
    let kept = fields.with_parents();
    let others =
        Fields(owners.iter().enumerate().filter(|(at, _)| Some(*at) != mine).flat_map(|(_, e)| e.fields.with_parents().0).collect());
    for path in &before.with_parents().0 {
        if !kept.0.contains(path) && !others.0.contains(path) && path.len() > 1 {
            remove(&mut object, path, shape);
        }
    }
    // What is gone is nobody's.
    match mine {
        Some(at) => owners[at].fields = fields,
        None => owners.push(Entry { fields, ..Entry::new(actor, true, resource) }),
    }
    Ok(Applied { object, owners })
}

fn keep_only(object: &mut Value, names: &[&str]) {
    if let Some(map) = object.as_object_mut() {
        map.retain(|name, _| names.contains(&name.as_str()));
    }
}

/// What others own and `wanted` would change: (whose, in words; at which place; what).
type Conflicts<'a> = Vec<(String, usize, &'a Path)>;

/// An owner, as conflicts tell it.
fn named(owner: &Entry) -> String {
    let Entry { manager, version, subresource, .. } = owner;
    match (owner.applied, subresource.as_str()) {
        (true, _) => format!("{manager:?}"),
        (false, "") => format!("{manager:?} using {version}"),
        (false, part) => format!("{manager:?} with subresource {part:?} using {version}"),
    }
}

fn conflicts<'a>(
    owners: &[Entry],
    mine: Option<usize>,
    fields: &'a Fields,
    live: &Value,
    wanted: &Value,
    shape: Shape<'_>,
) -> Conflicts<'a> {
    let mut found = vec![];
    for (at, owner) in owners.iter().enumerate().filter(|(at, _)| Some(*at) != mine) {
        for path in fields.0.iter().filter(|path| owner.fields.0.contains(*path)) {
            let (is, wants) = (get(live, path, shape), get(wanted, path, shape));
            // Items of lists are there or not: their fields conflict, they do not.
            let item = matches!(path.last(), Some(super::fields::Step::Key(_) | super::fields::Step::Value(_)));
            // A map that is wanted empty may be filled by others.
            let holder = is.is_some_and(Value::is_object) && empty(wants);
            if !item && !holder && is != wants {
                found.push((named(owner), at, path));
            }
        }
    }
    found
}

fn empty(value: Option<&Value>) -> bool {
    value.is_some_and(|v| v.as_object().is_some_and(serde_json::Map::is_empty))
}

fn refused(conflicts: &Conflicts<'_>) -> Refusal {
    let mut of: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (manager, _, path) in conflicts {
        of.entry(manager).or_default().push(told(path));
    }
    let count = conflicts.len();
    let plural = if count == 1 { "" } else { "s" };
    let who: Vec<String> = of
        .iter()
        .map(|(manager, paths)| match paths.as_slice() {
            [one] => format!("conflict with {manager}: {one}"),
            many => format!("conflicts with {manager}:\n{}", many.iter().map(|p| format!("- {p}")).collect::<Vec<_>>().join("\n")),
        })
        .collect();
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|(manager, _, path)| {
            json!({"reason": "FieldManagerConflict", "message": format!("conflict with {manager}"), "field": told(path)})
        })
        .collect();
    let message = format!("Apply failed with {count} conflict{plural}: {}", who.join("\n"));
    Refusal { details: json!({"causes": causes}), ..Refusal::new(409, "Conflict", message) }
}

fn merge(live: &mut Value, wanted: &Value, shape: Shape<'_>) {
    match (live, wanted) {
        (Value::Object(live), Value::Object(wanted)) if !shape.atomic_map() => {
            for (name, value) in wanted {
                match live.get_mut(name) {
                    Some(there) => merge(there, value, shape.field(name)),
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Value::Array(live), Value::Array(wanted)) if shape.list() != Listed::Atomic => {
            for item in wanted {
                let at = step(item, shape);
                match live.iter_mut().find(|there| step(there, shape) == at) {
                    Some(there) => merge(there, item, shape.item()),
                    None => live.push(item.clone()),
                }
            }
        }
        (live, wanted) => *live = wanted.clone(),
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
