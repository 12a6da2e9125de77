//! Structural schemas: what a custom resource may look like. Unknown fields are pruned, defaults set, the rest is judged, first
//! by the schema and then by its CEL rules.

use super::judge::judge;
use super::refusal::Cause;
use kube_cel::{CompiledSchema, Validator, compile_schema};
use serde_json::Value;
use std::collections::BTreeMap;

/// A schema with its rules, compiled.
pub(crate) struct Schema {
    root: Value,
    /// Of the object as such: of its identity, which never changes.
    whole: CompiledSchema,
    /// Of each field of the object that has any.
    rules: BTreeMap<String, CompiledSchema>,
    validator: Validator,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schema").finish_non_exhaustive()
    }
}

/// The keywords that are understood below. Any other would be skipped in silence, so it is refused.
const KNOWN: [&str; 25] = [
    "type",
    "title",
    "description",
    "properties",
    "additionalProperties",
    "items",
    "required",
    "nullable",
    "default",
    "enum",
    "format",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-list-type",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

impl Schema {
    /// # Panics
    /// When the schema says something that would not be checked, or a rule that is no CEL: a fault of the CRD or of this file.
    pub(crate) fn new(root: Value) -> Self {
        let unknown = unknown(&root);
        assert!(unknown.is_empty(), "the schema uses {unknown:?}, which FakeKube does not check");
        let mut whole = compile_schema(&root);
        assert!(!whole.has_errors(), "{:?}", whole.compilation_errors());
        let other = |rule: &&str| rule.contains("self.spec") || rule.contains("self.status") || rule.contains("oldSelf");
        let rules = root["x-kubernetes-validations"].as_array().into_iter().flatten().filter_map(|v| v["rule"].as_str());
        let other: Vec<&str> = rules.filter(other).collect();
        assert!(other.is_empty(), "{other:?} is about the whole object, of which the parts are judged one by one");
        let rules = std::mem::take(&mut whole.properties).into_iter().filter(|(_, field)| has_rules(field)).collect();
        Schema { root, whole, rules, validator: Validator::new() }
    }

    pub(crate) fn root(&self) -> &Value {
        &self.root
    }

    /// Drops what the schema does not know; the paths of what was dropped.
    pub(crate) fn prune(&self, object: &mut Value) -> Vec<String> {
        let mut dropped = vec![];
        if let Some(map) = object.as_object_mut() {
            for (name, field) in self.root["properties"].as_object().into_iter().flatten() {
                if name != "metadata"
                    && let Some(value) = map.get_mut(name)
                {
                    prune(field, value, name, &mut dropped);
                }
            }
            let known =
                |name: &String| matches!(name.as_str(), "apiVersion" | "kind" | "metadata") || !self.root["properties"][name].is_null();
            dropped.extend(map.keys().filter(|name| !known(name)).cloned());
            map.retain(|name, _| known(name));
        }
        dropped
    }

    /// Sets what is absent and has a default. `null` counts as absent where `null` is not allowed.
    pub(crate) fn default(&self, object: &mut Value) {
        default(&self.root, object);
    }

    /// What is wrong with an object; against the old one, what of that is new. The rules are asked only about a well-formed object.
    pub(crate) fn judge(&self, object: &Value, old: Option<&Value>) -> Vec<Cause> {
        let mut causes = vec![];
        let fields = self.root["properties"].as_object().into_iter().flatten();
        for name in self.root["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if object.get(name).is_none() {
                causes.push(Cause::required(name, ""));
            }
        }
        // What was there before may stay as it is. The server drops what rules say of it too (`CRDValidationRatcheting`), so
        // they are not asked.
        let changed = |name: &&String| {
            let (is, was) = (object.get(*name), old.and_then(|old| old.get(*name)));
            !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") && is.is_some() && is != was
        };
        let changed: Vec<(&String, &Value)> = fields.filter(|(name, _)| changed(name)).collect();
        for (name, field) in &changed {
            judge(field, &object[name.as_str()], name, &mut causes);
        }
        if causes.iter().any(|c| {
            matches!(
                c.reason,
                "FieldValueRequired" | "FieldValueTypeInvalid" | "FieldValueTooLong" | "FieldValueTooMany" | "FieldValueNotSupported"
            )
        }) {
            let why =
                "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            causes.push(Cause::invalid("<nil>", "null", why));
            return causes;
        }
        if old.is_none()
            && let Err(errors) = self.validator.validate_compiled(&self.whole, object, None)
        {
            causes.extend(errors.into_vec().into_iter().map(|e| Cause::invalid(&e.field_path, &shown(object, &e.field_path), &e.message)));
        }
        for (name, _) in changed {
            let Some(rules) = self.rules.get(name) else { continue };
            let was = old.and_then(|old| old.get(name));
            if let Err(errors) = self.validator.validate_compiled(rules, &object[name.as_str()], was) {
                causes.extend(errors.into_vec().into_iter().map(|e| {
                    let path = below(name, &e.field_path);
                    Cause::invalid(&path, &shown(object, &path), &e.message)
                }));
            }
        }
        causes
    }
}

/// The path of a field of the field `name`.
fn below(name: &str, path: &str) -> String {
    match path.bytes().next() {
        None | Some(b'.' | b'[') => format!("{name}{path}"),
        Some(_) => format!("{name}.{path}"),
    }
}

/// Whether a schema has any rule.
fn has_rules(compiled: &CompiledSchema) -> bool {
    let inner = compiled.properties.values().chain(compiled.items.as_deref()).chain(compiled.additional_properties.as_deref());
    let mut inner = inner.chain(&compiled.all_of).chain(&compiled.one_of).chain(&compiled.any_of);
    !compiled.validations.is_empty() || inner.any(has_rules)
}

/// How a value at a path is shown beside the message of a rule: its type.
fn shown(object: &Value, path: &str) -> String {
    let pointer = format!("/{}", path.replace(['.', '['], "/").replace(']', ""));
    let name = match object.pointer(&pointer) {
        Some(Value::String(text)) => return format!("{text:?}"),
        Some(Value::Number(number)) => return number.to_string(),
        Some(Value::Bool(word)) => return word.to_string(),
        Some(Value::Array(_)) => "array",
        _ => "object",
    };
    format!("{name:?}")
}

fn unknown(schema: &Value) -> Vec<String> {
    let Some(map) = schema.as_object() else { return vec![] };
    let mut found: Vec<String> = map.keys().filter(|k| !KNOWN.contains(&k.as_str())).cloned().collect();
    for field in map.get("properties").and_then(Value::as_object).into_iter().flat_map(serde_json::Map::values) {
        found.extend(unknown(field));
    }
    for name in ["items", "additionalProperties"] {
        found.extend(map.get(name).into_iter().flat_map(unknown));
    }
    found
}

fn keeps_unknown(schema: &Value) -> bool {
    schema["x-kubernetes-preserve-unknown-fields"] == true
}

fn prune(schema: &Value, value: &mut Value, path: &str, dropped: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            let (fields, any) = (&schema["properties"], &schema["additionalProperties"]);
            let mut gone = vec![];
            for (name, inner) in map.iter_mut() {
                let below = format!("{path}.{name}");
                match fields.get(name).or_else(|| any.is_object().then_some(any)) {
                    Some(field) => prune(field, inner, &below, dropped),
                    None if keeps_unknown(schema) || any == true => {}
                    None => gone.push((name.clone(), below)),
                }
            }
            for (name, below) in gone {
                map.shift_remove(&name);
                dropped.push(below);
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter_mut().enumerate() {
                prune(&schema["items"], item, &format!("{path}[{at}]"), dropped);
            }
        }
        _ => {}
    }
}

fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, field) in schema["properties"].as_object().into_iter().flatten() {
                let absent = match map.get(name) {
                    None => true,
                    Some(Value::Null) => field["nullable"] != true,
                    Some(_) => false,
                };
                if absent && !field["default"].is_null() {
                    map.insert(name.clone(), field["default"].clone());
                }
                if let Some(inner) = map.get_mut(name) {
                    default(field, inner);
                }
            }
            let any = &schema["additionalProperties"];
            if any.is_object() {
                map.values_mut().for_each(|inner| default(any, inner));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
