//! An API server in memory, true enough that the real operator cannot tell: the cases of `sim/conformance` are put to both.
//!
//! One history of changes under one counter of revisions; watches read it from where they are. No threads, no sockets, no clock but
//! the one that is given; names, UIDs and times are the same in every run that does the same.

mod apply;
mod builtin;
pub mod conformance;
mod delete;
mod fields;
mod gc;
mod judge;
mod managed;
mod namespaces;
mod patch;
mod path;
mod pods;
mod read;
pub mod refusal;
mod requests;
pub mod resource;
mod schema;
mod selectors;
mod service;
mod shape;
mod store;
mod watch;
mod write;

pub use service::{AnswerBody, Hidden, Hide, KubeService, Sight, Wrote};
pub use store::Write;

use crate::signal::{Receiver, Sender};
use gpujob_operator::clock::Clock;
use jiff::Timestamp;
use path::Target;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use store::{Actor, State};
use watch::Tick;
use write::Proposal;

/// Told of every write, after it has landed and before it is answered.
type Hook = Arc<dyn Fn(&Write) + Send + Sync>;

/// An API server. Clones are the same one.
#[derive(Clone)]
pub struct FakeKube {
    state: Arc<Mutex<State>>,
    clock: Arc<dyn Clock>,
    ticks: Arc<Sender<Tick>>,
    hook: Arc<Mutex<Option<Hook>>>,
}

impl std::fmt::Debug for FakeKube {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeKube").field("revision", &self.revision()).finish_non_exhaustive()
    }
}

/// How long the cluster's own controllers take to notice.
const NOTICE: Duration = Duration::from_millis(500);

impl FakeKube {
    /// A cluster with the namespaces `kube-system`, `default` and `gpujob-system`.
    ///
    /// # Panics
    /// When the CRDs of gpujob.dev use what is not checked here.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (ticks, _) = crate::signal::channel(Tick::default());
        let kube = FakeKube { state: Arc::new(Mutex::new(State::new())), clock, ticks: Arc::new(ticks), hook: Arc::default() };
        let namespaces = resource::named("namespaces").expect("namespaces are served");
        let now = kube.now();
        kube.change(|state| {
            for name in ["kube-system", "default", "gpujob-system"] {
                let target = Target { resource: namespaces, namespace: String::new(), name: String::new(), subresource: String::new() };
                let object = json!({"metadata": {"name": name}});
                let actor = Actor::controller("kube-apiserver", "create", now);
                write::create(state, &actor, &target, Proposal { object, strict: true, owners: None }).expect("an empty store takes it");
            }
            // What was there before anybody looked is nobody's write.
            state.writes.clear();
        });
        kube
    }

    /// A client that sees everything and loses nothing.
    #[must_use]
    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.service(), "default")
    }

    /// The way in, for layers to wrap.
    #[must_use]
    pub fn service(&self) -> KubeService {
        KubeService(self.clone())
    }

    /// Every write so far, in order; the cluster's own controllers' too.
    #[must_use]
    pub fn writes(&self) -> Vec<Write> {
        self.with(|state| state.writes.clone())
    }

    /// The writes after the first `seen`.
    #[must_use]
    pub fn writes_after(&self, seen: u64) -> Vec<Write> {
        self.with(|state| state.writes.iter().skip(usize::try_from(seen).unwrap_or(usize::MAX)).cloned().collect())
    }

    /// How many writes there were.
    #[must_use]
    pub fn write_count(&self) -> u64 {
        self.with(|state| state.writes.len() as u64)
    }

    /// Calls `hook` with every write from now on: after it has landed, before it is answered.
    pub fn on_write(&self, hook: impl Fn(&Write) + Send + Sync + 'static) {
        *self.hook.lock().expect("no panic holds this lock") = Some(Arc::new(hook));
    }

    /// The objects of a kind, such as `gpujobs`, by namespace and name.
    ///
    /// # Panics
    /// When no such kind is served.
    #[must_use]
    pub fn objects(&self, resource: &str) -> Vec<Value> {
        let resource = resource::named(resource).unwrap_or_else(|| panic!("{resource} is not served"));
        self.with(|state| state.of(resource).values().map(|object| Value::clone(&object.value)).collect())
    }

    /// The newest revision.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.with(|state| state.revision)
    }

    /// What a container has said, whole: the answer to `pods/log`.
    pub fn set_log(&self, namespace: &str, pod: &str, container: &str, text: impl Into<String>) {
        self.with(|state| state.logs.insert((namespace.to_owned(), pod.to_owned(), container.to_owned()), text.into()));
    }

    /// Ends every open watch without a word, as an API server does that restarts.
    pub fn close_watches(&self) {
        self.ticks.send_modify(|tick| (tick.ended, tick.expired) = (tick.ended + 1, false));
    }

    /// Ends every open watch with `410 Expired`, and forgets history: whoever continues from before is told the same.
    pub fn expire_watches(&self) {
        self.compact();
        self.ticks.send_modify(|tick| (tick.ended, tick.expired) = (tick.ended + 1, true));
    }

    /// Forgets history before now: lists and watches that start before are answered `410 Expired`. Open watches go on.
    pub fn compact(&self) {
        self.with(|state| state.compact(state.revision));
    }

    /// Runs the cluster's own controllers for ever: owners' dependents are collected, namespaces that go are emptied.
    pub async fn controllers(&self) {
        let mut ticks = self.ticks();
        loop {
            while self.step_controllers() > 0 {
                tokio::time::sleep(NOTICE).await;
            }
            if ticks.changed().await.is_err() {
                return;
            }
            tokio::time::sleep(NOTICE).await;
            let _ = ticks.borrow_and_update();
        }
    }

    /// One step of the cluster's own controllers. How many objects they changed; at 0 they have nothing to do.
    pub fn step_controllers(&self) -> usize {
        let now = self.now();
        self.change(|state| gc::collect(state, now) + namespaces::finish(state, now)).0
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn ticks(&self) -> Receiver<Tick> {
        self.ticks.subscribe()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().expect("no panic holds this lock"))
    }

    /// Does something that may write; tells watches and the hook of what it wrote.
    pub(crate) fn change<T>(&self, act: impl FnOnce(&mut State) -> T) -> (T, Option<Wrote>) {
        let (done, revision, new) = self.with(|state| {
            let before = state.writes.len();
            let done = act(state);
            (done, state.revision, state.writes.get(before..).map(<[Write]>::to_vec).unwrap_or_default())
        });
        let hook = self.hook.lock().expect("no panic holds this lock").clone();
        for write in &new {
            if let Some(hook) = &hook {
                hook(write);
            }
        }
        if !new.is_empty() {
            self.ticks.send_modify(|tick| tick.revision = revision);
        }
        (done, service::numbers(&new))
    }
}

#[cfg(test)]
mod tests;
