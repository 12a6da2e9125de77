//! Conditions are well formed: what kubectl, kstatus, Argo CD and our own deadlines rely on.

use super::mirror::Change;
use jiff::Timestamp;
use serde_json::Value;

/// Looks at the conditions that a write leaves. `stepped`: a clock of this schedule jumps, so times may run backwards.
pub(super) fn check(change: &Change, stepped: bool) -> Vec<String> {
    let Some(new) = &change.new else { return vec![] };
    let generation = new["metadata"]["generation"].as_i64().unwrap_or(0);
    let mut wrong = vec![];
    if new["status"]["observedGeneration"].as_i64().is_some_and(|seen| seen > generation) {
        wrong.push(format!("status.observedGeneration is ahead of generation {generation}"));
    }
    let none = vec![];
    let list = |of: &Value| of["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let before = change.old.as_ref().map_or(none, |old| list(old));
    for c in list(new) {
        let type_ = c["type"].as_str().unwrap_or_default();
        let reason = c["reason"].as_str().unwrap_or_default();
        if type_.is_empty() || !matches!(c["status"].as_str(), Some("True" | "False" | "Unknown")) {
            wrong.push(format!("a condition without type or status: {c}"));
        }
        if reason.is_empty() || !reason.chars().all(|ch| ch.is_ascii_alphanumeric() || "_,:".contains(ch)) {
            wrong.push(format!("{type_} has the reason {reason:?}"));
        }
        if c["observedGeneration"].as_i64().is_some_and(|seen| seen > generation) {
            wrong.push(format!("{type_} is ahead of generation {generation}"));
        }
        let Some(old) = before.iter().find(|o| o["type"] == c["type"]) else { continue };
        let time = |v: &Value| v["lastTransitionTime"].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let (was, is) = (time(old), time(&c));
        if old["status"] == c["status"] && was != is {
            wrong.push(format!("{type_} stays {} and has a new transition time", c["status"]));
        }
        if !stepped && is < was {
            wrong.push(format!("the transition time of {type_} runs backwards"));
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn object(status: &str, reason: &str, at: &str, seen: i64) -> Option<Arc<Value>> {
        let condition = json!({"type": "Ready", "status": status, "reason": reason, "lastTransitionTime": at, "observedGeneration": seen});
        Some(Arc::new(json!({"metadata": {"generation": 1}, "status": {"conditions": [condition]}})))
    }

    fn found(old: Option<Arc<Value>>, new: Option<Arc<Value>>) -> usize {
        let change = Change { who: String::new(), ours: true, resource: "gpunodes".into(), name: "n".into(), old, new };
        check(&change, false).len()
    }

    #[test]
    fn each_rule_is_seen() {
        let (t1, t2) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:02Z");
        let old = || object("False", "Launching", t1, 1);
        assert_eq!(found(old(), object("True", "Ready", t2, 1)), 0);
        assert_eq!(found(old(), object("False", "Other", t1, 1)), 0);
        assert_eq!(found(None, object("True", "", t2, 1)), 1, "no reason");
        assert_eq!(found(None, object("True", "not a word", t2, 1)), 1);
        assert_eq!(found(None, object("True", "Ready", t2, 2)), 1, "ahead of the generation");
        assert_eq!(found(old(), object("False", "Launching", t2, 1)), 1, "moved without a change");
        assert_eq!(found(object("False", "A", t2, 1), object("True", "B", t1, 1)), 1, "backwards");
    }
}
