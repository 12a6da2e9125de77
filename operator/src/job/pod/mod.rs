//! Pods of a job, built by pure functions out of a freshly read GpuJob.
//!
//! - [`attempt`]: the user's template, our init container and sidecar, the node, the GPUs.
//! - [`storage`]: the short CPU pods that speak to the store: before an attempt's program runs, and after.
//! - [`mover`]: the container of gpujob-transfer that all of them carry, and [`ask`] what it is asked to do.

pub mod ask;
pub mod attempt;
mod folders;
pub mod mover;
pub mod storage;

use super::facts::Role;
use gpujob_crds::{GpuJob, names};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{Resource, ResourceExt};
use std::collections::BTreeMap;

/// Label of an attempt's pod: the hash of the template that it was made of. A label, because caches keep labels.
pub const TEMPLATE_HASH: &str = "gpujob.dev/template-hash";

/// What the operator's settings say about gpujob-transfer.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// The image.
    pub name: String,
    /// `Always`, `IfNotPresent`, `Never`, or the kubelet's default.
    pub pull_policy: Option<String>,
    /// UID of the namespace kube-system.
    pub cluster: String,
}

/// Which attempt a pod works for, and on which GpuNode.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// 0 until arrays come.
    pub index: i32,
    /// From 1.
    pub attempt: i32,
    /// The GpuNode of the attempt.
    pub node: String,
    /// The name that it offers GPUs under; empty for pods without one.
    pub resource_name: String,
}

/// Why no pod can be made of a GpuJob: a person must change it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PodError {
    /// The template uses a name that we need.
    #[error("template.spec has a {kind} named {name}: the operator needs that name, choose another")]
    NameTaken {
        /// `container` or `volume`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// Two things claim one folder.
    #[error("{path} is wanted by both {one} and {other}: give one of them another folder")]
    PathTaken {
        /// The folder.
        path: String,
        /// Who claims it.
        one: String,
        /// Who claims it too.
        other: String,
    },
    /// `gpu.container` names nothing.
    #[error("gpu.container is {0}, but template.spec.containers has none of that name")]
    NoSuchContainer(String),
    /// A template without containers.
    #[error("template.spec.containers must name at least one container")]
    NoContainer,
    /// GPUs are asked for in two places.
    #[error("container {container} asks for {resource}: remove that, spec.gpu gives the GPUs to container {gpu}")]
    SecondGpu {
        /// Who asks.
        container: String,
        /// For what.
        resource: String,
        /// Who gets them.
        gpu: String,
    },
}

/// SHA-256 of the pod template, first 16 hex digits.
#[must_use]
pub fn template_hash(job: &GpuJob) -> String {
    names::digest(&[&serde_json::to_string(&job.spec.template).unwrap_or_default()], 16)
}

/// Name, labels and owner of a pod of this job, over what `base` brings.
fn metadata(job: &GpuJob, target: &Target, role: Role, base: Option<ObjectMeta>) -> ObjectMeta {
    let base = base.unwrap_or_default();
    let uid = job.uid().unwrap_or_default();
    let mut labels: BTreeMap<String, String> = base.labels.unwrap_or_default();
    for (key, value) in [
        (names::JOB_UID, uid.clone()),
        (names::JOB, job.name_any()),
        (names::INDEX, target.index.to_string()),
        (names::ATTEMPT, target.attempt.to_string()),
        (names::ROLE, role.as_str().to_owned()),
        (names::MANAGED_BY, names::MANAGER.to_owned()),
    ] {
        labels.insert(key.to_owned(), value);
    }
    ObjectMeta {
        name: Some(names::pod(&job.name_any(), &uid, target.index, target.attempt, role.as_str())),
        namespace: job.namespace(),
        labels: Some(labels),
        annotations: base.annotations,
        owner_references: Some(vec![owner(job)]),
        ..ObjectMeta::default()
    }
}

/// The GpuJob as the owner of what is made for it: it goes with the job.
#[must_use]
pub fn owner(job: &GpuJob) -> OwnerReference {
    OwnerReference {
        api_version: GpuJob::api_version(&()).into_owned(),
        kind: GpuJob::kind(&()).into_owned(),
        name: job.name_any(),
        uid: job.uid().unwrap_or_default(),
        controller: Some(true),
        // Blocking would need the right to update gpujobs/finalizers; our own finalizer already orders the deletion.
        block_owner_deletion: None,
    }
}

/// The ConfigMap that keeps the end of an attempt's output.
#[must_use]
pub fn log_name(attempt_pod: &str) -> String {
    format!("{attempt_pod}-log")
}

#[cfg(test)]
mod tests;
