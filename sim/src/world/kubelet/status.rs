//! A pod's status as its kubelet reports it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use serde_json::{Value, json};

/// The conditions that a kubelet writes; all others are left as they are.
const OWN: [&str; 4] = ["PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready"];

/// Where a container is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Not started.
    Waiting,
    /// Since then.
    Running(Timestamp),
    /// How it ended.
    Ended {
        /// None: it never ran.
        started: Option<Timestamp>,
        at: Timestamp,
        code: i32,
        reason: &'static str,
        message: String,
    },
}

impl State {
    pub(super) fn ended(&self) -> bool {
        matches!(self, State::Ended { .. })
    }

    pub(super) fn since(&self) -> Option<Timestamp> {
        match self {
            State::Running(since) => Some(*since),
            State::Ended { started, .. } => *started,
            State::Waiting => None,
        }
    }

    /// An end at `at` with this code.
    pub(super) fn exit(&self, at: Timestamp, code: i32, message: String) -> State {
        let reason = if code == 0 { "Completed" } else { "Error" };
        State::Ended { started: self.since(), at, code, reason, message }
    }

    /// What a kubelet says of a container that it never started, in a pod that has ended.
    pub(super) fn unknown(at: Timestamp) -> State {
        let message = "The container could not be located when the pod was terminated".into();
        State::Ended { started: None, at, code: 137, reason: "ContainerStatusUnknown", message }
    }

    fn render(&self, waiting: &str) -> Value {
        match self {
            State::Waiting => json!({"waiting": {"reason": waiting}}),
            State::Running(since) => json!({"running": {"startedAt": since}}),
            State::Ended { started, at, code, reason, message } => {
                json!({"terminated": {"exitCode": code, "reason": reason, "message": message, "startedAt": started, "finishedAt": at}})
            }
        }
    }
}

/// A pod as its kubelet knows it.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) phase: &'static str,
    pub(super) reason: Option<&'static str>,
    pub(super) message: Option<String>,
    pub(super) started: Timestamp,
    /// Volumes and network are there.
    pub(super) prepared: bool,
    pub(super) inits: Vec<State>,
    pub(super) mains: Vec<State>,
}

impl View {
    pub(super) fn of(pod: &Pod, now: Timestamp) -> Self {
        let count = |list: Option<&Vec<Container>>| vec![State::Waiting; list.map_or(0, Vec::len)];
        let spec = pod.spec.as_ref();
        View {
            phase: "Pending",
            reason: None,
            message: None,
            started: now,
            prepared: false,
            inits: count(spec.and_then(|s| s.init_containers.as_ref())),
            mains: count(spec.map(|s| &s.containers)),
        }
    }

    /// The status to write over `pod`'s.
    pub(super) fn render(&self, pod: &Pod, now: Timestamp) -> Value {
        let spec = pod.spec.clone().unwrap_or_default();
        let list = |containers: &[Container], states: &[State]| -> Vec<Value> {
            containers.iter().zip(states).map(|(c, s)| container(c, s, self.waiting())).collect()
        };
        let running = self.phase == "Running" && !self.mains.iter().any(State::ended);
        let initialized = self.mains.iter().any(|m| *m != State::Waiting);
        let old: Vec<Value> =
            pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).filter_map(|c| serde_json::to_value(c).ok()).collect();
        let mut conditions: Vec<Value> = old.iter().filter(|c| !OWN.iter().any(|own| c["type"] == *own)).cloned().collect();
        for (type_, holds) in OWN.into_iter().zip([self.prepared, initialized, running, running]) {
            let status = if holds { "True" } else { "False" };
            let since = old.iter().find(|c| c["type"] == type_ && c["status"] == status).map(|c| c["lastTransitionTime"].clone());
            conditions.push(json!({"type": type_, "status": status, "lastTransitionTime": since.unwrap_or_else(|| json!(now))}));
        }
        json!({
            "phase": self.phase, "reason": self.reason, "message": self.message, "startTime": self.started,
            "conditions": conditions,
            "initContainerStatuses": list(&spec.init_containers.unwrap_or_default(), &self.inits),
            "containerStatuses": list(&spec.containers, &self.mains),
        })
    }

    fn waiting(&self) -> &'static str {
        if self.inits.iter().all(|s| *s != State::Waiting) { "ContainerCreating" } else { "PodInitializing" }
    }
}

fn container(c: &Container, state: &State, waiting: &str) -> Value {
    let running = matches!(state, State::Running(_));
    json!({
        "name": c.name, "image": c.image.clone().unwrap_or_default(), "imageID": "", "restartCount": 0,
        "ready": running, "started": running, "state": state.render(waiting),
    })
}

/// The GPUs (or what the pool calls them) that a pod asks for: every extended resource.
pub(super) fn gpus(pod: &Pod) -> i64 {
    let containers = pod.spec.iter().flat_map(|s| &s.containers);
    let limits = containers.flat_map(|c| c.resources.iter().flat_map(|r| r.limits.iter().flatten()));
    limits.filter(|(name, _)| name.contains('/')).filter_map(|(_, q)| q.0.parse::<i64>().ok()).sum()
}

/// Whether a pod has ended for good.
pub(in crate::world) fn is_terminal(pod: &Pod) -> bool {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed")
}

/// For people: `namespace/name`.
pub(in crate::world) fn label(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}
