//! A small cluster in memory: the plan's writes change it as the API server would, the test plays kubelet, scheduler and cloud.

use crate::job::facts::{FETCH, Role, STAGE};
use crate::job::observe::JobWorld;
use crate::job::plan::{Action, Plan, plan};
use crate::job::pod::{Image, attempt, storage};
use gpujob_crds::conditions::{self, find, node as node_types, set, want};
use gpujob_crds::job::{Gpu, Results};
use gpujob_crds::job_status::Attempt;
use gpujob_crds::node::InstanceStatus;
use gpujob_crds::{GpuJob, GpuJobSpec, GpuJobStatus, GpuNode, GpuNodeSpec, GpuNodeStatus, Market, Reservation, names};
use gpujob_transfer::receipt::{Ended, ManifestRef, Outcome, Receipt, Role as Mover, Verdict};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodTemplateSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use std::sync::Arc;

/// One job's cluster.
pub(super) struct Cluster {
    pub(super) job: GpuJob,
    pub(super) nodes: Vec<GpuNode>,
    pub(super) pods: Vec<Pod>,
    pub(super) now: Timestamp,
    pub(super) actions: Vec<Action>,
    pub(super) gone: bool,
    pub(super) draining: bool,
    /// What `act::confirm` has seen of other jobs.
    pub(super) absent: Vec<String>,
    /// What the API server says to every pod.
    pub(super) quota: Option<String>,
    made: usize,
}

pub(super) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// A job with results, one GPU, one container `main`, applied at second 0.
pub(super) fn job() -> GpuJob {
    let main = Container { name: "main".into(), image: Some("digits:1".into()), ..Container::default() };
    let template = PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers: vec![main], ..PodSpec::default() }) };
    let results = Results { path: "/results".into(), to: "s3://runs/digits/".into(), ..Results::default() };
    let spec = GpuJobSpec { gpu: Gpu { count: 1, ..Gpu::default() }, template, results: Some(results), ..GpuJobSpec::default() };
    let metadata = ObjectMeta {
        name: Some("digits".into()),
        namespace: Some("team".into()),
        uid: Some("job-uid".into()),
        generation: Some(1),
        creation_timestamp: Some(Time(at(0))),
        ..ObjectMeta::default()
    };
    GpuJob { metadata, spec, status: None }
}

/// Gives the template an init container `prepare`, or with `Always` a sidecar.
pub(super) fn prepare(spec: &mut GpuJobSpec, restart: Option<&str>) {
    let spec = spec.template.spec.as_mut().unwrap();
    let mut prepare = spec.containers[0].clone();
    (prepare.name, prepare.restart_policy) = ("prepare".into(), restart.map(str::to_owned));
    spec.init_containers = Some(vec![prepare]);
}

impl Cluster {
    pub(super) fn new(change: impl FnOnce(&mut GpuJobSpec)) -> Self {
        let mut job = job();
        change(&mut job.spec);
        let (nodes, pods, actions, absent) = (vec![], vec![], vec![], vec![]);
        Self { job, nodes, pods, now: at(0), actions, gone: false, draining: false, absent, quota: None, made: 0 }
    }

    /// Up to a program that runs as attempt 1 on node `gn-1`.
    pub(super) fn running(change: impl FnOnce(&mut GpuJobSpec)) -> Self {
        let mut c = Self::new(change);
        c.reserve("gn-1", 1);
        c.settle();
        c.join("gn-1");
        c.settle();
        c.start();
        c.settle();
        c
    }

    pub(super) fn status(&self) -> GpuJobStatus {
        self.job.status.clone().unwrap_or_default()
    }

    pub(super) fn attempt(&self, number: i32) -> Attempt {
        self.status().attempts.into_iter().find(|a| a.number == number).unwrap()
    }

    /// `status reason` of a condition.
    pub(super) fn condition(&self, type_: &str) -> String {
        find(&self.status().conditions, type_).map_or("absent".into(), |c| format!("{} {}", c.status, c.reason))
    }

    pub(super) fn message(&self) -> String {
        find(&self.status().conditions, conditions::job::SUCCEEDED).map_or(String::new(), |c| c.message.clone())
    }

    pub(super) fn world(&self) -> JobWorld {
        let arc = |n: &GpuNode| Arc::new(n.clone());
        let nodes: Vec<_> = self.nodes.iter().map(arc).collect();
        let pods: Vec<_> = self.pods.iter().map(|p| Arc::new(p.clone())).collect();
        JobWorld { draining: self.draining, gone: self.absent.clone(), ..JobWorld::new(Arc::new(self.job.clone()), &nodes, &pods) }
    }

    /// One pass: the plan and its effects. Returns whether it wrote anything.
    pub(super) fn pass(&mut self) -> (Plan, bool) {
        let mut world = self.world();
        let mut p = plan(&world, self.now);
        let makes = |a: &Action| matches!(a, Action::CreateAttemptPod(_) | Action::CreateStoragePod { .. });
        if self.quota.is_some() && p.actions.iter().any(makes) {
            world.not_made.clone_from(&self.quota);
            p = plan(&world, self.now);
            p.actions.retain(|a| !makes(a));
        }
        let released = p.actions.iter().any(|a| matches!(a, Action::Release { .. }));
        assert!(!released || p.wake.is_some(), "nobody wakes a job whose reservation went: {p:?}");
        let changed = p.status != world.recorded();
        if changed {
            self.job.status = Some(p.status.clone());
        }
        for action in &p.actions {
            self.perform(action);
        }
        self.actions.extend(p.actions.clone());
        let wrote = changed || !p.actions.is_empty();
        (p, wrote)
    }

    /// Passes until nothing is written any more; then one more that must write nothing: the plan is idempotent.
    pub(super) fn settle(&mut self) -> Plan {
        for _ in 0..20 {
            if self.gone || !self.pass().1 {
                let world = self.world();
                let again = plan(&world, self.now);
                assert!(again.actions.is_empty() && again.status == world.recorded(), "not settled: {again:?}");
                return again;
            }
        }
        panic!("never settles: {:?}", plan(&self.world(), self.now));
    }

    pub(super) fn wait(&mut self, seconds: i64) -> Plan {
        self.now = self.now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        self.settle()
    }

    fn perform(&mut self, action: &Action) {
        match action {
            Action::AddJobFinalizer => self.job.metadata.finalizers.get_or_insert_default().push(names::JOB_FINALIZER.into()),
            Action::RemoveJobFinalizer => {
                self.job.metadata.finalizers = None;
                self.gone = self.job.metadata.deletion_timestamp.is_some();
            }
            Action::CreateAttemptPod(target) => self.make(attempt::build(&self.job, target, &Image::default()).unwrap()),
            Action::CreateStoragePod { target, task, pod_uid } => {
                self.make(storage::build(&self.job, target, &Image::default(), *task, pod_uid));
            }
            Action::SaveLog { .. } => {}
            Action::DeletePod { name, uid, grace } => {
                let pod = self.pods.iter_mut().find(|p| p.name_any() == *name && p.uid().as_ref() == Some(uid)).unwrap();
                let own = pod.spec.as_ref().unwrap().termination_grace_period_seconds.unwrap();
                let grace = grace.map_or(own, i64::from);
                let until = self.now.checked_add(SignedDuration::from_secs(grace)).unwrap();
                pod.metadata.deletion_timestamp = Some(Time(until));
                pod.metadata.deletion_grace_period_seconds = Some(grace);
                self.sweep();
            }
            Action::Release { node, remaining, .. } => {
                let node = self.nodes.iter_mut().find(|n| n.name_any() == *node).unwrap();
                let status = node.status.get_or_insert_default();
                status.assignments = Some(remaining.clone());
            }
            Action::RemovePodFinalizer { name, .. } => {
                self.pods.iter_mut().find(|p| p.name_any() == *name).unwrap().metadata.finalizers = None;
                self.sweep();
            }
            Action::DeleteJob => self.gone = true,
        }
    }

    /// Deleted pods go when no finalizer holds them; the kubelet is quick here.
    fn sweep(&mut self) {
        self.pods.retain(|p| p.metadata.deletion_timestamp.is_none() || !p.finalizers().is_empty());
    }

    fn make(&mut self, mut pod: Pod) {
        self.made += 1;
        pod.metadata.uid = Some(format!("pod-{}", self.made));
        pod.metadata.creation_timestamp = Some(Time(self.now));
        assert!(!self.pods.iter().any(|p| p.name_any() == pod.name_any()), "{} exists", pod.name_any());
        self.pods.push(pod);
    }

    // What others do.

    /// The scheduler reserves for an attempt on a new node.
    pub(super) fn reserve(&mut self, node: &str, attempt: i32) {
        let r = Reservation {
            job_uid: "job-uid".into(),
            namespace: "team".into(),
            name: "digits".into(),
            index: 0,
            attempt,
            gpus: 1,
            asks: None,
        };
        let metadata = ObjectMeta { name: Some(node.into()), resource_version: Some("7".into()), ..ObjectMeta::default() };
        let spec = GpuNodeSpec { launched_for: vec![r], gpus: 1, resource_name: "nvidia.com/gpu".into(), ..GpuNodeSpec::default() };
        self.nodes.push(GpuNode { metadata, spec, status: None });
    }

    pub(super) fn node(&mut self, node: &str) -> &mut GpuNode {
        self.nodes.iter_mut().find(|n| n.name_any() == node).unwrap()
    }

    /// The cloud answers with an instance.
    pub(super) fn launch(&mut self, node: &str) {
        self.node(node).status.get_or_insert_default().instance = Some(InstanceStatus {
            id: "i-1".into(),
            instance_type: "g6.xlarge".into(),
            zone: "us-east-1a".into(),
            market: Market::Spot,
            price_per_hour: "3.60".parse().unwrap(),
            gpus: 1,
            private_dns_name: None,
            private_ip: None,
            provider_id: None,
            launch_time: None,
        });
    }

    /// The Node joins and is proved.
    pub(super) fn join(&mut self, node: &str) {
        self.launch(node);
        let now = self.now;
        let status: &mut GpuNodeStatus = self.node(node).status.get_or_insert_default();
        set(&mut status.conditions, &want(node_types::REGISTERED, true, "Proved", ""), 1, now);
    }

    pub(super) fn pod(&mut self, role: Role, attempt: i32) -> &mut Pod {
        let (role, attempt) = (role.as_str().to_owned(), attempt.to_string());
        let of = |p: &Pod, key: &str| p.labels().get(key).cloned().unwrap_or_default();
        self.pods.iter_mut().find(|p| of(p, names::ROLE) == role && of(p, names::ATTEMPT) == attempt).unwrap()
    }

    pub(super) fn has(&self, role: Role) -> bool {
        self.pods.iter().any(|p| p.labels().get(names::ROLE).map(String::as_str) == Some(role.as_str()))
    }

    /// With which grace the pod of an attempt was deleted; None: it was not.
    pub(super) fn grace(&self, attempt: i32) -> Option<Option<u32>> {
        let pod = names::pod("digits", "job-uid", 0, attempt, Role::Attempt.as_str());
        self.actions.iter().find_map(|a| match a {
            Action::DeletePod { name, grace, .. } if *name == pod => Some(*grace),
            _ => None,
        })
    }

    /// A container's state in a pod's status.
    pub(super) fn state(&mut self, role: Role, attempt: i32, container: &str, state: ContainerState) {
        let status = self.pod(role, attempt).status.get_or_insert_default();
        let ours = container == FETCH || container == STAGE || container == "prepare";
        let list = if ours { &mut status.init_container_statuses } else { &mut status.container_statuses }.get_or_insert_default();
        list.retain(|s| s.name != container);
        list.push(ContainerStatus { name: container.into(), state: Some(state), ..ContainerStatus::default() });
    }

    fn current(&self) -> i32 {
        self.status().attempts.last().unwrap().number
    }

    /// Inputs fetched, sidecar and program running.
    pub(super) fn start(&mut self) {
        let (now, n) = (self.now, self.current());
        let run = || ContainerState { running: Some(ContainerStateRunning { started_at: Some(Time(now)) }), ..ContainerState::default() };
        self.state(Role::Attempt, n, FETCH, ended(0, now, ""));
        self.state(Role::Attempt, n, STAGE, run());
        self.state(Role::Attempt, n, "main", run());
    }

    /// The program ends now.
    pub(super) fn exit(&mut self, code: i32, message: &str) {
        let (now, n) = (self.now, self.current());
        self.state(Role::Attempt, n, "main", ended(code, now, message));
    }

    /// One of our containers ends with a receipt.
    pub(super) fn answer(&mut self, role: Role, attempt: i32, container: &str, receipt: &Receipt) {
        let state = ended(receipt.exit_code(), self.now, &receipt.encode(1));
        self.state(role, attempt, container, state);
    }

    /// A storage pod ends with a receipt.
    pub(super) fn stored(&mut self, role: Role, attempt: i32, receipt: &Receipt) {
        self.answer(role, attempt, storage::CONTAINER, receipt);
    }
}

pub(super) fn ended(code: i32, at: Timestamp, message: &str) -> ContainerState {
    let t = ContainerStateTerminated {
        exit_code: code,
        reason: Some(if code == 0 { "Completed" } else { "Error" }.into()),
        message: Some(message.into()),
        finished_at: Some(Time(at)),
        ..ContainerStateTerminated::default()
    };
    ContainerState { terminated: Some(t), ..ContainerState::default() }
}

pub(super) fn committed(attempt: u32, outcome: Ended) -> Receipt {
    let mut r = Receipt::new(Mover::Commit, Outcome::Committed, "3 files");
    (r.files, r.bytes) = (3, 1200);
    r.manifest = Some(ManifestRef { key: ".gpujob/manifest.json".into(), sha256: "ab".repeat(32) });
    r.committed = Some(Verdict { attempt, outcome, exit_code: None });
    r.summary = Some(serde_json::json!({"accuracy": 0.97}));
    r
}

pub(super) fn failed(role: Mover, reason: &str, retryable: bool) -> Receipt {
    let mut r = Receipt::new(role, Outcome::Failed, format!("{reason}, in words."));
    (r.reason, r.retryable) = (reason.into(), retryable);
    r
}

pub(super) fn plain(role: Mover, outcome: Outcome) -> Receipt {
    Receipt::new(role, outcome, "in words")
}
