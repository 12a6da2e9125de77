//! `/healthz`, `/readyz`, `/metrics`.

use crate::context::Ctx;
use crate::metrics::Gauge;
use gpujob_crds::conditions;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What is served before and after the caches are filled.
#[derive(Debug, Default)]
pub struct Readiness {
    ready: AtomicBool,
    missing: std::sync::Mutex<String>,
}

impl Readiness {
    /// Says what is still missing; a person reads it at `/readyz`.
    pub fn waiting_for(&self, what: &str) {
        *self.missing.lock().expect("no panic holds this lock") = what.to_owned();
    }

    /// Everything is there.
    pub fn set_ready(&self) {
        self.ready.store(true, Ordering::Relaxed);
    }
}

/// Serves until `shutdown`.
pub async fn serve(listener: TcpListener, readiness: Arc<Readiness>, ctx: Arc<std::sync::OnceLock<Arc<Ctx>>>, shutdown: CancellationToken) {
    loop {
        let stream = tokio::select! {
            () = shutdown.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => { tracing::debug!(%error, "accept"); continue }
            }
        };
        let (readiness, ctx) = (readiness.clone(), ctx.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer(&request, &readiness, ctx.get().map(AsRef::as_ref));
                async move { Ok::<_, std::convert::Infallible>(answer) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer<B>(request: &Request<B>, readiness: &Readiness, ctx: Option<&Ctx>) -> Response<Full<Bytes>> {
    let text = |status: StatusCode, kind: &'static str, body: String| {
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
        response
    };
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/healthz") => text(StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET, "/readyz") if readiness.ready.load(Ordering::Relaxed) => text(StatusCode::OK, "text/plain", "ok\n".into()),
        (&Method::GET, "/readyz") => {
            let missing = readiness.missing.lock().expect("no panic holds this lock").clone();
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", format!("waiting for {missing}\n"))
        }
        (&Method::GET, "/metrics") => match ctx {
            Some(ctx) => text(
                StatusCode::OK,
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                ctx.metrics.render(&gauges(ctx), &ctx.requests),
            ),
            None => text(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "starting\n".into()),
        },
        _ => text(StatusCode::NOT_FOUND, "text/plain", "there are /healthz, /readyz and /metrics\n".into()),
    }
}

#[allow(clippy::cast_precision_loss)]
fn gauges(ctx: &Ctx) -> Vec<Gauge> {
    let (mut nodes, mut price): (BTreeMap<String, f64>, f64) = (BTreeMap::new(), 0.0);
    for node in ctx.stores.nodes.state() {
        let ready = node.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, conditions::node::READY));
        let state = if node.metadata.deletion_timestamp.is_some() {
            "terminating"
        } else if ready {
            "ready"
        } else {
            "starting"
        };
        *nodes.entry(format!("state=\"{state}\"")).or_default() += 1.0;
        price += node.status.as_ref().and_then(|s| s.instance.as_ref()).map_or(0.0, |i| i.price_per_hour.dollars());
    }
    let mut jobs: BTreeMap<String, f64> = BTreeMap::new();
    for job in ctx.stores.jobs.state() {
        let state = job.status.as_ref().and_then(|s| s.state.as_deref()).unwrap_or("New").to_owned();
        *jobs.entry(format!("state=\"{state}\"")).or_default() += 1.0;
    }
    vec![
        ("gpujob_leader", "Whether this replica leads.", vec![(String::new(), f64::from(u8::from(ctx.leader.is_leader())))]),
        ("gpujob_nodes", "GpuNodes by state.", nodes.into_iter().collect()),
        ("gpujob_jobs", "GpuJobs by state.", jobs.into_iter().collect()),
        ("gpujob_cost_dollars_per_hour", "US dollars per hour of all instances.", vec![(String::new(), price)]),
    ]
}
