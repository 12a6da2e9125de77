//! The life of one pod under its kubelet.
//!
//! ```text
//! bound -> images -> init containers, one by one -> mains -> SIGTERM to sidecars, in reverse -> phase, 2 to 3 s later
//!                                                    ^
//!   deleted: SIGTERM to mains; sidecars after the last of them; all killed when the grace is over; then DELETE with grace 0
//! ```
//! Source: `pkg/kubelet/kuberuntime/kuberuntime_termination_order.go`, `pkg/kubelet/status/status_manager.go`.

use super::super::{Inner, Run};
use super::Host;
use super::container::{Exit, Volume, Work};
use super::status::{State, View, gpus, is_terminal};
use crate::signal;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use gpujob_crds::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The kubelet's `minimumGracePeriodInSeconds`.
const LEAST: Duration = Duration::from_secs(2);

/// What the API server wants of a pod.
#[derive(Clone, Debug, Default)]
pub(in crate::world) struct Orders {
    /// The pod as last seen.
    pub(in crate::world) pod: Option<Arc<Pod>>,
    /// It is to end: whatever runs at that time is killed.
    pub(in crate::world) kill_at: Option<Instant>,
    /// The object is not there any more.
    pub(in crate::world) gone: bool,
}

impl Orders {
    /// Takes in a newer view of the pod. A shorter grace shortens what was ordered before; none makes it longer.
    pub(in crate::world) fn update(&mut self, pod: &Arc<Pod>, gone: bool) {
        self.pod = Some(pod.clone());
        self.gone |= gone;
        if pod.metadata.deletion_timestamp.is_some() || gone {
            let grace = if gone { 0 } else { pod.metadata.deletion_grace_period_seconds.unwrap_or(30) };
            let at = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(0)).max(LEAST);
            self.kill_at = Some(self.kill_at.map_or(at, |old| old.min(at)));
        }
    }
}

/// One pod's worker.
pub(super) struct Life {
    pub(super) world: Arc<Inner>,
    pub(super) host: Arc<Host>,
    pub(super) pod: Arc<Pod>,
    pub(super) orders: signal::Receiver<Orders>,
    pub(super) view: View,
    /// Something is not reported yet, because the API server could not be reached.
    pub(super) dirty: bool,
    pub(super) volume: Volume,
}

impl Life {
    /// From binding to the end of the object.
    pub(super) async fn live(mut self) {
        let uid = self.pod.uid().unwrap_or_default();
        if self.host.admit(&uid, gpus(&self.pod)) {
            self.play().await;
            self.host.release(&uid);
            if self.orders.borrow().kill_at.is_none() {
                tokio::time::sleep(self.world.script.phase_lag).await;
            }
            let well = self.view.mains.iter().all(|s| matches!(s, State::Ended { code: 0, .. }));
            self.view.phase = if well { "Succeeded" } else { "Failed" };
        } else {
            (self.view.phase, self.view.reason) = ("Failed", Some("UnexpectedAdmissionError"));
            self.view.message = Some("Allocate failed due to no healthy devices present".into());
        }
        self.report().await;
        self.let_go().await;
    }

    async fn play(&mut self) {
        let spec = self.pod.spec.clone().unwrap_or_default();
        if !self.host.volumes {
            self.report().await;
            while self.rest(Duration::from_secs(3600)).await {}
            return self.never_started();
        }
        if !self.rest(self.world.script.pull).await {
            return self.never_started();
        }
        self.view.prepared = true;
        let inits = spec.init_containers.unwrap_or_default();
        for (i, container) in inits.iter().enumerate() {
            self.view.inits[i] = State::Running(self.now());
            if container.restart_policy.as_deref() == Some("Always") {
                continue;
            }
            self.report().await;
            let exit = self.init(container).await;
            self.view.inits[i] = self.view.inits[i].exit(self.now(), exit.code, exit.message);
            if exit.code != 0 || self.orders.borrow().kill_at.is_some() {
                return self.end_sidecars(&inits).await;
            }
        }
        self.view.phase = "Running";
        self.mains(&spec.containers).await;
        self.end_sidecars(&inits).await;
    }

    /// A pod that is deleted before anything ran.
    fn never_started(&mut self) {
        let now = self.now();
        for state in self.view.inits.iter_mut().chain(&mut self.view.mains) {
            *state = State::unknown(now);
        }
    }

    async fn init(&mut self, container: &Container) -> Exit {
        let work = Work::of(self, container, true);
        let mut exit = None;
        self.drive(vec![(0, work)], false, None, |_, _, end| exit = Some(end)).await;
        exit.unwrap_or(Exit { code: 137, message: String::new() })
    }

    async fn mains(&mut self, containers: &[Container]) {
        let mut work = vec![];
        for (i, container) in containers.iter().enumerate() {
            self.view.mains[i] = State::Running(self.now());
            work.push((i, Work::of(self, container, false)));
        }
        self.report().await;
        self.started();
        self.drive(work, false, None, |life, i, exit| {
            let state = life.view.mains[i].exit(life.now(), exit.code, exit.message);
            life.ran(&containers[i], &state, exit.code);
            life.view.mains[i] = state;
            life.dirty = true;
        })
        .await;
    }

    /// Sidecars end in reverse order, after the last main. One whose main ended by itself gets the pod's whole grace anew.
    async fn end_sidecars(&mut self, inits: &[Container]) {
        let grace = self.pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds).unwrap_or(30);
        let until = Instant::now() + Duration::from_secs(u64::try_from(grace).unwrap_or(30));
        for (i, container) in inits.iter().enumerate().rev() {
            if !matches!(self.view.inits[i], State::Running(_)) {
                continue;
            }
            let work = Work::of(self, container, true);
            self.drive(vec![(i, work)], true, Some(until), |life, i, exit| {
                life.view.inits[i] = life.view.inits[i].exit(life.now(), exit.code, exit.message);
                life.dirty = true;
            })
            .await;
        }
        let now = self.now();
        for state in self.view.mains.iter_mut().filter(|_| self.view.phase == "Pending" && self.orders.borrow().kill_at.is_some()) {
            *state = State::unknown(now);
        }
    }

    /// Runs these containers until all have ended, told to end or killed as ordered, and reports each end.
    async fn drive(&mut self, work: Vec<(usize, Work)>, told: bool, until: Option<Instant>, mut ended: impl FnMut(&mut Self, usize, Exit)) {
        let term = CancellationToken::new();
        if told {
            term.cancel();
        }
        let mut left: Vec<usize> = work.iter().map(|(i, _)| *i).collect();
        let mut running: FuturesUnordered<_> = work
            .into_iter()
            .map(|(i, work)| {
                let term = term.clone();
                async move { (i, work.run(term).await) }
            })
            .collect();
        let mut link = self.host.link.subscribe();
        while !left.is_empty() {
            let ordered = self.orders.borrow_and_update().kill_at;
            if ordered.is_some() {
                term.cancel();
            }
            let kill = [ordered, until].into_iter().flatten().min();
            tokio::select! {
                biased;
                Some((i, exit)) = running.next() => {
                    left.retain(|n| *n != i);
                    ended(self, i, exit);
                }
                () = at(kill) => {
                    for i in std::mem::take(&mut left) {
                        ended(self, i, Exit { code: 137, message: String::new() });
                    }
                }
                changed = self.orders.changed() => if changed.is_err() { return },
                _ = link.changed() => {}
            }
            if self.dirty {
                self.report().await;
            }
        }
    }

    /// Waits; false when the pod is ordered to end meanwhile.
    async fn rest(&mut self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            if self.orders.borrow_and_update().kill_at.is_some() {
                return false;
            }
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(end) => return true,
                changed = self.orders.changed() => if changed.is_err() { return false },
            }
        }
    }

    /// Writes the status, if the API server can be reached; else it is written when it can.
    async fn report(&mut self) {
        self.dirty = true;
        if !*self.host.link.borrow() {
            return;
        }
        let newer = self.orders.borrow().pod.clone().filter(|p| version(p) > version(&self.pod));
        if let Some(newer) = newer {
            self.pod = newer;
        }
        let api: Api<Pod> = Api::namespaced(self.world.client.clone(), &self.pod.namespace().unwrap_or_default());
        let (name, uid) = (self.pod.name_any(), self.pod.uid());
        loop {
            let status = self.view.render(&self.pod, self.now());
            let patch = json!({"metadata": {"uid": uid, "resourceVersion": self.pod.resource_version()}, "status": status});
            match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
                Ok(written) => {
                    self.pod = Arc::new(written);
                    break;
                }
                // Somebody wrote a condition or took a finalizer off: their part is kept.
                Err(kube::Error::Api(status)) if status.code == 409 => match api.get_opt(&name).await {
                    Ok(Some(there)) if there.uid() == uid => self.pod = Arc::new(there),
                    Ok(_) => break,
                    Err(_) => tokio::time::sleep(Duration::from_secs(1)).await,
                },
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => {
                    tracing::warn!(pod = name, %error, "kubelet: reporting");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        self.dirty = false;
    }

    /// Everything has ended: waits for the pod's deletion, and completes it. The API server does so itself for a pod whose
    /// phase was terminal before it was deleted.
    async fn let_go(&mut self) {
        let mut link = self.host.link.subscribe();
        loop {
            let orders = self.orders.borrow_and_update().clone();
            if orders.gone {
                return;
            }
            let ordered = orders.kill_at.is_some() || self.pod.metadata.deletion_timestamp.is_some();
            if *link.borrow_and_update() {
                if self.dirty {
                    self.report().await;
                }
                let done = orders.pod.as_ref().is_some_and(|p| p.metadata.deletion_grace_period_seconds == Some(0) && is_terminal(p));
                if ordered && !done {
                    return self.delete().await;
                }
                if done {
                    return; // finalizers hold what is left of it
                }
            }
            tokio::select! {
                biased;
                changed = self.orders.changed() => if changed.is_err() { return },
                _ = link.changed() => {}
            }
        }
    }

    async fn delete(&self) {
        let api: Api<Pod> = Api::namespaced(self.world.client.clone(), &self.pod.namespace().unwrap_or_default());
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: self.pod.uid(), resource_version: None }),
            ..DeleteParams::default()
        };
        match api.delete(&self.pod.name_any(), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => tracing::warn!(pod = self.pod.name_any(), %error, "kubelet: completing a deletion"),
        }
    }

    fn started(&self) {
        if self.pod.labels().get(names::ROLE).map(String::as_str) == Some("attempt") {
            let job = self.pod.labels().get(names::JOB).cloned().unwrap_or_default();
            self.world.starts.send_modify(|starts| {
                let entry = starts.entry(job).or_default();
                *entry = (entry.0 + 1, self.host.name.clone());
            });
        }
    }

    /// Puts on the world's own record what really ran.
    fn ran(&self, container: &Container, state: &State, code: i32) {
        let label = |name: &str| self.pod.labels().get(name).cloned().unwrap_or_default();
        if label(names::ROLE) != "attempt" {
            return;
        }
        self.world.runs.lock().expect("no panic holds this lock").push(Run {
            job_uid: label(names::JOB_UID),
            job: label(names::JOB),
            attempt: label(names::ATTEMPT).parse().unwrap_or(0),
            pod_uid: self.pod.uid().unwrap_or_default(),
            container: container.name.clone(),
            node: self.host.name.clone(),
            gpus: gpus(&self.pod),
            capacity: self.host.gpus(),
            started: state.since().unwrap_or(self.view.started),
            ended: self.now(),
            exit_code: code,
        });
    }

    /// Kubelets write whole seconds.
    fn now(&self) -> Timestamp {
        Timestamp::from_second(self.world.clock.now().as_second()).unwrap_or_default()
    }
}

fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

async fn at(time: Option<Instant>) {
    match time {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
