//! Labels, annotations, taints, finalizers and tags. Each is written by one part and read by another, so each has one name here.

use sha2::{Digest, Sha256};

/// Label of a pod: the UID of the GpuJob that it works for. UIDs, because a job's name may be used again.
pub const JOB_UID: &str = "gpujob.dev/job-uid";
/// Label of a pod: the name of its GpuJob, for people.
pub const JOB: &str = "gpujob.dev/job";
/// Label of a pod: the index within the job, 0 until arrays come.
pub const INDEX: &str = "gpujob.dev/index";
/// Label of a pod: the attempt, from 1.
pub const ATTEMPT: &str = "gpujob.dev/attempt";
/// Label of a pod: `attempt`, `check`, `commit`, `discard`, `release` or `resolve`.
pub const ROLE: &str = "gpujob.dev/role";
/// Annotation of an attempt's pod: when it was last asked to save a checkpoint and go on. Seen inside through the downward API.
pub const CHECKPOINT: &str = "gpujob.dev/checkpoint";
/// Annotation of an attempt's pod: when its node will be taken away. Seen inside like [`CHECKPOINT`]: a checkpoint that cannot be
/// finished by then is not begun.
pub const TAKEN_AT: &str = "gpujob.dev/taken-at";
/// Label that says which program made an object.
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The value of [`MANAGED_BY`], and the prefix of our field managers.
pub const MANAGER: &str = "gpujob";

/// Label of a Node, set by the operator after it has proved which instance the Node is. The prefix is one that the
/// NodeRestriction admission plugin forbids kubelets to set on themselves.
pub const NODE_LABEL: &str = "gpujob.node-restriction.kubernetes.io/node";
/// Label of a Node that its kubelet registers with: the pool.
pub const POOL_LABEL: &str = "gpujob.dev/pool";
/// Taint that a kubelet registers with and that the operator lifts once the Node is proved to be its instance.
pub const UNREGISTERED_TAINT: &str = "gpujob.dev/unregistered";
/// Taint that stays on every GPU node, so that only pods that ask for GPUs (and ours) land there.
pub const GPU_TAINT: &str = "nvidia.com/gpu";

/// Finalizer of a GpuNode: its instance may exist.
pub const NODE_FINALIZER: &str = "gpujob.dev/instance";
/// Finalizer of a GpuPool: it may have GpuNodes, and things that were made for it in the cloud.
pub const POOL_FINALIZER: &str = "gpujob.dev/pool";
/// Finalizer of a GpuJob: it may hold pods or reservations.
pub const JOB_FINALIZER: &str = "gpujob.dev/attempts";
/// Finalizer of an attempt's pod: its outcome is not recorded yet.
pub const POD_FINALIZER: &str = "gpujob.dev/outcome";

/// The Lease of the operator's namespace: who acts.
pub const LEASE: &str = "gpujob-operator";
/// Annotation of that Lease while GpuJob is being drained: a time, renewed; `drained` once nothing is left.
pub const DRAINING: &str = "gpujob.dev/draining";

/// Folder of a node in which its jobs' inputs with `cache: true` stay. Made by the node's user data, mounted by the operator's pods.
pub const CACHE_FOLDER: &str = "/var/lib/gpujob/cache";

/// Tag of everything in a cloud: the cluster, as the UID of its namespace `kube-system`.
pub const CLUSTER_TAG: &str = "gpujob.dev/cluster";
/// Tag of an instance: the name of its GpuNode.
pub const NODE_TAG: &str = "gpujob.dev/node";
/// Tag of an instance: the UID of its GpuNode. Ownership is decided by this, never by the name.
pub const NODE_UID_TAG: &str = "gpujob.dev/node-uid";
/// Tag of an instance: the launch ordinal of its GpuNode that made it.
pub const LAUNCH_TAG: &str = "gpujob.dev/launch";
/// Tag of an instance or launch template: the pool.
pub const POOL_TAG: &str = "gpujob.dev/pool";

/// The first `digits` hex digits of the SHA-256 of `parts` joined by `/`: how every deterministic name is made.
#[must_use]
pub fn digest(parts: &[&str], digits: usize) -> String {
    let sum = Sha256::digest(parts.join("/").as_bytes());
    let mut hex: String = sum.iter().map(|byte| format!("{byte:02x}")).collect();
    hex.truncate(digits);
    hex
}

/// The name of the GpuNode that is launched for this attempt. Deterministic, so that two leaders, or one that crashed
/// and came back, cannot write two intents for one try.
#[must_use]
pub fn gpu_node(job_uid: &str, index: i32, attempt: i32, launch_try: i32) -> String {
    let [index, attempt, launch_try] = [index, attempt, launch_try].map(|n| n.to_string());
    format!("gn-{}", digest(&[job_uid, &index, &attempt, &launch_try], 12))
}

/// The name of a pod of a job: readable first, unique by the job's UID at the end.
#[must_use]
pub fn pod(job: &str, job_uid: &str, index: i32, attempt: i32, role: &str) -> String {
    let end = digest(&[job_uid], 5);
    match role {
        "attempt" => format!("{job}-{index}-{attempt}-{end}"),
        role => format!("{job}-{index}-{attempt}-{role}-{end}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_every_part() {
        let one = gpu_node("u", 0, 1, 1);
        for other in [gpu_node("v", 0, 1, 1), gpu_node("u", 1, 1, 1), gpu_node("u", 0, 2, 1), gpu_node("u", 0, 1, 2)] {
            assert_ne!(one, other);
        }
        assert_eq!(one, gpu_node("u", 0, 1, 1));
        assert_eq!(one.len(), 15);
    }

    #[test]
    fn pod_names_carry_the_role() {
        assert!(pod("train", "u", 0, 2, "attempt").starts_with("train-0-2-"));
        assert!(pod("train", "u", 0, 2, "commit").starts_with("train-0-2-commit-"));
    }
}
