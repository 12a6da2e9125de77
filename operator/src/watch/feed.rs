//! One kind's way from the API server to its cache, its index, and whoever is to look at it.

use super::stores::{Indexes, place};
use crate::index::Index;
use futures::{Stream, StreamExt};
use kube::Api;
use kube::runtime::reflector::{self, Store};
use kube::runtime::{WatchStreamExt, watcher};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// One kind's way from the API server to its cache and its index.
pub(super) struct Reflector<K> {
    pub(super) api: Api<K>,
    pub(super) config: watcher::Config,
    pub(super) trim: fn(&mut K),
    pub(super) keys: fn(&K) -> Vec<String>,
    pub(super) index: fn(&Indexes) -> &Index,
}

pub(super) trait Kept:
    kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static
{
}
impl<K> Kept for K where K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + Sync + 'static {}

impl<K: Kept> Reflector<K> {
    pub(super) fn start(
        self,
        indexes: &Arc<Indexes>,
        shutdown: &CancellationToken,
        announce: impl Fn(&K, bool) + Send + 'static,
    ) -> Store<K> {
        let (store, writer) = reflector::store();
        let events = watcher(self.api, self.config).backoff(Backoff::default()).modify(self.trim).reflect(writer);
        let (indexes, cache) = (indexes.clone(), store.clone());
        let note = move |event: &watcher::Event<K>| {
            let index = (self.index)(&indexes);
            match event {
                watcher::Event::Apply(object) => index.set(place(object), (self.keys)(object)),
                // Not in the cache before all of them are.
                watcher::Event::InitApply(object) => index.add(place(object), (self.keys)(object)),
                watcher::Event::Delete(object) => index.remove(&place(object)),
                watcher::Event::InitDone => index.replace(cache.state().iter().map(|object| (place(object.as_ref()), (self.keys)(object)))),
                watcher::Event::Init => {}
            }
        };
        tokio::spawn(feed(events, shutdown.clone(), note, announce));
        store
    }
}

/// Pauses between two tries of a watch: client-go's 0.8 s to 30 s, doubling, without its jitter. Two replicas are no crowd, and a
/// simulation must replay.
#[derive(Debug, Default)]
struct Backoff(u32);

impl Iterator for Backoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let pause = Duration::from_millis(800 << self.0.min(6)).min(Duration::from_secs(30));
        self.0 += 1;
        Some(pause)
    }
}

impl kube::runtime::utils::Backoff for Backoff {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

pub(super) async fn feed<K: kube::Resource<DynamicType = ()>>(
    events: impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send + 'static,
    shutdown: CancellationToken,
    note: impl Fn(&watcher::Event<K>),
    announce: impl Fn(&K, bool),
) {
    let mut events = Box::pin(events);
    let mut trouble = Trouble::default();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            event = events.next() => {
                // Announced after the cache has it, as `reflect` comes first in the stream, and after the index has.
                if let Some(Ok(event)) = &event {
                    note(event);
                    trouble.over(&K::kind(&()));
                }
                match event {
                    Some(Ok(watcher::Event::Apply(object) | watcher::Event::InitApply(object))) => announce(&object, false),
                    Some(Ok(watcher::Event::Delete(object))) => announce(&object, true),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => trouble.with(&K::kind(&()), &error.to_string()),
                    None => return,
                }
            }
        }
    }
}

/// What a watch last complained of: said when it changes and each minute, not with every try.
#[derive(Debug, Default)]
pub(super) struct Trouble(Option<(String, tokio::time::Instant)>);

impl Trouble {
    pub(super) fn with(&mut self, kind: &str, error: &str) {
        let now = tokio::time::Instant::now();
        if self.is_news(error, now) {
            tracing::warn!(kind, error, "watch: what is known may be old until it works again");
            self.0 = Some((error.to_owned(), now));
        }
    }

    pub(super) fn is_news(&self, error: &str, now: tokio::time::Instant) -> bool {
        self.0.as_ref().is_none_or(|(said, at)| said != error || now.duration_since(*at) >= std::time::Duration::from_secs(60))
    }

    pub(super) fn over(&mut self, kind: &str) {
        if self.0.take().is_some() {
            tracing::info!(kind, "watch: it works again");
        }
    }
}
