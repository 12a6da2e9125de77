//! One provider of one scope behind its buckets.

use super::bucket::Bucket;
use super::jitter;
use crate::metrics::Metrics;
use async_trait::async_trait;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{
    ErrorClass, LaunchCall, Launched, Leftover, Listing, MachineProvider, Notice, NoticeSource, Offer, Prepared, ProviderError, Rates,
    Rendering, Scope, Terminated,
};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;

/// Calls that the provider counts together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Describe,
    Launch,
    Terminate,
    Change,
}

/// See the module.
pub(super) struct Paced {
    inner: Arc<dyn MachineProvider>,
    provider: String,
    metrics: Arc<Metrics>,
    buckets: [Mutex<Bucket>; 4],
    /// The queue of launches. Only its head takes a token: who leaves it has taken none, and those behind move up.
    launches: tokio::sync::Mutex<()>,
}

impl Paced {
    pub(super) fn new(scope: &Scope, inner: Arc<dyn MachineProvider>, metrics: Arc<Metrics>) -> Self {
        let now = Instant::now();
        let Rates { describe, launch, terminate, change } = inner.rates();
        let buckets = [describe, launch, terminate, change].map(|rate| Mutex::new(Bucket::new(rate, now)));
        Paced { inner, provider: scope.provider.clone(), metrics, buckets, launches: tokio::sync::Mutex::default() }
    }

    fn bucket<T>(&self, kind: Kind, with: impl FnOnce(&mut Bucket) -> T) -> T {
        with(&mut self.buckets[kind as usize].lock().expect("no panic holds this lock"))
    }

    /// Waits for a token, then for the call, at most `seconds`. `name` spreads those that had to wait.
    async fn call<T>(
        &self,
        operation: &'static str,
        kind: Kind,
        name: &str,
        seconds: u64,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        self.wait(kind, name).await;
        self.now(operation, kind, seconds, call).await
    }

    async fn wait(&self, kind: Kind, name: &str) {
        let now = Instant::now();
        let (turn, each) = self.bucket(kind, |b| (b.take(now), b.rate().each));
        if turn > now {
            tokio::time::sleep_until(turn + jitter(name, each)).await;
        }
    }

    /// A call whose turn it is.
    async fn now<T>(
        &self,
        operation: &'static str,
        kind: Kind,
        seconds: u64,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let answer = self.within(operation, seconds, call).await;
        if answer.as_ref().is_err_and(|e| e.class == ErrorClass::Throttled) {
            self.bucket(kind, |b| b.slow_down(Instant::now()));
        }
        answer
    }

    /// The call alone, timed and counted.
    async fn within<T>(
        &self,
        operation: &'static str,
        seconds: u64,
        call: impl Future<Output = Result<T, ProviderError>>,
    ) -> Result<T, ProviderError> {
        let timed = self.metrics.provider_call(&self.provider, operation);
        let answer = tokio::time::timeout(Duration::from_secs(seconds), call).await;
        // It may have been heard all the same.
        let silent = |_| Err(ProviderError::new(ErrorClass::Unknown, format!("{operation}: no answer from the provider in {seconds} s")));
        timed.done(answer.unwrap_or_else(silent))
    }
}

#[async_trait]
impl MachineProvider for Paced {
    fn rates(&self) -> Rates {
        self.inner.rates()
    }

    async fn prepare(&self, pool: &GpuPool, cluster: &str) -> Result<Prepared, ProviderError> {
        self.call("prepare", Kind::Change, "", 50, self.inner.prepare(pool, cluster)).await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        self.call("release", Kind::Change, pool_uid, 50, self.inner.release(pool_uid, cluster)).await
    }

    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        self.call("offers", Kind::Describe, "", 45, self.inner.offers(pool, prepared)).await
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        self.inner.render(rendering)
    }

    async fn turn(&self, node: &str) {
        let _head = self.launches.lock().await;
        self.wait(Kind::Launch, node).await;
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        self.now("launch", Kind::Launch, 60, self.inner.launch(call)).await
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        self.call("list", Kind::Describe, "", 30, self.inner.list(cluster)).await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        self.call("terminate", Kind::Terminate, id, 30, self.inner.terminate(id)).await
    }

    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        match source {
            NoticeSource::Poll => self.call("notices", Kind::Describe, "", 5, self.inner.notices(source)).await,
            // A read of a queue waits until something comes: at most 20 s.
            NoticeSource::Queue(_) => self.within("notices", 30, self.inner.notices(source)).await,
        }
    }

    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        self.within("acknowledge", 10, self.inner.acknowledge(source, notices)).await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        self.call("console", Kind::Describe, id, 5, self.inner.console(id)).await
    }

    async fn prefetch(&self, pool: &GpuPool, prepared: &Prepared, image: &str, cluster: &str) -> Result<Option<Prepared>, ProviderError> {
        self.call("prefetch", Kind::Change, image, 30, self.inner.prefetch(pool, prepared, image, cluster)).await
    }

    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        self.call("leftovers", Kind::Describe, "", 60, self.inner.leftovers(cluster)).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        self.call("remove", Kind::Change, &leftover.id, 30, self.inner.remove(leftover)).await
    }
}
