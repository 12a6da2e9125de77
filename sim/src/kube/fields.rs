//! Sets of fields, as `FieldsV1` writes them: who owns what.

use super::shape::{Listed, Shape};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// One step into an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a map.
    Field(String),
    /// The item of a list with these keys, as JSON.
    Key(String),
    /// This value in a set, as JSON.
    Value(String),
}

pub(crate) type Path = Vec<Step>;

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Fields(pub(crate) BTreeSet<Path>);

/// Set by the server alone: nobody owns them.
const NOBODYS: [&str; 10] = [
    "name",
    "namespace",
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "resourceVersion",
    "generation",
    "managedFields",
    "selfLink",
];

/// Whether a field can be owned.
pub(crate) fn ownable(path: &[Step], name: &str) -> bool {
    match path {
        [] => !matches!(name, "apiVersion" | "kind"),
        [Step::Field(first)] if first == "metadata" => !NOBODYS.contains(&name),
        _ => true,
    }
}

impl Fields {
    /// Every leaf of an object that somebody can own; with `parents`, what holds them too.
    pub(crate) fn of(value: &Value, shape: Shape<'_>, parents: bool) -> Self {
        let mut fields = Fields::default();
        collect(value, shape, &mut vec![], parents, &mut fields.0);
        fields
    }

    /// With everything that holds a member.
    pub(crate) fn with_parents(&self) -> Self {
        Fields(self.0.iter().flat_map(|path| (1..=path.len()).map(|n| path[..n].to_vec())).collect())
    }

    pub(crate) fn parse(value: &Value) -> Self {
        let mut fields = Fields::default();
        read(value, &mut vec![], &mut fields.0);
        fields
    }

    pub(crate) fn write(&self) -> Value {
        let mut root = Map::new();
        for path in &self.0 {
            let mut at = &mut root;
            for step in path {
                let name = match step {
                    Step::Field(name) => format!("f:{name}"),
                    Step::Key(key) => format!("k:{key}"),
                    Step::Value(value) => format!("v:{value}"),
                };
                at = at.entry(name).or_insert_with(|| json!({})).as_object_mut().expect("only maps are put here");
            }
            at.insert(".".to_owned(), json!({}));
        }
        let mut root = Value::Object(root);
        drop_lone_dots(&mut root);
        root
    }
}

/// `{".": {}}` is written `{}`.
fn drop_lone_dots(value: &mut Value) {
    let Some(map) = value.as_object_mut() else { return };
    if map.len() == 1 {
        map.remove(".");
    }
    map.values_mut().for_each(drop_lone_dots);
}

fn read(value: &Value, path: &mut Path, fields: &mut BTreeSet<Path>) {
    let inner = value.as_object().filter(|m| !m.is_empty());
    let Some(map) = inner else {
        if !path.is_empty() {
            fields.insert(path.clone());
        }
        return;
    };
    for (name, below) in map {
        let step = match name.split_at_checked(2) {
            Some(("f:", rest)) => Step::Field(rest.to_owned()),
            Some(("k:", rest)) => Step::Key(rest.to_owned()),
            Some(("v:", rest)) => Step::Value(rest.to_owned()),
            _ => {
                fields.insert(path.clone());
                continue;
            }
        };
        path.push(step);
        read(below, path, fields);
        path.pop();
    }
}

/// The leaves of a value at `path`; with `parents`, what holds them too.
pub(crate) fn collect(value: &Value, shape: Shape<'_>, path: &mut Path, parents: bool, fields: &mut BTreeSet<Path>) {
    match value {
        Value::Object(map) if !map.is_empty() && !shape.atomic_map() => {
            // What is a struct in Go is owned by nobody as such: only maps are.
            if parents && !path.is_empty() && shape.is_map() {
                fields.insert(path.clone());
            }
            for (name, inner) in map {
                if ownable(path, name) {
                    path.push(Step::Field(name.clone()));
                    collect(inner, shape.field(name), path, parents, fields);
                    path.pop();
                }
            }
        }
        Value::Array(items) if !items.is_empty() && shape.list() != Listed::Atomic => {
            if parents {
                fields.insert(path.clone());
            }
            for item in items {
                path.push(step(item, shape));
                fields.insert(path.clone());
                if item.is_object() {
                    collect(item, shape.item(), path, parents, fields);
                }
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => drop(fields.insert(path.clone())),
    }
}

/// How an item of this list is told apart.
pub(crate) fn step(item: &Value, shape: Shape<'_>) -> Step {
    match shape.list() {
        Listed::Keyed(keys) => Step::Key(keys.of(item)),
        _ => Step::Value(item.to_string()),
    }
}

/// What is at a path.
pub(crate) fn get<'a>(value: &'a Value, path: &[Step], shape: Shape<'_>) -> Option<&'a Value> {
    let Some((first, rest)) = path.split_first() else { return Some(value) };
    match first {
        Step::Field(name) => get(value.get(name)?, rest, shape.field(name)),
        other => {
            let item = value.as_array()?.iter().find(|item| step(item, shape) == *other)?;
            get(item, rest, shape.item())
        }
    }
}

/// Takes away what is at a path, if it is there.
pub(crate) fn remove(value: &mut Value, path: &[Step], shape: Shape<'_>) {
    match path {
        [] => {}
        [Step::Field(name)] => {
            if let Some(map) = value.as_object_mut() {
                map.shift_remove(name);
            }
        }
        [Step::Field(name), rest @ ..] => {
            if let Some(inner) = value.get_mut(name) {
                remove(inner, rest, shape.field(name));
            }
        }
        [other, rest @ ..] => {
            let Some(items) = value.as_array_mut() else { return };
            let Some(at) = items.iter().position(|item| step(item, shape) == *other) else { return };
            if rest.is_empty() {
                items.remove(at);
            } else {
                remove(&mut items[at], rest, shape.item());
            }
        }
    }
}

/// `.status.conditions[type="Ready"].reason`, as conflicts are told.
pub(crate) fn told(path: &[Step]) -> String {
    path.iter()
        .map(|step| match step {
            Step::Field(name) => format!(".{name}"),
            Step::Value(value) => format!("[={value}]"),
            Step::Key(key) => {
                let keys: Map<String, Value> = serde_json::from_str(key).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::resource::named;
    use super::*;

    #[test]
    fn fields_are_written_as_the_server_writes_them_and_read_back() {
        let jobs = named("gpujobs").expect("jobs are served");
        let object = json!({
            "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob",
            "metadata": {"name": "a", "labels": {"x": "y"}, "finalizers": ["f"]},
            "spec": {"pools": ["a", "b"]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let fields = Fields::of(&object, Shape::root(jobs), false);
        let written = fields.write();
        assert_eq!(
            written,
            json!({
                "f:metadata": {"f:finalizers": {"v:\"f\"": {}}, "f:labels": {"f:x": {}}},
                "f:spec": {"f:pools": {}},
                "f:status": {"f:conditions": {"k:{\"type\":\"Ready\"}": {".": {}, "f:type": {}, "f:status": {}}}},
            })
        );
        assert_eq!(Fields::parse(&written), fields);
        for path in &fields.0 {
            assert!(get(&object, path, Shape::root(jobs)).is_some(), "{}", told(path));
        }
    }

    #[test]
    fn what_is_taken_away_leaves_the_rest() {
        let nodes = named("nodes").expect("nodes are served");
        let mut object = json!({"status": {"conditions": [{"type": "A", "status": "x"}, {"type": "B", "status": "y"}]}});
        let path = [Step::Field("status".into()), Step::Field("conditions".into()), Step::Key(r#"{"type":"A"}"#.into())];
        assert_eq!(told(&path), r#".status.conditions[type="A"]"#);
        remove(&mut object, &path, Shape::root(nodes));
        assert_eq!(object, json!({"status": {"conditions": [{"type": "B", "status": "y"}]}}));
    }
}
