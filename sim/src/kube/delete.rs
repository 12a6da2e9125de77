//! Deleting: at once, after a grace period, or when nothing holds an object any more.

use super::path::{Query, Target};
use super::refusal::{Refusal, details};
use super::resource::Resource;
use super::store::{Actor, State, Stored, metadata};
use super::write::{settle, written};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// What a request to delete asks for beside the object.
#[derive(Clone, Debug, Default)]
pub(crate) struct Options {
    pub(crate) grace: Option<i64>,
    propagation: Option<String>,
    uid: Option<String>,
    version: Option<String>,
    pub(crate) dry: bool,
}

impl Options {
    /// From the body, else from the query.
    pub(crate) fn read(body: &Value, query: &Query) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Options {
            grace: body["gracePeriodSeconds"].as_i64().or_else(|| query.get("gracePeriodSeconds").and_then(|g| g.parse().ok())),
            propagation: text(&body["propagationPolicy"]).or_else(|| query.get("propagationPolicy").map(str::to_owned)),
            uid: text(&body["preconditions"]["uid"]),
            version: text(&body["preconditions"]["resourceVersion"]),
            dry: body["dryRun"].as_array().is_some_and(|d| !d.is_empty()) || query.get("dryRun").is_some(),
        }
    }

    /// In the background, and only this one.
    pub(crate) fn only(uid: &str) -> Self {
        Options { uid: Some(uid.to_owned()), propagation: Some("Background".to_owned()), ..Options::default() }
    }
}

/// Deletes an object, or marks it; the body of the answer.
pub(crate) fn delete(state: &mut State, actor: &Actor, target: &Target, options: &Options) -> Result<Value, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    let live = state.get(resource, namespace, name).cloned().ok_or_else(|| Refusal::not_found(resource, name))?;
    preconditions(resource, name, &live, options)?;
    if resource.is("namespaces") && matches!(name.as_str(), "default" | "kube-system" | "kube-public") {
        return Err(Refusal::forbidden(resource, name, "this namespace may not be deleted"));
    }
    let mut object = Value::clone(&live.value);
    hold(&mut object, options.propagation.as_deref());
    let marked = mark(resource, &mut object, options, actor.now);
    if !marked {
        return Ok(Value::clone(&live.value));
    }
    let held = object["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let waits = held || object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() > 0;
    let waits = waits || (resource.is("namespaces") && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty()));
    if waits {
        if object == *live.value {
            return Ok(object);
        }
        if live.value["metadata"]["deletionTimestamp"].is_null()
            && let Some(generation) = object["metadata"]["generation"].as_i64()
        {
            metadata(&mut object)["generation"] = Value::from(generation + 1);
        }
        let stored = settle(state, actor, resource, (namespace.clone(), name.clone()), object);
        return Ok(Value::clone(&stored.value));
    }
    // An object that goes at once is never seen marked, but by those who ask for it in the same breath.
    let last = if resource.is("pods") { object } else { Value::clone(&live.value) };
    let gone = state.remove(actor, resource, (namespace.clone(), name.clone()), last);
    if matches!(resource.plural.as_str(), "pods" | "serviceaccounts") {
        return Ok(Value::clone(&gone.value));
    }
    let mut of = details(name, &resource.group, &resource.plural);
    of["uid"] = live.value["metadata"]["uid"].clone();
    Ok(json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": of}))
}

fn preconditions(resource: &Resource, name: &str, live: &Arc<Stored>, options: &Options) -> Result<(), Refusal> {
    let pairs = [
        ("UID", &options.uid, "uid", "The object might have been deleted and then recreated"),
        ("ResourceVersion", &options.version, "resourceVersion", "The object might have been modified"),
    ];
    for (what, asked, field, hint) in pairs {
        if let Some(asked) = asked
            && asked != live.meta(field)
        {
            let is = live.meta(field);
            let why = format!("the {what} in the precondition ({asked}) does not match the {what} in record ({is}). {hint}");
            return Err(Refusal::conflict_of_kind(resource, name, &why));
        }
    }
    Ok(())
}

/// Propagation that must end before the object may go is a finalizer of the garbage collector's.
fn hold(object: &mut Value, propagation: Option<&str>) {
    let own = match propagation {
        Some("Foreground") => Some("foregroundDeletion"),
        Some("Orphan") => Some("orphan"),
        _ => None,
    };
    let Some(own) = own else { return };
    let meta = metadata(object);
    if !meta["finalizers"].is_array() {
        meta["finalizers"] = json!([]);
    }
    if let Some(all) = meta["finalizers"].as_array_mut()
        && !all.iter().any(|f| f == own)
    {
        all.push(Value::from(own));
    }
}

/// Writes the time of the deletion. Whether there was anything to do: what is going already is only ever hastened.
fn mark(resource: &Resource, object: &mut Value, options: &Options, now: Timestamp) -> bool {
    let grace = if resource.is("pods") { pods_grace(object, options.grace) } else { 0 };
    if resource.is("namespaces") {
        object["status"]["phase"] = Value::from("Terminating");
    }
    let meta = metadata(object);
    let at = |seconds: i64| written(now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now));
    if meta["deletionTimestamp"].is_null() {
        meta["deletionTimestamp"] = Value::from(at(grace));
        if !resource.is("namespaces") {
            meta["deletionGracePeriodSeconds"] = Value::from(grace);
        }
        return true;
    }
    if !resource.is("pods") {
        return true;
    }
    let given = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or_default();
    if given > 0 && (options.grace.is_none() || grace >= given) {
        return false;
    }
    let began = meta["deletionTimestamp"].as_str().and_then(|t| t.parse::<Timestamp>().ok()).unwrap_or(now);
    let until = began.checked_add(SignedDuration::from_secs(grace - given)).unwrap_or(now);
    meta["deletionTimestamp"] = Value::from(written(until));
    meta["deletionGracePeriodSeconds"] = Value::from(grace);
    true
}

/// What never ran or has ended needs no time.
fn pods_grace(pod: &Value, asked: Option<i64>) -> i64 {
    let unplaced = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    let over = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if unplaced || over {
        return 0;
    }
    asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()).unwrap_or(30).max(0)
}
