//! The server as a `tower` service: what `kube::Client` sends goes in, what the API server says comes out.

use super::requests::{Said, handle, said_no};
use super::store::Change;
use super::{FakeKube, Write};
use crate::signal::Receiver;
use bytes::Bytes;
use futures::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::client::Body;
use serde_json::Value;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower::Service;

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, Infallible>;

/// Chooses the changes that a watch does not tell of.
pub type Hide = Arc<dyn Fn(&Hidden<'_>) -> bool + Send + Sync>;

/// What one client can see of the server. A fault layer puts it into a request's extensions; without it everything is seen.
#[derive(Clone, Default)]
pub struct Sight {
    /// Lists and watches show nothing newer than this revision, which may move on: an API server that lags behind. Reads of one object
    /// and writes are never stale, as in Kubernetes.
    pub horizon: Option<Receiver<u64>>,
    /// Watches do not tell of writes that this holds for: as if the connection had been lost and the state had moved on.
    pub hide: Option<Hide>,
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

/// The numbers of these writes.
pub(crate) fn numbers(writes: &[Write]) -> Option<Wrote> {
    Some(Wrote { first: writes.first()?.number, last: writes.last()?.number })
}
