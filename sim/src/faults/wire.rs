//! What lies between a process's Kubernetes client and the API server. Every request passes here: it may be late, refused, or
//! obeyed without anybody being told; and once its process is dead, nothing passes any more.

use super::asked::Asked;
use super::director::{AfterWrite, Director, Orders};
use super::watching;
use crate::cloud::Operation;
use crate::kube::Wrote;
use crate::process::line::Line;
use crate::timeline::{Kind, Timeline};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use kube::client::Body;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use tokio::sync::mpsc::UnboundedSender;
use tower::{BoxError, Service};

/// The body of an answer.
pub type AnswerBody = UnsyncBoxBody<Bytes, BoxError>;

/// Is told of every write that lands, at once: before its author is.
pub trait Witness: Send + Sync {
    /// A write of this process has landed at the API server.
    fn wrote(&self, who: &str, number: Option<u64>, wrote: Wrote);
    /// A call of one of our processes has changed the cloud.
    fn called(&self);
    /// This process is about to have the cloud end this instance.
    fn terminates(&self, who: &str, instance: &str);
    /// Something goes wrong now: for a while delays are excused.
    fn disturbed(&self);
}

/// A process has died at a write, and comes back after so many seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Died {
    /// Which.
    pub who: String,
    /// Seconds.
    pub back_in_s: u64,
}

/// What a process is connected by: shared by its client and its providers.
#[derive(Clone)]
pub struct Wire {
    /// The process.
    pub who: String,
    /// Its line.
    pub line: Line,
    /// Who counts and decides.
    pub director: Director,
    /// Where it is written down.
    pub timeline: Timeline,
    /// Who sees it.
    pub witness: Arc<dyn Witness>,
    /// Who starts it again.
    pub died: UnboundedSender<Died>,
    /// Cloud writes that have landed and whose answers are lost on their way.
    pub lost_answers: Arc<Mutex<BTreeSet<Operation>>>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").field("who", &self.who).finish_non_exhaustive()
    }
}

impl Wire {
    /// Notes a fault that strikes this process.
    pub(super) fn fault(&self, what: impl Into<String>) {
        self.timeline.note(&self.who, Kind::Fault, what);
        self.witness.disturbed();
    }

    /// The process ends here and now.
    pub(super) fn die(&self, number: u64, back_in_s: u64) {
        self.fault(format!("is killed: write {number} has landed, its answer never comes"));
        self.line.kill();
        let _ = self.died.send(Died { who: self.who.clone(), back_in_s });
    }

    /// Counts a write that has landed and does to its author what the schedule says. `Err`: the connection breaks.
    pub(super) async fn landed(&self, number: u64, after: AfterWrite) -> Result<(), BoxError> {
        match after {
            AfterWrite::Answer => return Ok(()),
            AfterWrite::Crash { back_in_s } => self.die(number, back_in_s),
            AfterWrite::Hang => self.fault(format!("waits in vain for the answer to write {number}")),
            AfterWrite::Break => {
                self.fault(format!("its connection breaks under write {number}, which has landed"));
                return Err("connection reset by peer".into());
            }
        }
        std::future::pending().await
    }
}

/// A client's transport: the API server behind a [`Wire`].
#[derive(Clone, Debug)]
pub struct Transport<S> {
    inner: S,
    wire: Wire,
}

impl<S> Transport<S> {
    /// `inner` behind `wire`.
    pub fn new(inner: S, wire: Wire) -> Self {
        Transport { inner, wire }
    }
}

impl<S, B> Service<Request<Body>> for Transport<S>
where
    S: Service<Request<Body>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<AnswerBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(carry(self.inner.clone(), self.wire.clone(), request))
    }
}

async fn carry<S, B>(inner: S, wire: Wire, request: Request<Body>) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    use crate::process::line::State;
    let asked = Asked::of(&request);
    wire.timeline.trace(&wire.who, &asked.to_string());
    // The Lease has faults of its own: a process that is killed, stopped or cut off.
    let orders = if asked.resource == "leases" { Orders::default() } else { wire.director.request() };
    let late = match wire.line.state() {
        State::Up => orders.there > std::time::Duration::ZERO,
        // What was sent into a cut line arrives late, or is lost: nobody can tell.
        State::Cut => wire.director.coin(),
        State::Dead => false,
    };
    if late {
        // On its own from here on: it arrives even if its sender has given up.
        let sent = tokio::spawn(async move {
            tokio::time::sleep(orders.there).await;
            deliver(inner, &wire, &asked, orders, request).await
        });
        return sent.await?;
    }
    if wire.line.state() == State::Cut {
        // Lost: its sender waits until it gives up, or until TCP does (Linux `tcp_retries2`: 924 s at least).
        tokio::time::sleep(std::time::Duration::from_secs(924)).await;
        wire.line.passable().await;
        return Err("connection timed out".into());
    }
    deliver(inner, &wire, &asked, orders, request).await
}

async fn deliver<S, B>(
    mut inner: S,
    wire: &Wire,
    asked: &Asked,
    orders: Orders,
    request: Request<Body>,
) -> Result<Response<AnswerBody>, BoxError>
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    wire.line.passable().await;
    if let (Some(code), false) = (orders.refuse, orders.landed) {
        wire.fault(format!("{asked} is answered {code}"));
        return Ok(refusal(code));
    }
    std::future::poll_fn(|cx| inner.poll_ready(cx)).await.map_err(Into::into)?;
    let answer = inner.call(request).await.map_err(Into::into)?;
    // A request that changes nothing is no write.
    if let Some(wrote) = answer.extensions().get::<Wrote>().copied() {
        let counted = asked.counts().then(|| wire.director.write());
        wire.witness.wrote(&wire.who, counted.map(|c| c.0), wrote);
        if let Some((number, after)) = counted {
            wire.landed(number, after).await?;
        }
    } else if asked.is_write() {
        wire.timeline.trace(&wire.who, answer.status().as_str());
    }
    if let Some(code) = orders.refuse {
        wire.fault(format!("{asked} is obeyed and answered {code}"));
        return Ok(refusal(code));
    }
    if !orders.back.is_zero() {
        tokio::time::sleep(orders.back).await;
    }
    wire.line.passable().await;
    let watches = asked.verb == "watch" && answer.status().is_success();
    let body = |b: B| b.map_err(Into::into).boxed_unsync();
    Ok(answer.map(|b| if watches { watching::watching(body(b), wire.clone()) } else { body(b) }))
}

/// As an API server says no.
fn refusal(code: u16) -> Response<AnswerBody> {
    let (reason, message) = match code {
        409 => ("Conflict", "the object has been modified; please apply your changes to the latest version and try again"),
        429 => ("TooManyRequests", "too many requests, please try again later"),
        504 => ("Timeout", "request did not complete within the allotted timeout"),
        _ => ("InternalError", "etcdserver: request timed out"),
    };
    let status = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason, "code": code,
    });
    let body = Full::new(Bytes::from(status.to_string())).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    answer.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
    answer
}
