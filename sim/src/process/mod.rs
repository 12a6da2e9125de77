//! Processes of the operator: the real one, all of it, each with a client, providers and a wall clock of its own.
//!
//! A crash leaves nothing of a process but what it has written: from that moment all its requests hang, those on their way
//! included, and its tasks are told to end. Whoever starts it again starts from an empty memory.

pub mod client;
pub mod fleet;
pub mod line;

use crate::clock::SimClock;
use crate::cloud::FakeCloud;
use crate::faults::{Died, Director, Transport, Wire, WiredClouds, Witness, cloud_wrote};
use crate::kube::FakeKube;
use crate::timeline::{Kind, Timeline};
use client::Retrying;
use gpujob_operator::run::{Parts, operate};
use gpujob_operator::settings::Settings;
use line::{Line, State};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What all processes of a schedule share.
#[derive(Clone)]
pub struct Site {
    /// The API server.
    pub kube: FakeKube,
    /// The cloud, as it is.
    pub cloud: FakeCloud,
    /// Virtual time.
    pub clock: SimClock,
    /// Who counts and decides what goes wrong.
    pub director: Director,
    /// Where it is written down.
    pub timeline: Timeline,
    /// Who sees every write.
    pub witness: Arc<dyn Witness>,
    /// Who starts again what has died at a write.
    pub died: UnboundedSender<Died>,
    /// The UID of namespace `kube-system`.
    pub cluster: String,
    /// How long a silent leader keeps the Lease.
    pub lease: Duration,
    /// Of all processes that were ever started, by name.
    pub wires: Arc<Mutex<BTreeMap<String, Wire>>>,
}

impl Site {
    /// From now on the cloud's writes count.
    pub fn listen(&self) {
        let wires = self.wires.clone();
        self.cloud.on_write(move |write| {
            let wire = wires.lock().expect("no panic holds this lock").get(&write.process).cloned();
            if let Some(wire) = wire {
                cloud_wrote(&wire, write);
            }
        });
    }
}

impl std::fmt::Debug for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Site").field("cluster", &self.cluster).finish_non_exhaustive()
    }
}

/// One process of the operator.
#[derive(Debug)]
pub struct Operator {
    /// Unique in a schedule, such as `operator-a#2`.
    pub who: String,
    /// Its name in the Lease.
    pub identity: String,
    /// Its line to the world.
    pub line: Line,
    /// Its wall clock.
    pub clock: SimClock,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
    timeline: Timeline,
}

impl Operator {
    /// Starts one. `identity` is its name in the Lease; `who` is unique.
    #[must_use]
    pub fn start(site: &Site, who: &str, identity: &str) -> Operator {
        let (line, clock) = (Line::default(), site.clock.apart());
        let wire = Wire {
            who: who.to_owned(),
            line: line.clone(),
            director: site.director.clone(),
            timeline: site.timeline.clone(),
            witness: site.witness.clone(),
            died: site.died.clone(),
            lost_answers: Arc::default(),
        };
        site.wires.lock().expect("no panic holds this lock").insert(who.to_owned(), wire.clone());
        let parts = Parts {
            client: kube::Client::new(Retrying::new(Transport::new(site.kube.service(), wire.clone())), "default"),
            clock: Arc::new(clock.clone()),
            requests: Default::default(),
            clouds: Arc::new(WiredClouds::new(site.cloud.clouds_of(who), wire)),
            identity: identity.to_owned(),
            lease: site.lease,
            settings: Settings {
                transfer_image: "gpujob-transfer:sim".into(),
                transfer_image_pull_policy: None,
                cluster: site.cluster.clone(),
                namespace: "gpujob-system".into(),
            },
        };
        site.timeline.note(who, Kind::Process, "starts");
        let (shutdown, timeline, name) = (CancellationToken::new(), site.timeline.clone(), who.to_owned());
        let (stop, said) = (shutdown.clone(), timeline.clone());
        let task = tokio::task::spawn_local(async move {
            let ended = operate(parts, stop, |_| said.note(&name, Kind::Process, "is ready")).await;
            let how = ended.map_or_else(|e| format!("ends: {e:#}"), |()| "has ended".to_owned());
            said.note(&name, Kind::Process, how);
        });
        Operator { who: who.to_owned(), identity: identity.to_owned(), line, clock, shutdown, task, timeline }
    }

    /// kill -9. What it has sent and what has not arrived is lost; what has arrived is done.
    pub fn crash(&self) {
        if self.line.state() != State::Dead {
            self.timeline.note(&self.who, Kind::Process, "is killed");
        }
        self.line.kill();
        self.task.abort();
        self.shutdown.cancel();
    }

    /// SIGTERM: it gives up the Lease and ends. Returns when it has, or after the 30 s that a kubelet waits.
    pub async fn stop(mut self) {
        self.timeline.note(&self.who, Kind::Process, "is told to stop");
        self.shutdown.cancel();
        let _ = tokio::time::timeout(Duration::from_secs(30), &mut self.task).await;
        self.line.kill();
        self.task.abort();
    }

    /// Cuts it off, or connects it again.
    pub fn cut(&self, cut: bool) {
        self.timeline.note(&self.who, Kind::Fault, if cut { "is cut off" } else { "is connected again" });
        self.line.cut(cut);
    }

    /// Whether it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.line.state() != State::Dead && !self.task.is_finished()
    }
}
