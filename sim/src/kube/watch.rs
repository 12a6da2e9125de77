//! Watches: each reads the one history of changes from where it is, and waits for more.

use super::FakeKube;
use super::path::{Query, Target};
use super::read::revision;
use super::refusal::Refusal;
use super::selectors::Selector;
use super::service::Sight;
use super::store::{Change, State, Stored};
use crate::signal::Receiver;
use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};
use std::future::pending;
use std::time::Duration;
use tokio::time::Instant;

/// How often a quiet watch is told how far it has seen.
const BOOKMARKS: Duration = Duration::from_secs(60);

/// What wakes watches up: the newest revision, and what became of all that were open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tick {
    pub(crate) revision: u64,
    /// Watches opened before this count ended with [`Tick::expired`] or without a word.
    pub(crate) ended: u64,
    pub(crate) expired: bool,
}

/// An open watch.
pub(crate) struct Watch {
    kube: FakeKube,
    target: Target,
    selector: Selector,
    seen: u64,
    /// What is sent before anything else.
    first: Option<Bytes>,
    /// Nothing more after `first`.
    over: bool,
    bookmarks: bool,
    bookmark: Instant,
    deadline: Option<Instant>,
    ticks: Receiver<Tick>,
    ended: u64,
    sight: Sight,
}

impl Watch {
    pub(crate) fn open(kube: &FakeKube, state: &State, target: Target, query: &Query, sight: Sight) -> Result<Self, Refusal> {
        let selector = Selector::of(target.resource, query)?;
        let asked = revision(query)?;
        let ticks = kube.ticks();
        let ended = ticks.borrow().ended;
        let now = state.revision.min(sight.horizon());
        let seconds = query.get("timeoutSeconds").and_then(|t| t.parse::<u64>().ok());
        let mut watch = Watch {
            kube: kube.clone(),
            target,
            selector,
            seen: asked,
            first: None,
            over: false,
            bookmarks: query.is_true("allowWatchBookmarks"),
            bookmark: Instant::now() + BOOKMARKS,
            deadline: seconds.map(|s| Instant::now() + Duration::from_secs(s)),
            ticks,
            ended,
            sight,
        };
        if asked == 0 || query.is_true("sendInitialEvents") {
            watch.seen = now;
            let mut lines = BytesMut::new();
            for (key, object) in &state.at(watch.target.resource, now) {
                if watch.inside(&key.0) && watch.selector.matches(&object.value) {
                    line(&mut lines, "ADDED", &object.text());
                }
            }
            if query.is_true("sendInitialEvents") {
                watch.tell(&mut lines, true);
            }
            watch.first = Some(lines.freeze()).filter(|l| !l.is_empty());
        } else if asked < state.compacted {
            watch.end_expired(state.compacted);
        }
        Ok(watch)
    }

    fn inside(&self, namespace: &str) -> bool {
        self.target.namespace.is_empty() || self.target.namespace == namespace
    }

    fn end_expired(&mut self, oldest: u64) {
        let mut lines = BytesMut::new();
        let status = Refusal::expired(self.seen, oldest).status();
        line(&mut lines, "ERROR", status.to_string().as_bytes());
        (self.first, self.over) = (Some(lines.freeze()), true);
    }

    /// The next lines; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(first) = self.first.take() {
                return Some(first);
            }
            let tick = *self.ticks.borrow_and_update();
            if self.over || (tick.ended != self.ended && !tick.expired) {
                return None;
            }
            if tick.ended != self.ended {
                self.end_expired(tick.revision);
                continue;
            }
            let kube = self.kube.clone();
            let lines = kube.with(|state| self.news(state));
            if !lines.is_empty() {
                return Some(lines);
            }
            let horizon = self.sight.horizon.clone();
            let farther = async {
                match horizon {
                    Some(mut horizon) => {
                        let from = *horizon.borrow_and_update();
                        while horizon.changed().await.is_ok() {
                            if *horizon.borrow() != from {
                                return;
                            }
                        }
                        pending().await
                    }
                    None => pending().await,
                }
            };
            let deadline = self.deadline;
            let timeout = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.ticks.changed() => if changed.is_err() { return None },
                () = farther => {}
                () = timeout => {
                    self.over = true;
                    let mut lines = BytesMut::new();
                    self.tell(&mut lines, false);
                    self.first = Some(lines.freeze()).filter(|l| !l.is_empty());
                }
                () = tokio::time::sleep_until(self.bookmark) => {
                    self.bookmark = Instant::now() + BOOKMARKS;
                    let mut lines = BytesMut::new();
                    self.tell(&mut lines, false);
                    self.first = Some(lines.freeze()).filter(|l| !l.is_empty());
                }
            }
        }
    }

    /// The lines for what has changed since.
    fn news(&mut self, state: &State) -> Bytes {
        let mut lines = BytesMut::new();
        let until = state.revision.min(self.sight.horizon());
        for change in &state.changes[state.since(self.seen)..] {
            if change.revision > until {
                break;
            }
            if change.resource.id != self.target.resource.id || !self.inside(&change.key.0) || self.sight.hides(change) {
                continue;
            }
            if let Some((event, object)) = self.event(change) {
                line(&mut lines, event, &object);
            }
        }
        self.seen = self.seen.max(until);
        lines.freeze()
    }

    /// What a change is to this watch: an object that starts or stops being selected comes or goes.
    fn event(&self, change: &Change) -> Option<(&'static str, Bytes)> {
        let selected = |object: &Stored| self.selector.matches(&object.value);
        let before = change.before.as_deref().is_some_and(selected);
        let after = !change.deleted && selected(&change.after);
        match (before, after) {
            (false, true) => Some(("ADDED", change.after.text())),
            (true, true) => Some(("MODIFIED", change.after.text())),
            (true, false) if change.deleted => Some(("DELETED", change.after.text())),
            (true, false) => {
                // As it was when it was last selected, under the revision at which it no longer is.
                let mut last = Value::clone(&change.before.as_ref()?.value);
                last["metadata"]["resourceVersion"] = change.revision.to_string().into();
                Some(("DELETED", Bytes::from(last.to_string())))
            }
            (false, false) => None,
        }
    }

    fn tell(&self, lines: &mut BytesMut, initial: bool) {
        if !self.bookmarks {
            return;
        }
        let resource = self.target.resource;
        let mut metadata = json!({"resourceVersion": self.seen.to_string(), "creationTimestamp": null});
        if initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = json!({"kind": resource.kind, "apiVersion": resource.api_version(), "metadata": metadata});
        line(lines, "BOOKMARK", object.to_string().as_bytes());
    }
}

fn line(lines: &mut BytesMut, event: &str, object: &[u8]) {
    lines.put_slice(br#"{"type":""#);
    lines.put_slice(event.as_bytes());
    lines.put_slice(br#"","object":"#);
    lines.put_slice(object);
    lines.put_slice(b"}\n");
}
