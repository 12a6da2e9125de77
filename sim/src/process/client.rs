//! A process's Kubernetes client: the real one, over a transport in memory, with the retries that the real one has by default.

use http::{Request, Response, StatusCode};
use kube::client::Body;
use std::task::{Context, Poll};
use std::time::Duration;
use tower::{BoxError, Service};

/// As kube's `RetryPolicy::server_retry`: 429, 503 and 504 are asked again, from 5 ms on, doubling, at most 15 times. Without its
/// jitter: a simulation must replay.
#[derive(Clone, Debug)]
pub struct Retrying<S>(S);

const TRIES: u32 = 15;

impl<S> Retrying<S> {
    /// Repeats what `inner` refuses for now.
    pub fn new(inner: S) -> Self {
        Retrying(inner)
    }
}

impl<S, B> Service<Request<Body>> for Retrying<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<B>;
    type Error = BoxError;
    type Future = futures::future::BoxFuture<'static, Result<Response<B>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            for n in 0..TRIES {
                let Some(copy) = body.try_clone() else { break };
                let answer = inner.call(Request::from_parts(parts.clone(), copy)).await?;
                let busy = matches!(
                    answer.status(),
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT
                );
                if !busy {
                    return Ok(answer);
                }
                tokio::time::sleep(Duration::from_millis(5 << n)).await;
            }
            inner.call(Request::from_parts(parts, body)).await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_is_asked_again_and_a_no_is_a_no() {
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        let server = tower::service_fn(move |request: Request<Body>| {
            let n = count.fetch_add(1, Ordering::SeqCst);
            let busy = request.uri().path() == "/busy" && n < 3;
            let code = if busy { 429 } else { 409 };
            async move { Ok::<_, BoxError>(Response::builder().status(code).body(()).expect("an answer")) }
        });
        let ask = |path: &str| Request::builder().uri(path).body(Body::from(b"{}".to_vec())).expect("a request");
        let answer = Retrying::new(server).call(ask("/busy")).await.expect("an answer");
        assert_eq!((answer.status().as_u16(), asked.load(Ordering::SeqCst)), (409, 4));
    }
}
