//! Everything outside of the operator: machines with kubelets, containers that exit, kube-scheduler, kube-controller-manager,
//! and gpujob-transfer over object storage in memory.
//!
//! ```text
//!  Hardware --running--> machines --boot--> kubelet --Node--> API server <--Binding-- scheduler
//!                           |                  ^                  |  ^
//!                      power off               +----- watch ------+  +--- controllers: unreachable, evicted, collected
//!                           v                         pods: life, container --> store (role, destination)
//!                     all of it stops
//! ```
//! It works through a client of its own, without faults, and knows nothing of who serves it: FakeKube or a real API server.

mod controllers;
mod kubelet;
mod machines;
mod mirror;
mod namespaces;
mod scheduler;
pub mod script;
pub mod store;

pub use machines::{Hardware, Instance};
pub use script::{Machine, OnSigterm, PROGRAMS, Program, Script};
pub use store::{Delivered, NO_SUCH_BUCKET, Store};

use crate::signal;
use gpujob_operator::clock::Clock;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt};
use kubelet::Host;
use mirror::{Change, Mirror};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// One run of a job's container, as it really was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// The job.
    pub job_uid: String,
    /// Its name.
    pub job: String,
    /// The attempt, from 1.
    pub attempt: i32,
    /// Its pod.
    pub pod_uid: String,
    /// The container.
    pub container: String,
    /// The Node.
    pub node: String,
    /// The GPUs that its pod held.
    pub gpus: i64,
    /// The GPUs of the machine.
    pub capacity: i64,
    /// When it started.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Timestamp,
    /// Its exit code; 137 when it was killed.
    pub exit_code: i32,
}

struct Inner {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    hardware: Arc<dyn Hardware>,
    store: Store,
    script: Script,
    mirror: Mutex<Mirror>,
    /// By Node name: machines that are on and whose kubelet has joined.
    hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    schedule: Notify,
    runs: Mutex<Vec<Run>>,
    /// Starts of programs, by job: how often its program was started, and on which Node last.
    starts: signal::Sender<BTreeMap<String, (u32, String)>>,
    /// Namespaces that are being emptied.
    terminating: Mutex<BTreeSet<String>>,
    stop: CancellationToken,
}

impl Inner {
    /// Runs a task until its machine is off, or the world ends.
    fn spawn_on(&self, power: &CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
        let power = power.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = power.cancelled() => {}
                () = task => {}
            }
        });
    }

    fn join(&self, host: &Arc<Host>) {
        self.hosts.lock().expect("no panic holds this lock").insert(host.name.clone(), host.clone());
    }

    fn host(&self, node: &str) -> Option<Arc<Host>> {
        self.hosts.lock().expect("no panic holds this lock").get(node).cloned()
    }

    fn pods_on(&self, node: &str) -> Vec<Arc<Pod>> {
        let mirror = self.mirror.lock().expect("no panic holds this lock");
        mirror.pods.values().filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node)).cloned().collect()
    }
}

/// A running world. It ends with [`World::stop`] or when it is dropped.
pub struct World(Arc<Inner>);

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("script", &self.0.script).finish_non_exhaustive()
    }
}

impl World {
    /// Starts it. Call inside the runtime.
    #[must_use]
    pub fn start(client: kube::Client, hardware: Arc<dyn Hardware>, clock: Arc<dyn Clock>, script: Script) -> Self {
        let world = Arc::new(Inner {
            client,
            clock,
            hardware,
            store: Store::new(script.store_latency),
            script,
            mirror: Mutex::default(),
            hosts: Mutex::default(),
            schedule: Notify::new(),
            runs: Mutex::default(),
            starts: signal::Sender::default(),
            terminating: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let (sender, changes) = mpsc::unbounded_channel();
        let spawn = |task: futures::future::BoxFuture<'static, ()>| world.spawn_on(&world.stop, task);
        spawn(Box::pin(mirror::watch(Api::all(world.client.clone()), sender.clone(), Change::Pod)));
        spawn(Box::pin(mirror::watch(Api::all(world.client.clone()), sender.clone(), Change::Node)));
        if world.script.controllers {
            spawn(Box::pin(mirror::watch(Api::all(world.client.clone()), sender, Change::Namespace)));
        }
        spawn(Box::pin(route(world.clone(), changes)));
        spawn(Box::pin(machines::follow(world.clone())));
        if world.script.scheduler {
            spawn(Box::pin(scheduler::run(world.clone())));
        }
        if world.script.cpu_node {
            let power = world.stop.child_token();
            let boot = kubelet::boot(world.clone(), machines::cpu_node(), Machine::default(), power.clone(), Duration::ZERO);
            world.spawn_on(&power, boot);
        }
        World(world)
    }

    /// Object storage.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// What really ran so far, in the order of their ends.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.0.runs.lock().expect("no panic holds this lock").clone()
    }

    /// Waits until a job's program has been started for the `nth` time, counted from 1, and says on which Node. Jobs by name.
    pub async fn started(&self, job: &str, nth: u32) -> String {
        let mut starts = self.0.starts.subscribe();
        let reached = starts.wait_for(|all| all.get(job).is_some_and(|(times, _)| *times >= nth)).await;
        reached.map_or_else(|_| String::new(), |all| all.get(job).map(|(_, node)| node.clone()).unwrap_or_default())
    }

    /// GPUs that were used twice at a time, one line each. Never, whatever the operator does.
    #[must_use]
    pub fn shared_gpus(&self) -> Vec<String> {
        let runs = self.runs();
        let mut found = vec![];
        for one in &runs {
            let at_once = runs.iter().filter(|r| r.node == one.node && r.started <= one.started && one.started < r.ended);
            // One pod's containers share what the pod holds.
            let pods: BTreeMap<&str, i64> = at_once.map(|r| (r.pod_uid.as_str(), r.gpus)).collect();
            if pods.values().sum::<i64>() > one.capacity {
                found.push(format!("{} has {} GPUs, and at {} pods {:?} held theirs", one.node, one.capacity, one.started, pods));
            }
        }
        found
    }

    /// Cuts a Node's kubelet off from the API server for so long. Its containers do not notice.
    pub fn silence(&self, node: &str, instance: &str, time: Duration) {
        if let Some(host) = self.0.host(node) {
            let (world, id, power) = (self.0.clone(), instance.to_owned(), host.power.clone());
            self.0.spawn_on(&power, async move { world.silence(&host, &id, time).await });
        }
    }

    /// Ends every machine, container and controller at once.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

/// Takes in what the watches show, and tells those whom it concerns.
async fn route(world: Arc<Inner>, mut changes: mpsc::UnboundedReceiver<Change>) {
    while let Some(change) = changes.recv().await {
        world.mirror.lock().expect("no panic holds this lock").apply(&change);
        match &change {
            Change::Pod(pod, gone) => {
                if let Some(host) = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).and_then(|node| world.host(node)) {
                    host.tell(&world, pod, *gone);
                }
            }
            Change::Node(node, true) if world.script.controllers => world.node_gone(&node.name_any()),
            Change::Namespace(namespace, false) => world.namespace(namespace),
            Change::Node(..) | Change::Namespace(..) => {}
        }
        world.schedule.notify_one();
    }
}
