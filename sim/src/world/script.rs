//! What the world is told to do: how long things take, what programs do, and which machines misbehave. Plain data.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// Annotation of a job's pod template: its [`Program`]s as a JSON list, one for each attempt, the last for all that follow.
pub const PROGRAMS: &str = "sim.gpujob.dev/programs";

/// What a job's main container does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Program {
    /// Seconds until it exits by itself.
    pub runs_for: u64,
    /// The code that it exits with then.
    #[serde(default)]
    pub exit_code: i32,
    /// What it does when it is told to end before that.
    #[serde(default)]
    pub on_sigterm: OnSigterm,
}

/// A program's answer to SIGTERM, one second after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum OnSigterm {
    /// Exits 0: looks like a success.
    ExitZero,
    /// Exits with this code.
    ExitCode(i32),
    /// Goes on until it is killed, or its time has come.
    #[default]
    Ignore,
}

impl Program {
    /// Runs for so many seconds and exits 0; told to end, it exits 143 as most programs do.
    #[must_use]
    pub fn ok(runs_for: u64) -> Self {
        Program { runs_for, exit_code: 0, on_sigterm: OnSigterm::ExitCode(143) }
    }

    /// Runs for so many seconds and exits with this code.
    #[must_use]
    pub fn failing(runs_for: u64, exit_code: i32) -> Self {
        Program { exit_code, ..Program::ok(runs_for) }
    }
}

/// What is special about one machine. The default is nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its kubelet never joins.
    pub never_joins: bool,
    /// Its device plugin never answers: Ready without GPUs.
    pub no_gpu: bool,
    /// Its kubelet can give no pod its volumes: none comes further than that.
    pub no_volumes: bool,
    /// So long after its boot, its kubelet loses the API server for so long. Containers go on.
    pub silent: Option<(Duration, Duration)>,
    /// Somebody else registers a Node with this machine's providerID, under this name, just before it joins itself.
    pub impostor: Option<String>,
}

/// How long things take and what misbehaves.
#[derive(Clone, Debug)]
pub struct Script {
    /// From the instance's state `running` to its kubelet's registration.
    pub boot: Duration,
    /// From registration to Ready.
    pub ready: Duration,
    /// From Ready to GPUs that can be had.
    pub gpu: Duration,
    /// From a pod's binding to its first container: sandbox and images.
    pub pull: Duration,
    /// How long looking at inputs and destination takes.
    pub check: Duration,
    /// How long fetching inputs takes.
    pub fetch: Duration,
    /// How long staging results takes.
    pub stage: Duration,
    /// How long a commit pod gets nowhere once it has passed the point of no return, before it copies anything.
    pub publish: Duration,
    /// How long the pod's phase lags behind its containers' states. Measured in the lab: 2 to 3 s.
    pub phase_lag: Duration,
    /// One request to the object store.
    pub store_latency: Duration,
    /// Until a silent kubelet's Node is called unreachable: kube-controller-manager's `node-monitor-grace-period`.
    pub node_grace: Duration,
    /// Until pods of a Node that is gone are collected: PodGC's quarantine and period.
    pub pod_gc: Duration,
    /// Machines by the order in which they boot, counted from 0. The others are as they should be.
    pub machines: BTreeMap<usize, Machine>,
    /// Programs by job name, for jobs without the annotation [`PROGRAMS`].
    pub programs: BTreeMap<String, Vec<Program>>,
    /// Whether there is a Node without GPUs that is always up, where short pods run.
    pub cpu_node: bool,
    /// Plays kube-scheduler. Off where a real one runs.
    pub scheduler: bool,
    /// Plays the node lifecycle, taint eviction, pod garbage and service account controllers. Off where a real
    /// kube-controller-manager runs.
    pub controllers: bool,
    /// Plays the namespace controller. FakeKube has one of its own; a bare API server has none.
    pub namespaces: bool,
    /// Seconds between renewals of each kubelet's Lease. None where nobody reads them.
    pub heartbeat: Option<Duration>,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            boot: Duration::from_secs(40),
            ready: Duration::from_secs(3),
            gpu: Duration::from_secs(15),
            pull: Duration::from_secs(5),
            check: Duration::from_secs(1),
            fetch: Duration::from_secs(2),
            stage: Duration::from_secs(3),
            publish: Duration::ZERO,
            phase_lag: Duration::from_secs(2),
            store_latency: Duration::from_millis(20),
            node_grace: Duration::from_secs(40),
            pod_gc: Duration::from_secs(50),
            machines: BTreeMap::new(),
            programs: BTreeMap::new(),
            cpu_node: true,
            scheduler: true,
            controllers: true,
            namespaces: false,
            heartbeat: None,
        }
    }
}
