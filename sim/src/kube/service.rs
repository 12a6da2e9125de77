//! The server as a `tower` service: what `kube::Client` sends goes in, what the API server says comes out.

use super::path::{Query, Route, Target, route};
use super::refusal::Refusal;
use super::store::{Actor, Change, State, Stored};
use super::watch::Watch;
use super::write::{Proposal, create, replace};
use super::{FakeKube, Write, apply, delete, patch, pods, read, shape};
use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch::Receiver;
use tower::Service;

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// What one client can see of the server. A fault layer puts it into a request's extensions; without it everything is seen.
#[derive(Clone, Default)]
pub struct Sight {
    /// Lists and watches show nothing newer than this revision, which may move on: an API server that lags behind. Reads of one object
    /// and writes are never stale, as in Kubernetes.
    pub horizon: Option<Receiver<u64>>,
    /// Watches do not tell of writes that this holds for: as if the connection had been lost and the state had moved on.
    pub hide: Option<Arc<dyn Fn(&Hidden<'_>) -> bool + Send + Sync>>,
}

impl std::fmt::Debug for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sight").field("horizon", &self.horizon).finish_non_exhaustive()
    }
}

/// A change that a watch is about to tell.
#[derive(Debug)]
pub struct Hidden<'a> {
    /// The plural, such as `gpujobs`.
    pub resource: &'a str,
    /// Empty for cluster-scoped objects.
    pub namespace: &'a str,
    /// Of the object.
    pub name: &'a str,
    /// That it made.
    pub revision: u64,
    /// Whether the object is gone.
    pub deleted: bool,
    /// After it.
    pub object: &'a Value,
}

impl Sight {
    pub(crate) fn horizon(&self) -> u64 {
        self.horizon.as_ref().map_or(u64::MAX, |h| *h.borrow())
    }

    pub(crate) fn hides(&self, change: &Change) -> bool {
        let Some(hide) = &self.hide else { return false };
        hide(&Hidden {
            resource: &change.resource.plural,
            namespace: &change.key.0,
            name: &change.key.1,
            revision: change.revision,
            deleted: change.deleted,
            object: &change.after.value,
        })
    }
}

/// In an answer's extensions: the numbers of the writes that the request made. Absent: it wrote nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wrote {
    /// The first.
    pub first: u64,
    /// The last; mostly the same.
    pub last: u64,
}

/// The way to a [`FakeKube`].
#[derive(Clone, Debug)]
pub struct KubeService(pub(crate) FakeKube);

impl Service<Request<Body>> for KubeService {
    type Response = Response<AnswerBody>;
    type Error = kube::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let kube = self.0.clone();
        Box::pin(async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            Ok(answer(&kube, &head, &body))
        })
    }
}

/// What is sent back, before it is bytes.
enum Said {
    Text(u16, Bytes, &'static str),
    Stream(Box<Watch>),
}

fn said(code: u16, value: &Value) -> Said {
    Said::Text(code, Bytes::from(value.to_string()), "application/json")
}

fn answer(kube: &FakeKube, head: &http::request::Parts, body: &[u8]) -> Response<AnswerBody> {
    let (said, wrote) = kube.change(|state| handle(kube, state, head, body));
    let said = said.unwrap_or_else(|refusal| said_no(&refusal));
    let (code, kind, body) = match said {
        Said::Text(code, text, kind) => (code, kind, Full::new(text).boxed_unsync()),
        Said::Stream(watch) => {
            let lines = stream::unfold(watch, |mut watch| async move { watch.next().await.map(|l| (Ok(Frame::data(l)), watch)) });
            (200, "application/json", StreamBody::new(lines).boxed_unsync())
        }
    };
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    if let Some(wrote) = wrote {
        answer.extensions_mut().insert(wrote);
    }
    answer
}

fn said_no(refusal: &Refusal) -> Said {
    said(refusal.code, &refusal.status())
}

fn handle(kube: &FakeKube, state: &mut State, head: &http::request::Parts, body: &[u8]) -> Result<Said, Refusal> {
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
        let cause = super::refusal::Cause::invalid(
            "metadata.resourceVersion",
            if resource.schema().is_some() { "0" } else { "\"\"" },
            "must be specified for an update",
        );
        return Err(Refusal::invalid(resource, &target.name, &[cause]));
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
    let mut object = live.value.clone();
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
        let causes = [super::refusal::Cause::required("fieldManager", "is required for apply patch")];
        let mut refusal = Refusal::invalid(resource, "", &causes);
        refusal.message = "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch".to_owned();
        refusal.details["group"] = json!("meta.k8s.io");
        refusal.details["kind"] = json!("PatchOptions");
        return Err(refusal);
    }
    let there = state.get(resource, namespace, name).cloned();
    let empty = json!({});
    let before = there.as_ref().map_or(&empty, |s| &s.value);
    let (version, uid) = (&value["metadata"]["resourceVersion"], &value["metadata"]["uid"]);
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
    let made = apply::apply(resource, before, value, actor, query.is_true("force"))?;
    let mut object = made.object;
    // What the request says of identity and version is checked as in any update.
    if let Some(meta) = value["metadata"].as_object() {
        for (field, said) in meta.iter().filter(|(f, _)| matches!(f.as_str(), "name" | "namespace" | "uid" | "resourceVersion")) {
            super::store::metadata(&mut object)[field] = said.clone();
        }
    }
    for (field, said) in [("apiVersion", &value["apiVersion"]), ("kind", &value["kind"])] {
        object[field] = said.clone();
    }
    let proposal = Proposal { owners: Some(made.owners), ..proposal(object, query) };
    match there {
        Some(live) => replace(state, actor, target, &live, proposal).map(|s| told(200, &s)),
        None if version.is_string() => Err(Refusal::not_found(resource, name)),
        None => create(state, actor, target, proposal).map(|s| told(201, &s)),
    }
}

fn deleted_all(state: &mut State, actor: &Actor, target: &Target, query: &Query, options: &delete::Options) -> Result<Said, Refusal> {
    let Target { resource, namespace, .. } = target;
    if resource.is("namespaces") || (resource.namespaced && namespace.is_empty()) {
        return Err(Refusal::method("deletecollection"));
    }
    let selector = super::selectors::Selector::of(resource, query)?;
    let chosen = state.of(resource).iter().filter(|(key, o)| key.0 == *namespace && selector.matches(&o.value));
    let names: Vec<(String, Value)> = chosen.map(|(key, o)| (key.1.clone(), o.value.clone())).collect();
    let mut gone = vec![];
    for (name, object) in names {
        delete::delete(state, actor, &Target { name, ..target.clone() }, options)?;
        gone.push(object);
    }
    let revision = state.revision.to_string();
    let list = json!({"kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(), "metadata": {"resourceVersion": revision}, "items": gone});
    Ok(said(200, &list))
}

/// The numbers of these writes.
pub(crate) fn numbers(writes: &[Write]) -> Option<Wrote> {
    Some(Wrote { first: writes.first()?.number, last: writes.last()?.number })
}
