//! Lists and watches whose answer does not begin. A connection that was cut without a word keeps what was sent over it waiting until
//! TCP gives up, a quarter of an hour by Linux's default, and kube's watcher waits with it: its cache stays as it was. Every other call
//! has a limit by [`crate::context::within`].

use http::Request;
use kube::client::Body;
use std::time::Duration;

/// How long an answer may take to begin. A watch's headers come at once; of a list, a page is 500 objects.
const BEGIN: Duration = Duration::from_secs(30);

/// `client`, with a limit on how long an answer takes to begin. How long it goes on is the watch's own affair.
pub(crate) fn limited(client: &kube::Client) -> kube::Client {
    let (namespace, inner) = (client.default_namespace().to_owned(), client.clone());
    let service = tower::service_fn(move |request: Request<Body>| {
        let inner = inner.clone();
        async move {
            match tokio::time::timeout(BEGIN, inner.send(request)).await {
                Ok(answer) => answer.map_err(tower::BoxError::from),
                Err(_) => Err(format!("the API server did not begin to answer within {} s", BEGIN.as_secs()).into()),
            }
        }
    });
    kube::Client::new(service, namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Response;
    use k8s_openapi::api::core::v1::Pod;
    use kube::Api;
    use kube::api::{ListParams, WatchParams};
    use std::convert::Infallible;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn what_never_begins_to_be_answered_has_failed() {
        let silent = tower::service_fn(|_: Request<Body>| async {
            std::future::pending::<()>().await;
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let pods: Api<Pod> = Api::all(limited(&kube::Client::new(silent, "default")));
        let begun = Instant::now();
        let error = pods.list(&ListParams::default()).await.expect_err("nobody answers").to_string();
        assert_eq!(begun.elapsed(), BEGIN, "{error}");
        assert!(pods.watch(&WatchParams::default(), "1").await.is_err());
        assert_eq!(begun.elapsed(), 2 * BEGIN);
    }
}
