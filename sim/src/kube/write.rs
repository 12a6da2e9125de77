//! Making and changing objects: what every write passes through, whatever its verb.

use super::builtin;
use super::managed::{self, Entry};
use super::path::Target;
use super::refusal::{Cause, Refusal};
use super::resource::{Resource, Rules};
use super::store::{Actor, Key, State, Stored, metadata};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::Arc;

/// A write as the request asks for it.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) object: Value,
    /// `fieldValidation=Strict`: unknown fields refuse the write instead of being dropped.
    pub(crate) strict: bool,
    /// Who owns what, when it is an apply that has worked it out.
    pub(crate) owners: Option<Vec<Entry>>,
}

/// As the API writes times.
pub(crate) fn written(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Makes an object.
pub(crate) fn create(state: &mut State, actor: &Actor, target: &Target, proposal: Proposal) -> Result<Arc<Stored>, Refusal> {
    let Target { resource, namespace, .. } = target;
    let Proposal { mut object, strict, owners } = proposal;
    identify(target, &mut object)?;
    if resource.namespaced {
        open_namespace(state, resource, namespace, object["metadata"]["name"].as_str().unwrap_or_default())?;
    }
    if object["metadata"]["resourceVersion"].as_str().is_some_and(|v| !v.is_empty()) {
        return Err(Refusal::new(500, "InternalError", "resourceVersion should not be set on objects to be created"));
    }
    let name = name(state, resource, &mut object)?;
    let key: Key = (namespace.clone(), name);
    if state.of(resource).contains_key(&key) {
        return Err(Refusal::already_exists(resource, &key.1));
    }
    let meta = metadata(&mut object);
    if let Some(map) = meta.as_object_mut() {
        map.retain(|name, value| {
            !value.is_null()
                && !matches!(
                    name.as_str(),
                    "deletionTimestamp" | "deletionGracePeriodSeconds" | "selfLink" | "managedFields" | "generation"
                )
        });
    }
    meta["uid"] = Value::from(state.uid(resource, &key));
    meta["creationTimestamp"] = Value::from(written(actor.now));
    if resource.namespaced {
        meta["namespace"] = Value::from(key.0.clone());
    }
    if resource.schema().is_some() || resource.is("pods") {
        meta["generation"] = Value::from(1);
    }
    if resource.status
        && resource.schema().is_some()
        && let Some(map) = object.as_object_mut()
    {
        map.shift_remove("status");
    }
    let mut object = well_formed(resource, object, None, strict)?;
    builtin::created(state, resource, &mut object)?;
    let owners = owners.unwrap_or_else(|| managed::updated(vec![], resource, &json!({}), &object, actor));
    managed::write(&mut object, owners, &[], &written(actor.now));
    let stored = state.put(actor, resource, key.clone(), object);
    if resource.is("namespaces") && !actor.dry {
        builtin::default_account(state, &key.1, actor.now);
    }
    Ok(stored)
}

/// Changes an object that is there. Nothing is written when nothing changes.
pub(crate) fn replace(
    state: &mut State,
    actor: &Actor,
    target: &Target,
    live: &Arc<Stored>,
    proposal: Proposal,
) -> Result<Arc<Stored>, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    let Proposal { mut object, strict, owners } = proposal;
    identify(target, &mut object)?;
    let was = &*live.value;
    let meta = metadata(&mut object);
    let (asked, is) = (meta["uid"].as_str().unwrap_or_default(), live.meta("uid"));
    if actor.verb == "update" && !asked.is_empty() && asked != is {
        let why = format!("Precondition failed: UID in precondition: {asked}, UID in object meta: {is}");
        return Err(Refusal::conflict(resource, name, &why));
    }
    // A custom resource's status endpoint takes nothing of the metadata, and so does not look at it.
    if !(resource.schema().is_some() && actor.subresource == "status") {
        unchanged(resource, name, meta, live)?;
    }
    match meta["resourceVersion"].as_str().unwrap_or_default() {
        "" => {}
        version if version == live.meta("resourceVersion") => {}
        _ => return Err(Refusal::modified(resource, name)),
    }
    for field in
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink", "resourceVersion"]
    {
        keep(meta, &was["metadata"], field);
    }
    let cleared = meta["managedFields"].as_array().is_some_and(|entries| entries.is_empty() || entries == &[json!({})]);
    part(resource, &actor.subresource, &mut object, was);
    let mut object = well_formed(resource, object, Some(was), strict)?;
    builtin::changed(resource, &actor.subresource, &object, was)?;
    finalizers_may_change(resource, name, &object, live)?;

    let before = if cleared { vec![] } else { managed::read(was) };
    let owners = match owners {
        Some(owners) => owners,
        None => managed::updated(before.clone(), resource, was, &object, actor),
    };
    managed::write(&mut object, owners, &before, &written(actor.now));
    if object == *was {
        return Ok(live.clone());
    }
    if bumps_generation(resource, &object, was) {
        let next = was["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        metadata(&mut object)["generation"] = Value::from(next);
    }
    Ok(settle(state, actor, resource, (namespace.clone(), name.clone()), object))
}

/// Identity and deletion are the server's to say.
fn unchanged(resource: &Resource, name: &str, meta: &Value, live: &Stored) -> Result<(), Refusal> {
    for field in ["uid", "deletionTimestamp"] {
        let said = &meta[field];
        if !said.is_null() && *said != live.value["metadata"][field] {
            return Err(Refusal::invalid(
                resource,
                name,
                &[Cause::invalid(&format!("metadata.{field}"), &said.to_string(), "field is immutable")],
            ));
        }
    }
    Ok(())
}

/// Keeps an object, unless it has been waiting to go and nothing holds it any more.
pub(crate) fn settle(state: &mut State, actor: &Actor, resource: &'static Resource, key: Key, object: Value) -> Arc<Stored> {
    let meta = &object["metadata"];
    let held = meta["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    let graceful = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or_default() > 0;
    let content = resource.is("namespaces") && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    if !meta["deletionTimestamp"].is_null() && !held && !graceful && !content {
        return state.remove(actor, resource, key, object);
    }
    state.put(actor, resource, key, object)
}

/// Checks what an object says it is against where it was sent, and fills in what it leaves out.
fn identify(target: &Target, object: &mut Value) -> Result<(), Refusal> {
    let Target { resource, namespace, name, .. } = target;
    if !object.is_object() {
        return Err(Refusal::bad_request("the body of the request is no object"));
    }
    let (version, kind) = (resource.api_version(), resource.kind.clone());
    let says = |field: &str| object[field].as_str().unwrap_or_default().to_owned();
    let (said_version, said_kind) = (says("apiVersion"), says("kind"));
    if !said_version.is_empty() && said_version != version {
        return Err(Refusal::bad_request(format!(
            "the API version in the data ({said_version}) does not match the expected API version ({version})"
        )));
    }
    if !said_kind.is_empty() && said_kind != kind {
        return Err(Refusal::bad_request(format!(
            "{said_kind} in version {:?} cannot be handled as a {kind}: no kind {said_kind:?}",
            resource.version
        )));
    }
    let meta = metadata(object);
    if let Some(map) = meta.as_object_mut() {
        // Metadata is typed for every kind: what is empty is not there.
        let empty =
            |v: &Value| v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v.as_object().is_some_and(serde_json::Map::is_empty);
        map.retain(|name, value| name == "managedFields" || !empty(value));
    }
    let said = meta["namespace"].as_str().unwrap_or_default();
    if !said.is_empty() && said != namespace {
        return Err(Refusal::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
    }
    if resource.namespaced {
        meta["namespace"] = Value::from(namespace.clone());
    }
    let said = meta["name"].as_str().unwrap_or_default();
    match name.as_str() {
        "" => {}
        asked if said.is_empty() => meta["name"] = Value::from(asked),
        asked if asked == said => {}
        asked => {
            return Err(Refusal::bad_request(format!("the name of the object ({said}) does not match the name on the URL ({asked})")));
        }
    }
    // The order that the server's own objects have; lists of built-in kinds rely on it.
    if let Some(map) = object.as_object_mut() {
        map.insert("apiVersion".into(), version.into());
        map.insert("kind".into(), kind.into());
    }
    Ok(())
}

fn open_namespace(state: &State, resource: &Resource, namespace: &str, name: &str) -> Result<(), Refusal> {
    let namespaces = super::resource::named("namespaces").expect("namespaces are served");
    let Some(there) = state.get(namespaces, "", namespace) else { return Err(Refusal::not_found(namespaces, namespace)) };
    if !there.deleting() {
        return Ok(());
    }
    let why = format!("unable to create new content in namespace {namespace} because it is being terminated");
    let mut refusal = Refusal::forbidden(resource, name, &why);
    let cause = json!({"reason": "NamespaceTerminating", "message": format!("namespace {namespace} is being terminated"), "field": "metadata.namespace"});
    refusal.details["causes"] = json!([cause]);
    Err(refusal)
}

fn name(state: &mut State, resource: &Resource, object: &mut Value) -> Result<String, Refusal> {
    let meta = metadata(object);
    let name = match (meta["name"].as_str().unwrap_or_default(), meta["generateName"].as_str().unwrap_or_default()) {
        ("", "") => {
            let cause = Cause::required("metadata.name", "name or generateName is required");
            return Err(Refusal::invalid(resource, "", &[cause]));
        }
        ("", prefix) => format!("{prefix}{}", state.suffix(prefix)),
        (name, _) => name.to_owned(),
    };
    let labels = resource.is("namespaces");
    let good = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    if name.len() > 253 || !(if labels { good(&name) } else { name.split('.').all(good) }) {
        let why = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
        return Err(Refusal::invalid(resource, &name, &[Cause::invalid("metadata.name", &format!("{name:?}"), why)]));
    }
    meta["name"] = Value::from(name.clone());
    Ok(name)
}

fn keep(to: &mut Value, from: &Value, field: &str) {
    match from.get(field) {
        Some(value) => to[field] = value.clone(),
        None => {
            if let Some(map) = to.as_object_mut() {
                map.shift_remove(field);
            }
        }
    }
}

/// Each endpoint changes its own part of an object: the rest stays as it was.
fn part(resource: &Resource, subresource: &str, object: &mut Value, was: &Value) {
    if subresource == "status" {
        if resource.schema().is_some() {
            let mut whole = was.clone();
            keep(&mut whole, object, "status");
            *object = whole;
        } else {
            keep(object, was, "spec");
            if resource.is("pods") {
                keep(&mut object["metadata"], &was["metadata"], "ownerReferences");
            }
        }
    } else if resource.status {
        keep(object, was, "status");
        if resource.is("namespaces") {
            keep(object, was, "spec");
        }
    }
}

/// Brings an object into the form in which it is kept, and judges it.
fn well_formed(resource: &Resource, mut object: Value, was: Option<&Value>, strict: bool) -> Result<Value, Refusal> {
    let unreadable = |why: String| {
        Refusal::bad_request(format!("{} in version {:?} cannot be handled as a {}: {why}", resource.kind, resource.version, resource.kind))
    };
    match &resource.rules {
        Rules::BuiltIn(typed) => {
            if let Some(time) = builtin::crooked_time(&object) {
                return Err(unreadable(format!("parsing time {time:?} as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse it")));
            }
            typed(object).map_err(|e| unreadable(e.to_string()))
        }
        Rules::Custom(schema) => {
            let dropped = schema.prune(&mut object);
            if strict && !dropped.is_empty() {
                let told: Vec<String> = dropped.iter().map(|path| format!("unknown field {path:?}")).collect();
                return Err(unreadable(format!("strict decoding error: {}", told.join(", "))));
            }
            schema.default(&mut object);
            if was.is_some_and(|was| was["spec"] == object["spec"] && was["status"] == object["status"]) {
                return Ok(object);
            }
            let causes = schema.judge(&object, was);
            if causes.is_empty() {
                return Ok(object);
            }
            Err(Refusal::invalid(resource, object["metadata"]["name"].as_str().unwrap_or_default(), &causes))
        }
    }
}

fn finalizers_may_change(resource: &Resource, name: &str, object: &Value, live: &Stored) -> Result<(), Refusal> {
    if !live.deleting() {
        return Ok(());
    }
    let list = |object: &Value| object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let old = list(&live.value);
    let new: Vec<String> = list(object).iter().filter(|f| !old.contains(f)).map(Value::to_string).collect();
    if new.is_empty() {
        return Ok(());
    }
    let why = format!("no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}", new.join(", "));
    Err(Refusal::invalid(resource, name, &[Cause::forbidden("metadata.finalizers", &why)]))
}

/// Whether what is wanted has changed.
fn bumps_generation(resource: &Resource, object: &Value, was: &Value) -> bool {
    if was["metadata"]["generation"].is_null() {
        return false;
    }
    let Some(map) = object.as_object() else { return false };
    let other = |name: &&String| !matches!(name.as_str(), "metadata" | "status" | "apiVersion" | "kind");
    let names = was.as_object().into_iter().flat_map(serde_json::Map::keys).chain(map.keys()).filter(other);
    (resource.schema().is_some() || resource.is("pods")) && names.into_iter().any(|name| was.get(name) != object.get(name))
}
