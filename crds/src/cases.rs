//! What the API accepts and what it refuses, as data: `crds/cases/*.yaml`. Read twice, by the tests of this crate with the
//! rules evaluated in process, and by the end-to-end tests against a real API server, which checks the schema too.

use serde::Deserialize;
use serde_json::Value;

/// One object, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Case {
    /// A sentence: what is tried.
    pub name: String,
    /// `GpuJob`, `GpuPool` or `GpuNode`.
    pub kind: String,
    /// What is there before, when the case is an update.
    pub old: Option<Value>,
    /// The whole object that is sent.
    pub object: Value,
    /// A part of the message that refuses it. Absent: it is accepted.
    pub reject: Option<String>,
    /// Who refuses it.
    pub by: By,
}

/// Who refuses a case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum By {
    /// A CEL rule: known without an API server.
    #[default]
    Rule,
    /// The schema: types, required fields, enums, ranges, lengths.
    Schema,
    /// The schema, and only under strict field validation (`fieldValidation=Strict`, kubectl's default). Otherwise the
    /// unknown field is dropped and the rest is stored.
    Strict,
}

/// A file: cases as merge patches (RFC 7386) over one object that is accepted.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    base: Value,
    cases: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    name: String,
    /// Over the base; the case is then an update.
    #[serde(default)]
    old: Option<Value>,
    /// Over the base.
    #[serde(default)]
    object: Value,
    #[serde(default)]
    reject: Option<String>,
    #[serde(default)]
    by: By,
}

/// Every case of every kind, in the order of the files.
///
/// # Panics
/// When a file is not what [`Case`] says; the tests of this crate read them all.
#[must_use]
pub fn all() -> Vec<Case> {
    let files = [include_str!("../cases/gpujob.yaml"), include_str!("../cases/gpupool.yaml"), include_str!("../cases/gpunode.yaml")];
    files.into_iter().flat_map(read).collect()
}

fn read(text: &str) -> Vec<Case> {
    let File { base, cases } = serde_saphyr::from_str(text).expect("a file of cases");
    let kind = base["kind"].as_str().expect("the base has a kind").to_owned();
    let over = |patch: &Value| {
        let mut object = base.clone();
        merge(&mut object, patch);
        object
    };
    let case = |Patch { name, old, object, reject, by }: Patch| Case {
        old: old.as_ref().map(over),
        object: over(&object),
        kind: kind.clone(),
        name,
        reject,
        by,
    };
    cases.into_iter().map(case).collect()
}

/// RFC 7386: objects merge, `null` takes away, everything else replaces. A patch of `null` as a whole changes nothing.
fn merge(target: &mut Value, patch: &Value) {
    match (target, patch) {
        (_, Value::Null) => {}
        (Value::Object(target), Value::Object(patch)) => {
            for (name, value) in patch {
                match (target.get_mut(name), value) {
                    (_, Value::Null) => drop(target.shift_remove(name)),
                    (Some(there), Value::Object(_)) if there.is_object() => merge(there, value),
                    _ => drop(target.insert(name.clone(), value.clone())),
                }
            }
        }
        (target, patch) => *target = patch.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GpuJob, GpuNode, GpuPool};
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    use kube::{CustomResourceExt, core::cel::Validator};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::LazyLock;

    /// Made once: the pod template's schema takes a while.
    static SCHEMAS: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
        let schema = |crd: CustomResourceDefinition| {
            let schema = crd.spec.versions[0].schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()).expect("a schema");
            (crd.spec.names.kind.clone(), serde_json::to_value(schema).expect("JSON"))
        };
        [GpuJob::crd(), GpuPool::crd(), GpuNode::crd()].map(schema).into()
    });

    /// The texts of the rules that refuse this case, and their messages.
    fn refusals(case: &Case) -> Vec<(String, String)> {
        match Validator::new().validate(&SCHEMAS[&case.kind], &case.object, case.old.as_ref()) {
            Ok(()) => vec![],
            Err(errors) => errors.into_vec().into_iter().map(|e| (e.rule, e.message)).collect(),
        }
    }

    /// Every rule below `schema`: where it is (`*` for items and values), and its text. The status is ours to write.
    fn rules(schema: &Value, path: &[String], found: &mut Vec<(Vec<String>, String)>) {
        for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
            found.push((path.to_vec(), rule["rule"].as_str().expect("a rule").to_owned()));
            assert!(rule["message"].as_str().is_some_and(|m| !m.is_empty()), "{rule} has no message");
        }
        let below = |name: &str| [path, &[name.to_owned()]].concat();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if !(path.is_empty() && name == "status") {
                rules(field, &below(name), found);
            }
        }
        for name in ["items", "additionalProperties"] {
            if schema[name].is_object() {
                rules(&schema[name], &below("*"), found);
            }
        }
    }

    fn reaches(value: &Value, path: &[String]) -> bool {
        let Some((first, rest)) = path.split_first() else { return !value.is_null() };
        match value {
            Value::Array(items) => first == "*" && items.iter().any(|v| reaches(v, rest)),
            Value::Object(fields) if first == "*" => fields.values().any(|v| reaches(v, rest)),
            Value::Object(fields) => fields.get(first).is_some_and(|v| reaches(v, rest)),
            _ => false,
        }
    }

    #[test]
    fn rules_accept_and_refuse_as_the_cases_say() {
        for case in all() {
            let found = refusals(&case);
            match (&case.reject, case.by) {
                (Some(part), By::Rule) => {
                    assert!(
                        found.iter().any(|(_, message)| message.contains(part)),
                        "{:?} is not refused with {part:?}: {found:?}",
                        case.name
                    );
                }
                (Some(_), _) => {}
                (None, _) => assert!(found.is_empty(), "{:?} is refused: {found:?}", case.name),
            }
        }
    }

    #[test]
    fn every_rule_has_a_case_that_passes_and_one_that_fails() {
        let cases = all();
        for (kind, schema) in SCHEMAS.iter() {
            let judged: Vec<(&Case, BTreeSet<String>)> =
                cases.iter().filter(|c| c.kind == *kind).map(|c| (c, refusals(c).into_iter().map(|(rule, _)| rule).collect())).collect();
            let mut found = vec![];
            rules(schema, &[], &mut found);
            assert!(!found.is_empty());
            for (_, rule) in &found {
                let places: Vec<_> = found.iter().filter(|(_, other)| other == rule).map(|(path, _)| path).collect();
                let met = |case: &Case| {
                    let there = |object: &Value| places.iter().any(|path| reaches(object, path));
                    there(&case.object) && (!rule.contains("oldSelf") || case.old.as_ref().is_some_and(there))
                };
                assert!(judged.iter().any(|(_, refused)| refused.contains(rule)), "{kind}: no case is refused by {rule}");
                assert!(judged.iter().any(|(case, refused)| met(case) && !refused.contains(rule)), "{kind}: no case passes {rule}");
            }
        }
    }

    #[test]
    fn names_are_unique_and_accepted_objects_are_of_their_type() {
        let mut names = BTreeSet::new();
        for case in all() {
            assert!(names.insert((case.kind.clone(), case.name.clone())), "{:?} is there twice", case.name);
            if case.reject.is_none() {
                let typed = match case.kind.as_str() {
                    "GpuJob" => serde_json::from_value::<GpuJob>(case.object.clone()).map(|_| ()),
                    "GpuPool" => serde_json::from_value::<GpuPool>(case.object.clone()).map(|_| ()),
                    _ => serde_json::from_value::<GpuNode>(case.object.clone()).map(|_| ()),
                };
                typed.unwrap_or_else(|e| panic!("{:?}: {e}", case.name));
            }
        }
    }
}
