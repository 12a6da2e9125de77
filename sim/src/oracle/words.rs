//! A write in words: what has changed, for people who read a timeline.

use serde_json::Value;
use std::sync::Arc;

/// What a write did to an object.
pub(super) fn words(old: Option<&Arc<Value>>, new: Option<&Arc<Value>>) -> String {
    let Some(new) = new else { return "is gone".into() };
    let nothing = Value::Null;
    let old_value = old.map_or(&nothing, |v| v.as_ref());
    let mut said: Vec<String> = vec![];
    if old.is_none() {
        said.push("is made".into());
    }
    let deleted = |v: &Value| v["metadata"].get("deletionTimestamp").is_some();
    if deleted(new) && !deleted(old_value) {
        said.push("is being deleted".into());
    }
    if old.is_some() && old_value["metadata"]["finalizers"] != new["metadata"]["finalizers"] {
        said.push(format!("finalizers {}", short(&new["metadata"]["finalizers"])));
    }
    if old.is_some() && old_value["metadata"]["labels"] != new["metadata"]["labels"] {
        said.push("labels".into());
    }
    conditions(old_value, new, &mut said);
    containers(old_value, new, &mut said);
    for part in ["spec", "status"] {
        // A whole spec says too much; what changes in one says something.
        if part == "status" || old.is_some() {
            fields(&old_value[part], &new[part], &mut said);
        }
    }
    said.join("; ")
}

fn conditions(old: &Value, new: &Value, said: &mut Vec<String>) {
    let list = |v: &Value| v["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = list(old);
    let word = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for c in list(new) {
        let was = before.iter().find(|o| o["type"] == c["type"]);
        if was.is_none_or(|o| o["status"] != c["status"] || o["reason"] != c["reason"]) {
            said.push(format!("{}={} {}", word(&c["type"]), word(&c["status"]), word(&c["reason"])));
        } else if was.is_some_and(|o| o["message"] != c["message"]) && c["type"] != "Reconciling" {
            said.push(format!("{}: {}", word(&c["type"]), short(&c["message"])));
        }
    }
}

fn containers(old: &Value, new: &Value, said: &mut Vec<String>) {
    for list in ["initContainerStatuses", "containerStatuses"] {
        for status in new["status"][list].as_array().into_iter().flatten() {
            let before = old["status"][list].as_array().into_iter().flatten().find(|o| o["name"] == status["name"]);
            if before.is_some_and(|o| o["state"] == status["state"]) {
                continue;
            }
            let name = status["name"].as_str().unwrap_or_default();
            let state = &status["state"];
            match &state["terminated"]["exitCode"] {
                Value::Number(code) => said.push(format!("{name} exits {code}")),
                _ if state.get("running").is_some() => said.push(format!("{name} runs")),
                _ => {}
            }
        }
    }
}

fn fields(old: &Value, new: &Value, said: &mut Vec<String>) {
    let Some(new) = new.as_object() else { return };
    for (key, value) in new {
        let told_elsewhere = ["conditions", "containerStatuses", "initContainerStatuses", "observedGeneration", "template"];
        if told_elsewhere.contains(&key.as_str()) || old.get(key) == Some(value) {
            continue;
        }
        said.push(format!("{key} {}", short(value)));
    }
    for key in old.as_object().into_iter().flat_map(|o| o.keys()).filter(|k| !new.contains_key(*k)) {
        said.push(format!("no {key}"));
    }
}

/// A value in at most a line's end.
fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Array(list) if list.is_empty() => "none".into(),
        Value::Object(map) if map.contains_key("id") => map["id"].as_str().unwrap_or_default().to_owned(),
        Value::Array(list) if list.iter().all(Value::is_object) => {
            format!("{} ({})", list.len(), list.last().map(last).unwrap_or_default())
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(90) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

/// What a list's last element is told apart by.
fn last(value: &Value) -> String {
    let words = ["name", "attempt", "number", "exitCode", "disruption", "outcome", "reason", "key", "type"];
    let told =
        words.iter().filter_map(|w| value.get(*w).map(|v| format!("{w} {}", v.as_str().map_or_else(|| v.to_string(), str::to_owned))));
    told.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_changed_is_said_and_nothing_else() {
        let old = Arc::new(json!({"metadata": {"resourceVersion": "1"}, "spec": {"a": 1}, "status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "Launching"}], "nodeName": "n"}}));
        let new = Arc::new(json!({"metadata": {"resourceVersion": "2", "deletionTimestamp": "x"}, "spec": {"a": 1}, "status": {
            "conditions": [{"type": "Ready", "status": "False", "reason": "Terminating"}], "instance": {"id": "i-1", "gpus": 1}}}));
        assert_eq!(words(Some(&old), Some(&new)), "is being deleted; Ready=False Terminating; instance i-1; no nodeName");
        assert_eq!(words(Some(&old), None), "is gone");
        assert_eq!(words(None, Some(&old)), "is made; Ready=False Launching; nodeName n");
    }
}
