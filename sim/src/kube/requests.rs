//! From a request to its answer: each verb on each endpoint.

use super::path::{Query, Route, Target, route};
use super::refusal::{Cause, Refusal};
use super::selectors::Selector;
use super::service::Sight;
use super::store::{Actor, State, Stored, metadata};
use super::watch::Watch;
use super::write::{Proposal, create, replace};
use super::{FakeKube, apply, delete, patch, pods, read, shape};
use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use std::sync::Arc;

/// What is sent back, before it is bytes.
pub(crate) enum Said {
    Text(u16, Bytes, &'static str),
    Stream(Box<Watch>),
}

fn said(code: u16, value: &Value) -> Said {
    Said::Text(code, Bytes::from(value.to_string()), "application/json")
}

pub(crate) fn said_no(refusal: &Refusal) -> Said {
    said(refusal.code, &refusal.status())
}

/// Answers one request.
pub(crate) fn handle(kube: &FakeKube, state: &mut State, head: &http::request::Parts, body: &[u8]) -> Result<Said, Refusal> {
    let target = match route(head.uri.path())? {
        Route::Discovery(document) => return Ok(said(200, &document)),
        Route::Objects(target) => target,
    };
    let query = Query::parse(head.uri.query().unwrap_or_default());
    let sight = head.extensions.get::<Sight>().cloned().unwrap_or_default();
    if head.method == Method::GET {
        return match (target.name.as_str(), target.subresource.as_str()) {
            ("", _) if query.is_true("watch") => Watch::open(kube, state, target, &query, sight).map(|w| Said::Stream(Box::new(w))),
            ("", _) => read::list(state, &target, &query, sight.horizon()).map(|text| Said::Text(200, text, "application/json")),
            (_, "log") => pods::log(state, &target, &query).map(|text| Said::Text(200, Bytes::from(text), "text/plain")),
            (_, "binding" | "eviction") => Err(Refusal::method("get")),
            _ => read::get(state, &target).map(|text| Said::Text(200, text, "application/json")),
        };
    }
    let value: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(body).map_err(|e| Refusal::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?
    };
    let mut actor = actor(kube, head, &query, &target);
    match (&head.method, target.name.is_empty(), target.subresource.as_str()) {
        (&Method::POST, true, "") | (&Method::POST, false, "binding" | "eviction") => {
            actor.verb = "create";
            posted(state, &actor, &target, &query, value)
        }
        (&Method::PUT, false, "" | "status") => {
            actor.verb = "update";
            put(state, &actor, &target, &query, value)
        }
        (&Method::PATCH, false, "" | "status") => {
            actor.verb = "patch";
            patched(state, actor, &target, &query, head, &value)
        }
        (&Method::DELETE, all, "") => {
            actor.verb = "delete";
            let options = delete::Options::read(&value, &query);
            actor.dry |= options.dry;
            if all {
                deleted_all(state, &actor, &target, &query, &options)
            } else {
                delete::delete(state, &actor, &target, &options).map(|v| said(200, &v))
            }
        }
        (method, ..) => Err(Refusal::method(method.as_str())),
    }
}

fn actor(kube: &FakeKube, head: &http::request::Parts, query: &Query, target: &Target) -> Actor {
    let agent = head.headers.get(http::header::USER_AGENT).and_then(|a| a.to_str().ok()).unwrap_or_default();
    let agent = agent.split('/').next().filter(|a| !a.is_empty()).unwrap_or("unknown");
    Actor {
        verb: "",
        subresource: target.subresource.clone(),
        manager: query.get("fieldManager").unwrap_or(agent).to_owned(),
        now: kube.now(),
        dry: query.get("dryRun").is_some(),
    }
}

fn proposal(object: Value, query: &Query) -> Proposal {
    Proposal { object, strict: query.get("fieldValidation") == Some("Strict"), owners: None }
}

fn posted(state: &mut State, actor: &Actor, target: &Target, query: &Query, value: Value) -> Result<Said, Refusal> {
    match target.subresource.as_str() {
        "binding" => pods::bind(state, actor, target, &value).map(|v| said(201, &v)),
        "eviction" => pods::evict(state, actor, target, &value).map(|v| said(201, &v)),
        _ if target.resource.namespaced && target.namespace.is_empty() => Err(Refusal::method("create")),
        _ => create(state, actor, target, proposal(value, query)).map(|s| told(201, &s)),
    }
}

fn told(code: u16, object: &Stored) -> Said {
    Said::Text(code, object.text(), "application/json")
}

fn live(state: &State, target: &Target) -> Result<Arc<Stored>, Refusal> {
    let there = state.get(target.resource, &target.namespace, &target.name);
    there.cloned().ok_or_else(|| Refusal::not_found(target.resource, &target.name))
}

fn put(state: &mut State, actor: &Actor, target: &Target, query: &Query, value: Value) -> Result<Said, Refusal> {
    let resource = target.resource;
    let version = value["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
    // Kinds that are mostly heartbeats are made by the first.
    let makes = (resource.is("leases") || resource.is("events")) && target.subresource.is_empty();
    let live = match live(state, target) {
        Err(_) if makes && version.is_empty() => return create(state, actor, target, proposal(value, query)).map(|s| told(201, &s)),
        other => other?,
    };
    if version.is_empty() && (resource.schema().is_some() || resource.is("leases")) {
        let cause = Cause::invalid("metadata.resourceVersion", "0", "must be specified for an update");
        let mut refusal = Refusal::invalid(resource, &target.name, &[cause]);
        // Here the server names the resource and not the kind.
        refusal.message = format!(
            "{} {:?} is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update",
            resource.qualified(),
            target.name
        );
        refusal.details["kind"] = Value::from(resource.plural.clone());
        return Err(refusal);
    }
    replace(state, actor, target, &live, proposal(value, query)).map(|s| told(200, &s))
}

fn patched(
    state: &mut State,
    mut actor: Actor,
    target: &Target,
    query: &Query,
    head: &http::request::Parts,
    value: &Value,
) -> Result<Said, Refusal> {
    let resource = target.resource;
    let kind = head.headers.get(http::header::CONTENT_TYPE).and_then(|k| k.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default();
    if matches!(kind, "application/apply-patch+yaml" | "application/apply-patch+json") {
        actor.verb = "apply";
        return applied(state, &actor, target, query, value);
    }
    let live = live(state, target)?;
    let mut object = Value::clone(&live.value);
    match kind {
        "application/merge-patch+json" => patch::merge(&mut object, value)?,
        "application/json-patch+json" => patch::operations(&mut object, value)?,
        "application/strategic-merge-patch+json" if resource.schema().is_none() => {
            patch::strategic(&mut object, value, shape::Shape::root(resource))?;
        }
        other => {
            let served = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";
            let message = format!("the body of the request was in an unknown format - accepted media types include: {served}");
            tracing::debug!(other, "unknown kind of patch");
            return Err(Refusal { details: json!({}), ..Refusal::new(415, "UnsupportedMediaType", message) });
        }
    }
    replace(state, &actor, target, &live, proposal(object, query)).map(|s| told(200, &s))
}

fn applied(state: &mut State, actor: &Actor, target: &Target, query: &Query, value: &Value) -> Result<Said, Refusal> {
    let Target { resource, namespace, name, subresource } = target;
    if query.get("fieldManager").is_none() {
        let causes = [Cause::required("fieldManager", "is required for apply patch")];
        let mut refusal = Refusal::invalid(resource, "", &causes);
        refusal.message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".to_owned();
        refusal.details["group"] = json!("meta.k8s.io");
        refusal.details["kind"] = json!("PatchOptions");
        return Err(refusal);
    }
    let there = state.get(resource, namespace, name).cloned();
    let empty = json!({});
    let before = there.as_ref().map_or(&empty, |s| &*s.value);
    let uid = &value["metadata"]["uid"];
    match &there {
        None if !subresource.is_empty() => return Err(Refusal::not_found(resource, name)),
        None if uid.is_string() => {
            let why = format!(
                "uid mismatch: the provided object specified uid {}, and no existing object was found",
                uid.as_str().unwrap_or_default()
            );
            return Err(Refusal::conflict(resource, name, &why));
        }
        _ => {}
    }
    if let Some(schema) = resource.schema()
        && let Some(unknown) = schema.prune(&mut value.clone()).first()
    {
        let (version, kind) = (resource.api_version(), &resource.kind);
        let said = value["metadata"]["namespace"].as_str().unwrap_or_default();
        let message = format!(
            "failed to create typed patch object ({said}/{name}; {version}, Kind={kind}): .{unknown}: field not declared in schema"
        );
        return Err(Refusal::new(500, "", message));
    }
    let made = apply::apply(resource, before, value, actor, query.is_true("force"))?;
    let mut object = made.object;
    // What the request says of identity and version is checked as in any update.
    if let Some(meta) = value["metadata"].as_object() {
        for (field, said) in meta.iter().filter(|(f, _)| matches!(f.as_str(), "name" | "namespace" | "uid" | "resourceVersion")) {
            // What is made has no version to compare with.
            if there.is_none() && field == "resourceVersion" {
                continue;
            }
            metadata(&mut object)[field] = said.clone();
        }
    }
    if there.is_none()
        && let Some(meta) = metadata(&mut object).as_object_mut()
    {
        meta.shift_remove("resourceVersion");
    }
    for (field, said) in [("apiVersion", &value["apiVersion"]), ("kind", &value["kind"])] {
        object[field] = said.clone();
    }
    let proposal = Proposal { owners: Some(made.owners), ..proposal(object, query) };
    match there {
        Some(live) => replace(state, actor, target, &live, proposal).map(|s| told(200, &s)),
        None => create(state, actor, target, proposal).map(|s| told(201, &s)),
    }
}

fn deleted_all(state: &mut State, actor: &Actor, target: &Target, query: &Query, options: &delete::Options) -> Result<Said, Refusal> {
    let Target { resource, namespace, .. } = target;
    if resource.is("namespaces") || (resource.namespaced && namespace.is_empty()) {
        return Err(Refusal::method("deletecollection"));
    }
    let selector = Selector::of(resource, query)?;
    let chosen = state.of(resource).iter().filter(|(key, o)| key.0 == *namespace && selector.matches(&o.value));
    let names: Vec<(String, Value)> = chosen.map(|(key, o)| (key.1.clone(), Value::clone(&o.value))).collect();
    let mut gone = vec![];
    for (name, object) in names {
        delete::delete(state, actor, &Target { name, ..target.clone() }, options)?;
        gone.push(object);
    }
    let revision = state.revision.to_string();
    let list = json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": {"resourceVersion": revision}, "items": gone});
    Ok(said(200, &list))
}
