//! Counts the requests that this process sends to the API server: whoever answers for a cluster wants to know who loads it.

use http::{Method, Request, Response};
use kube::client::Body;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tower::{Layer, Service};

/// Requests by verb, resource and answer. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Requests(Arc<Mutex<BTreeMap<Asked, u64>>>);

/// One row: what was asked and how it was answered. No names, so the rows are few.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// As RBAC says it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`.
    pub verb: &'static str,
    /// The resource, with its subresource: `gpunodes`, `gpunodes/status`.
    pub resource: String,
    /// The HTTP status; 0 when there was no answer.
    pub code: u16,
}

impl Requests {
    /// All rows.
    #[must_use]
    pub fn rows(&self) -> Vec<(Asked, u64)> {
        self.0.lock().expect("no panic holds this lock").iter().map(|(asked, n)| (asked.clone(), *n)).collect()
    }

    fn count(&self, asked: Asked) {
        *self.0.lock().expect("no panic holds this lock").entry(asked).or_default() += 1;
    }
}

/// Verb and resource of a request, as RBAC names them.
fn asked(method: &Method, path: &str, query: &str) -> (&'static str, String) {
    let mut rest = path.trim_matches('/').split('/');
    let known = match rest.next() {
        Some("api") => rest.next().is_some(),
        Some("apis") => rest.next().is_some() && rest.next().is_some(),
        _ => false,
    };
    let rest: Vec<&str> = rest.collect();
    // `namespaces/NAME` before a resource is a place; alone it is the resource itself.
    let rest: &[&str] = match rest.as_slice() {
        ["namespaces", _, "status" | "finalize"] => &rest,
        ["namespaces", _, inner @ ..] if !inner.is_empty() => inner,
        all => all,
    };
    let (resource, named) = match rest {
        _ if !known => ("other".to_owned(), true),
        [] => ("other".to_owned(), true),
        [resource] => ((*resource).to_owned(), false),
        [resource, _] => ((*resource).to_owned(), true),
        [resource, _, subresource, ..] => (format!("{resource}/{subresource}"), true),
    };
    let verb = match *method {
        Method::GET if query.split('&').any(|pair| pair == "watch=true" || pair == "watch=1") => "watch",
        Method::GET if named => "get",
        Method::GET => "list",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if named => "delete",
        Method::DELETE => "deletecollection",
        _ => "other",
    };
    (verb, resource)
}

impl<S> Layer<S> for Requests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, requests: self.clone() }
    }
}

/// The way to the API server, counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    requests: Requests,
}

impl<S, B> Service<Request<Body>> for Counted<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Send,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<B>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (verb, resource) = asked(request.method(), request.uri().path(), request.uri().query().unwrap_or_default());
        let (requests, answer) = (self.requests.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = answer.await;
            requests.count(Asked { verb, resource, code: answer.as_ref().map_or(0, |a| a.status().as_u16()) });
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_named_as_rbac_names_them() {
        let ask = |method: Method, uri: &str| {
            let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
            let (verb, resource) = asked(&method, path, query);
            format!("{verb} {resource}")
        };
        for (method, uri, expected) in [
            (Method::GET, "/apis/gpujob.dev/v1alpha1/gpunodes?watch=true&resourceVersion=1", "watch gpunodes"),
            (Method::GET, "/apis/gpujob.dev/v1alpha1/gpunodes?limit=500", "list gpunodes"),
            (Method::PATCH, "/apis/gpujob.dev/v1alpha1/gpunodes/gn-1/status?", "patch gpunodes/status"),
            (Method::POST, "/api/v1/namespaces/default/pods?", "create pods"),
            (Method::DELETE, "/api/v1/namespaces/default/pods/a", "delete pods"),
            (Method::GET, "/api/v1/namespaces/kube-system", "get namespaces"),
            (Method::GET, "/api/v1/namespaces", "list namespaces"),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/gpujob-system/leases/gpujob-operator", "update leases"),
            (Method::GET, "/version", "get other"),
        ] {
            assert_eq!(ask(method, uri), expected, "{uri}");
        }
    }
}
