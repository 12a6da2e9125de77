//! Label and field selectors, as `apimachinery/pkg/labels` and each kind's `SelectableFields` have them.

use super::path::Query;
use super::refusal::Refusal;
use super::resource::Resource;
use serde_json::Value;

/// What a list or a watch shows.
#[derive(Clone, Debug, Default)]
pub(crate) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<(String, bool, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

impl Selector {
    pub(crate) fn of(resource: &Resource, query: &Query) -> Result<Self, Refusal> {
        Ok(Selector {
            labels: labels(query.get("labelSelector").unwrap_or_default())?,
            fields: fields(resource, query.get("fieldSelector").unwrap_or_default())?,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Value) -> bool {
        let label = |key: &str| object["metadata"]["labels"][key].as_str();
        self.labels.iter().all(|r| match r {
            Requirement::In(key, values) => label(key).is_some_and(|v| values.iter().any(|w| w == v)),
            Requirement::NotIn(key, values) => label(key).is_none_or(|v| values.iter().all(|w| w != v)),
            Requirement::Exists(key) => label(key).is_some(),
            Requirement::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|(field, equal, value)| (text(object, field) == *value) == *equal)
    }
}

fn text(object: &Value, field: &str) -> String {
    let value = field.split('.').fold(object, |value, name| &value[name]);
    match value {
        Value::Null if field == "spec.unschedulable" => "false".to_owned(),
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn labels(text: &str) -> Result<Vec<Requirement>, Refusal> {
    let unreadable = |part: &str| Refusal::bad_request(format!("unable to parse requirement: {part}"));
    split(text)
        .into_iter()
        .map(|part| {
            let part = part.trim();
            let values =
                |list: &str| list.trim().trim_start_matches('(').trim_end_matches(')').split(',').map(|v| v.trim().to_owned()).collect();
            let one = |value: &str| vec![value.trim().to_owned()];
            let requirement = if let Some((key, list)) = part.split_once(" notin ") {
                Requirement::NotIn(key.trim().into(), values(list))
            } else if let Some((key, list)) = part.split_once(" in ") {
                Requirement::In(key.trim().into(), values(list))
            } else if let Some((key, value)) = part.split_once("!=") {
                Requirement::NotIn(key.trim().into(), one(value))
            } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                Requirement::In(key.trim().into(), one(value))
            } else if let Some(key) = part.strip_prefix('!') {
                Requirement::Absent(key.trim().into())
            } else {
                Requirement::Exists(part.into())
            };
            let (Requirement::In(key, _) | Requirement::NotIn(key, _) | Requirement::Exists(key) | Requirement::Absent(key)) = &requirement;
            if key.is_empty() || key.contains([' ', '(', ')', '=', '!', '<', '>']) { Err(unreadable(part)) } else { Ok(requirement) }
        })
        .collect()
}

/// At commas that are not in parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut depth) = (vec![], 0, 0usize);
    for (at, character) in text.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ',' if depth == 0 => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !text[start..].trim().is_empty() {
        parts.push(&text[start..]);
    }
    parts
}

fn fields(resource: &Resource, text: &str) -> Result<Vec<(String, bool, String)>, Refusal> {
    text.split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (field, equal, value) = if let Some((field, value)) = part.split_once("!=") {
                (field, false, value)
            } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
                (field, true, value)
            } else {
                return Err(Refusal::bad_request(format!("invalid field selector: {part}")));
            };
            if !selectable(resource, field) {
                let message = format!("field label not supported: {field}");
                return Err(Refusal::bad_request(message));
            }
            Ok((field.to_owned(), equal, value.to_owned()))
        })
        .collect()
}

fn selectable(resource: &Resource, field: &str) -> bool {
    let more: &[&str] = match resource.plural.as_str() {
        "pods" => &["spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "status.phase"],
        "nodes" => &["spec.unschedulable"],
        "namespaces" => &["status.phase"],
        "secrets" => &["type"],
        "events" => &["regarding.kind", "regarding.name", "regarding.namespace", "regarding.uid", "reason", "type"],
        _ => &[],
    };
    field == "metadata.name" || (field == "metadata.namespace" && resource.namespaced) || more.contains(&field)
}

#[cfg(test)]
mod tests {
    use super::super::resource::named;
    use super::*;
    use serde_json::json;

    fn selects(query: &str, object: &Value) -> Result<bool, Refusal> {
        let pods = named("pods").expect("pods are served");
        Ok(Selector::of(pods, &Query::parse(query))?.matches(object))
    }

    #[test]
    fn labels_select() {
        let object = json!({"metadata": {"labels": {"app": "a", "tier": "x"}}});
        for (selector, expected) in [
            ("app=a", true),
            ("app==a,tier=x", true),
            ("app=b", false),
            ("app!=b", true),
            ("other!=b", true),
            ("app in (b,a),tier", true),
            ("app notin (b, a)", false),
            ("!app", false),
            ("!other", true),
            ("other", false),
        ] {
            let query = format!("labelSelector={}", selector.replace('=', "%3D").replace(' ', "+"));
            assert_eq!(selects(&query, &object).expect("it can be read"), expected, "{selector}");
        }
        assert_eq!(selects("labelSelector=a+b+c", &object).expect_err("it cannot be read").code, 400);
    }

    #[test]
    fn fields_select() {
        let object = json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": "one"}, "status": {"phase": "Running"}});
        for (selector, expected) in [
            ("metadata.name%3Dp", true),
            ("spec.nodeName%3Done,status.phase!%3DPending", true),
            ("spec.nodeName%3D", false),
            ("status.phase%3DFailed", false),
        ] {
            assert_eq!(selects(&format!("fieldSelector={selector}"), &object).expect("it can be read"), expected, "{selector}");
        }
        assert_eq!(selects("fieldSelector=spec.hostname%3Da", &object).expect_err("no such field").code, 400);
    }
}
