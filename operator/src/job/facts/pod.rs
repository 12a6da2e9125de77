//! A pod and its containers.

use gpujob_crds::names;
use gpujob_transfer::receipt::Receipt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::ResourceExt;

/// Name of our init container that fetches inputs and claims the destination.
pub const FETCH: &str = "gpujob-fetch";
/// Name of our native sidecar that stages results.
pub const STAGE: &str = "gpujob-transfer";

/// What a pod is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs the user's program.
    Attempt,
    /// Looks at inputs and destination before the program can start.
    Check,
    /// Makes a sealed attempt's results visible.
    Commit,
    /// Throws an attempt's staged results away.
    Discard,
    /// The same for all that the job left, and gives its destination back.
    Release,
    /// Asks the store what became of an attempt.
    Resolve,
}

impl Role {
    /// As the label says it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Attempt => "attempt",
            Role::Check => "check",
            Role::Commit => "commit",
            Role::Discard => "discard",
            Role::Release => "release",
            Role::Resolve => "resolve",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        [Role::Attempt, Role::Check, Role::Commit, Role::Discard, Role::Release, Role::Resolve].into_iter().find(|r| r.as_str() == text)
    }
}

/// How a container ended.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Its exit code.
    pub code: i32,
    /// The kubelet's word for it: `Completed`, `Error`, `OOMKilled`, `ContainerStatusUnknown`.
    pub reason: String,
    /// When it started, where the kubelet knows.
    pub started: Option<Timestamp>,
    /// When it ended, in whole seconds.
    pub at: Option<Timestamp>,
    /// Its termination message.
    pub message: String,
}

impl End {
    fn of(t: &ContainerStateTerminated) -> Self {
        Self {
            code: t.exit_code,
            reason: t.reason.clone().unwrap_or_default(),
            started: t.started_at.as_ref().map(|t| t.0),
            at: t.finished_at.as_ref().map(|t| t.0),
            message: t.message.clone().unwrap_or_default(),
        }
    }

    /// The receipt in its termination message, if one can be read there.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        Receipt::parse(&self.message).ok()
    }
}

/// One container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Why it waits: the kubelet's reason and message.
    pub waiting: Option<(String, String)>,
    /// Since when it runs.
    pub running: Option<Timestamp>,
    /// How it ended.
    pub ended: Option<End>,
    /// How the run before this one ended (a sidecar is restarted).
    pub before: Option<End>,
    /// Whether it is a native sidecar: an init container that its kubelet starts again whenever it ends.
    pub sidecar: bool,
}

impl Container {
    fn of(s: &ContainerStatus, sidecar: bool) -> Self {
        let state = s.state.clone().unwrap_or_default();
        Self {
            name: s.name.clone(),
            waiting: state.waiting.map(|w| (w.reason.unwrap_or_default(), w.message.unwrap_or_default())),
            running: state.running.and_then(|r| r.started_at).map(|t| t.0),
            ended: state.terminated.as_ref().map(End::of),
            before: s.last_state.as_ref().and_then(|l| l.terminated.as_ref()).map(End::of),
            sidecar,
        }
    }

    /// Whether it ended badly, for good: nothing after it is started.
    #[must_use]
    pub fn failed(&self) -> bool {
        !self.sidecar && self.ended.as_ref().is_some_and(|e| e.code != 0)
    }

    /// The receipt of this run, else of the one before.
    #[must_use]
    pub fn receipt(&self) -> Option<Receipt> {
        [&self.ended, &self.before].into_iter().flatten().find_map(End::receipt)
    }
}

/// A pod of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct PodFact {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// What it is for.
    pub role: Role,
    /// The attempt it works for.
    pub attempt: i32,
    /// When it was made.
    pub created: Option<Timestamp>,
    /// The Node it was bound to.
    pub node: Option<String>,
    /// `Pending`, `Running`, `Succeeded`, `Failed`. Comes seconds after the containers' states: never a proof.
    pub phase: String,
    /// `status.reason`, such as `Evicted` or `UnexpectedAdmissionError`.
    pub reason: Option<String>,
    /// `status.message`.
    pub message: String,
    /// The scheduler's words while it finds no node.
    pub unschedulable: Option<String>,
    /// Since when it is bound to its Node, and whether its volumes and network are there: before that no container can start. `None`
    /// where the cluster is too old to say so (Kubernetes before 1.29).
    pub bound: Option<Timestamp>,
    /// See `bound`.
    pub prepared: Option<bool>,
    /// When its deletion was asked for: the deletion time is that plus the grace.
    pub deleting: Option<Timestamp>,
    /// Reason and time of a DisruptionTarget condition.
    pub disruption: Option<(String, Timestamp)>,
    /// Its finalizers: ours is removed by position.
    pub finalizers: Vec<String>,
    /// Our init container.
    pub fetch: Option<Container>,
    /// Our sidecar.
    pub stage: Option<Container>,
    /// The user's init containers and sidecars.
    pub inits: Vec<Container>,
    /// The regular containers: the user's, or ours in a pod of another role. Sorted by name.
    pub mains: Vec<Container>,
    /// How many regular containers the pod has: all must have ended.
    pub expected: usize,
    /// The template's hash, as its label says.
    pub template_hash: Option<String>,
}

impl PodFact {
    /// The facts of a pod; `None` without our labels.
    #[must_use]
    pub fn of(pod: &Pod) -> Option<Self> {
        let labels = pod.labels();
        let role = Role::parse(labels.get(names::ROLE)?)?;
        let attempt = labels.get(names::ATTEMPT)?.parse().ok()?;
        let meta = &pod.metadata;
        let status = pod.status.clone().unwrap_or_default();
        let condition = |type_: &str| status.conditions.iter().flatten().find(|c| c.type_ == type_).cloned();
        let sidecars: Vec<&str> = (pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten()))
            .filter(|c| c.restart_policy.as_deref() == Some("Always"))
            .map(|c| c.name.as_str())
            .collect();
        let containers = |list: &Option<Vec<ContainerStatus>>| -> Vec<Container> {
            list.iter().flatten().map(|s| Container::of(s, sidecars.contains(&s.name.as_str()))).collect()
        };
        let (ours, inits): (Vec<_>, Vec<_>) =
            containers(&status.init_container_statuses).into_iter().partition(|c| c.name == FETCH || c.name == STAGE);
        let mut mains = containers(&status.container_statuses);
        mains.sort_by(|a, b| a.name.cmp(&b.name));
        Some(Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            role,
            attempt,
            created: meta.creation_timestamp.as_ref().map(|t| t.0),
            node: pod.spec.as_ref().and_then(|s| s.node_name.clone()),
            phase: status.phase.clone().unwrap_or_else(|| "Pending".into()),
            reason: status.reason.clone(),
            message: status.message.clone().unwrap_or_default(),
            unschedulable: condition("PodScheduled").filter(|c| c.status == "False").map(|c| c.message.or(c.reason).unwrap_or_default()),
            bound: condition("PodScheduled").filter(|c| c.status == "True").and_then(|c| c.last_transition_time).map(|t| t.0),
            prepared: condition("PodReadyToStartContainers").map(|c| c.status == "True"),
            deleting: meta.deletion_timestamp.as_ref().map(|t| {
                let grace = meta.deletion_grace_period_seconds.unwrap_or(0);
                t.0.checked_sub(jiff::SignedDuration::from_secs(grace)).unwrap_or(t.0)
            }),
            disruption: condition("DisruptionTarget").filter(|c| c.status == "True").map(|c| {
                (c.reason.unwrap_or_else(|| "DisruptionTarget".into()), c.last_transition_time.map_or(Timestamp::UNIX_EPOCH, |t| t.0))
            }),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            fetch: ours.iter().find(|c| c.name == FETCH).cloned(),
            stage: ours.iter().find(|c| c.name == STAGE).cloned(),
            inits,
            // The pod cache may drop the spec's containers; then the statuses are all there is.
            expected: pod.spec.as_ref().map_or(0, |s| s.containers.len()).max(mains.len()).max(1),
            mains,
            template_hash: labels.get(crate::job::pod::TEMPLATE_HASH).cloned(),
        })
    }

    fn mains_ended(&self) -> bool {
        self.mains.iter().filter(|c| c.ended.is_some()).count() >= self.expected
    }

    /// Whether nothing of it runs, or ever will again.
    #[must_use]
    pub fn over(&self) -> bool {
        // Fetching comes first of all: when it has failed, nothing else is started.
        self.fetch.as_ref().is_some_and(Container::failed)
            || (self.mains_ended() && self.stage.as_ref().is_none_or(|c| c.ended.is_some()))
            || matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether its regular containers do not use the GPUs, and will not: they have ended, or are kept from starting.
    #[must_use]
    pub fn gpus_free(&self) -> bool {
        let kept = self.deleting.is_some() || self.inits.iter().any(Container::failed);
        self.over() || self.mains_ended() || (kept && self.mains.iter().all(|c| c.running.is_none()))
    }

    /// Whether its Node has taken it and nothing of it could start yet, for want of a volume or of its network.
    #[must_use]
    pub fn unprepared(&self) -> bool {
        let mut all = self.fetch.iter().chain(&self.stage).chain(&self.inits).chain(&self.mains);
        self.node.is_some() && self.prepared == Some(false) && all.all(|c| c.running.is_none() && c.ended.is_none() && c.before.is_none())
    }

    /// When it last came further on its way to its program: it was made, its inputs were there, an init container was done.
    #[must_use]
    pub fn progressed(&self) -> Option<Timestamp> {
        let ends = self.fetch.iter().chain(&self.inits).filter_map(|c| c.ended.as_ref()?.at);
        ends.chain(self.created).max()
    }

    /// How the one container of a pod that speaks to the store ended.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.mains.first().and_then(|c| c.ended.as_ref())
    }

    /// Whether our finalizer holds it.
    #[must_use]
    pub fn held(&self) -> bool {
        self.finalizers.iter().any(|f| f == names::POD_FINALIZER)
    }
}
