//! The short CPU pods that speak to the store, with the job's own credentials: before an attempt's program runs on whatever CPU node
//! has room, after it on the attempt's node if that is still up (the image is there), else anywhere.

use super::attempt::{silence, tolerate};
use super::mover::{self, PodUid, User, mount};
use super::{Image, Target, log_name, metadata};
use crate::job::facts::Role;
use gpujob_crds::{GpuJob, names};
use k8s_openapi::api::core::v1::{
    Affinity, ConfigMapVolumeSource, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PreferredSchedulingTerm,
    Volume, VolumeMount,
};
use kube::ResourceExt;

/// Name of the one container of these pods.
pub const CONTAINER: &str = "gpujob-storage";
const LOG: &str = "gpujob-log";
const LOG_DIR: &str = "/gpujob/log";
const LOG_FILE: &str = "/gpujob/log/main.log";
/// Seconds that all but `commit` may run; `commit` has the delivery deadline and this on top.
const SHORT: i64 = 600;

/// What such a pod is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Make the results of a program that ended well visible.
    CommitSucceeded,
    /// Keep what the last attempt of a failed job left, with its exit code.
    CommitFailed(i32),
    /// Look at inputs and destination while the node is on its way: what can never work is then told in seconds.
    Check,
    /// Throw away what a failed attempt left.
    Discard,
    /// Throw away what the job left, and give its destination back.
    Release {
        /// Its checkpoints too: nobody will look into it.
        forget: bool,
    },
    /// Say what became of the results.
    Resolve,
}

impl Task {
    /// The role of its pod.
    #[must_use]
    pub const fn role(self) -> Role {
        match self {
            Task::CommitSucceeded | Task::CommitFailed(_) => Role::Commit,
            Task::Check => Role::Check,
            Task::Discard => Role::Discard,
            Task::Release { .. } => Role::Release,
            Task::Resolve => Role::Resolve,
        }
    }

    fn args(self, job: &GpuJob) -> Vec<String> {
        let wait = job.spec.delivery_deadline();
        let commit = |outcome: &str, code: i32| {
            // One word, or clap would read a negative code as a flag.
            vec![
                "commit".into(),
                "--outcome".into(),
                outcome.into(),
                format!("--exit-code={code}"),
                format!("--wait={wait}"),
                "--log".into(),
                LOG_FILE.into(),
            ]
        };
        match self {
            Task::CommitSucceeded => commit("Succeeded", 0),
            Task::CommitFailed(code) => commit("Failed", code),
            Task::Check => {
                let days = days(job).map(|n| format!("--days={n}"));
                ["check".to_owned()].into_iter().chain(days).collect()
            }
            Task::Discard => vec!["discard".into()],
            Task::Release { forget } => {
                let flags = ["discard", "--release"].into_iter().chain(forget.then_some("--forget"));
                flags.map(str::to_owned).collect()
            }
            Task::Resolve => vec!["resolve".into()],
        }
    }
}

/// Builds the pod. `pod_uid` is the attempt's pod: its staging area is named after it. Empty: there is none yet.
#[must_use]
pub fn build(job: &GpuJob, target: &Target, image: &Image, task: Task, pod_uid: &str) -> Pod {
    let args = task.args(job);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let uid = if pod_uid.is_empty() { PodUid::Own } else { PodUid::Of(pod_uid) };
    let mut container = mover::container(job, target, image, CONTAINER, &args, uid, User::Nobody);
    let template = job.spec.template.spec.as_ref();
    let mut volumes = mover::volumes(job);
    let mut delivery = 0;
    if task.role() == Role::Commit {
        delivery = job.spec.delivery_deadline();
        container.volume_mounts.get_or_insert_default().push(VolumeMount { read_only: Some(true), ..mount(LOG, LOG_DIR) });
        volumes.push(log(job, target));
    }
    // What looks at the data before a GPU is there belongs on a CPU node: a GPU node of others may be given back under it, and a pod
    // without its Node stays until the cluster's own collector comes by.
    let gpu_nodes_too = (task != Task::Check).then(|| tolerate(names::GPU_TAINT, "NoSchedule", None));
    let spec = PodSpec {
        containers: vec![container],
        volumes: Some(volumes),
        restart_policy: Some("Never".into()),
        active_deadline_seconds: Some(delivery + SHORT),
        // The job's identity where the store trusts that instead of keys; never the API server's token.
        service_account_name: template.and_then(|t| t.service_account_name.clone()),
        automount_service_account_token: Some(false),
        image_pull_secrets: template.and_then(|t| t.image_pull_secrets.clone()),
        tolerations: Some(gpu_nodes_too.into_iter().chain(silence()).collect()),
        affinity: Some(near(&target.node)),
        termination_grace_period_seconds: Some(30),
        ..PodSpec::default()
    };
    Pod { metadata: metadata(job, target, task.role(), None), spec: Some(spec), status: None }
}

/// How many days the job may take, where it says so, and one more: a bucket must not abort its uploads before.
fn days(job: &GpuJob) -> Option<i64> {
    let s = &job.spec;
    let seconds = s.queue_deadline_seconds.unwrap_or(0) + s.active_deadline_seconds? + s.delivery_deadline();
    Some((seconds + 86_399) / 86_400 + 1)
}

/// The end of the program's output, to be kept beside its results.
fn log(job: &GpuJob, target: &Target) -> Volume {
    let pod = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), target.index, target.attempt, Role::Attempt.as_str());
    Volume {
        name: LOG.into(),
        // Optional: saving the log is best effort and must not hold the results back.
        config_map: Some(ConfigMapVolumeSource { name: log_name(&pod), optional: Some(true), ..ConfigMapVolumeSource::default() }),
        ..Volume::default()
    }
}

fn near(node: &str) -> Affinity {
    let here = NodeSelectorRequirement { key: names::NODE_LABEL.into(), operator: "In".into(), values: Some(vec![node.into()]) };
    Affinity {
        node_affinity: Some(NodeAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![PreferredSchedulingTerm {
                weight: 100,
                preference: NodeSelectorTerm { match_expressions: Some(vec![here]), match_fields: None },
            }]),
            ..NodeAffinity::default()
        }),
        ..Affinity::default()
    }
}
