//! What a role is asked to do: the JSON in the environment variable `GPUJOB_TRANSFER`.
//!
//! The operator writes it, every role reads it. Pure data: nothing here does I/O.

use serde::{Deserialize, Serialize};

/// Name of the environment variable that holds the [`TransferSpec`] as JSON.
pub const SPEC_ENV: &str = "GPUJOB_TRANSFER";
/// Name of the environment variable that holds the uid of the attempt's pod.
pub const POD_UID_ENV: &str = "GPUJOB_POD_UID";
/// Name of the environment variable that holds the number of containers of the pod (init containers counted).
///
/// Kubernetes shares 12 KiB of termination messages among them; 1 is assumed for the one-container pods of
/// `commit`, `discard` and `resolve`, 4 for `fetch` and `stage`.
pub const CONTAINERS_ENV: &str = "GPUJOB_CONTAINERS";

/// Where `fetch` and `stage` keep what must survive a restart of a container.
pub const STATE_DIR: &str = "/gpujob/state";
/// Folder of the node that jobs of one namespace share, for inputs with `cache: true`.
pub const CACHE_DIR: &str = "/gpujob/cache";
/// Folder of a downward API volume. `checkpoint`: when a checkpoint was last asked for (RFC 3339; empty or absent: never).
/// `taken-at`: when the node will be taken away, once that is known (RFC 3339).
pub const POD_DIR: &str = "/gpujob/pod";
/// Names of environment variables that say other folders than [`STATE_DIR`] and [`POD_DIR`]: for places without a kubelet.
pub const FOLDERS_ENV: [&str; 2] = ["GPUJOB_STATE_DIR", "GPUJOB_POD_DIR"];
/// Where the job's Secret is mounted: a file for each of its keys, renewed by the kubelet while a program runs. Named by
/// [`crate::credentials::aws::FOLDER_ENV`].
pub const CREDENTIALS_DIR: &str = "/gpujob/credentials";
/// Where a container's termination message goes.
pub const TERMINATION_LOG: &str = "/dev/termination-log";

/// One attempt of one job, its inputs and its results.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferSpec {
    /// The job that this attempt belongs to.
    pub job: JobRef,
    /// Index of the job's array; 0 until arrays come.
    #[serde(default)]
    pub index: u32,
    /// Number of the attempt, from 1. A higher one revokes a lower one.
    pub attempt: u32,
    /// What is downloaded before main starts.
    #[serde(default)]
    pub inputs: Vec<Input>,
    /// What is delivered after main ended; absent when the job keeps nothing.
    #[serde(default)]
    pub results: Option<Results>,
    /// What is saved while main runs, and restored before the next attempt's main starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checkpoints>,
    /// What the store is asked to check uploads by; the strongest that it honours when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
    /// Uids of jobs which the operator has seen to be gone by a live read: their uncommitted claims may be taken over.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abandoned: Vec<String>,
}

/// Which job: identity (`uid`), and what `onExisting: Reuse` compares (`namespace`, `name`, `specHash`).
#[derive(Clone, Debug, Default, PartialEq, Hash, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobRef {
    /// Uid of the GpuJob.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Hash of what the job runs; two jobs with the same one produce the same results.
    #[serde(default)]
    pub spec_hash: String,
    /// Uid of the cluster's namespace `kube-system`. Within one cluster a namespace and name has one live uid, so
    /// a job with the same name and another uid is known to be gone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

/// One input: everything under a prefix, or a single object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Input {
    /// `s3://bucket/prefix/` (all below it) or `s3://bucket/key` (that object, else all below `key/`).
    pub from: String,
    /// Absolute folder it is put in; names below the prefix are kept.
    pub path: String,
    /// `sha256:<hex>` of a single object; required for `https://`, which keeps none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checksum: Option<String>,
    /// Whether the node keeps it for its next job, below [`CACHE_DIR`].
    #[serde(default)]
    pub cache: bool,
}

/// Where results come from and where they go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// Absolute folder in which main leaves its results.
    pub path: String,
    /// `s3://bucket/prefix/`.
    pub to: String,
    /// A JSON file below `path`, at most 2 KiB, that travels in the receipt.
    #[serde(default)]
    pub summary: Option<String>,
    /// What to do when the destination already holds something.
    #[serde(default)]
    pub on_existing: OnExisting,
    /// Globs below `path`; empty: everything. `*` stays within a folder, `**` does not.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// Globs below `path` that are not delivered though `include` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// How long the sidecar stays and tries again when delivery fails for a reason that people can mend, in seconds.
    #[serde(default = "Results::keep")]
    pub keep_on_failure_seconds: u64,
}

impl Results {
    fn keep() -> u64 {
        600
    }
}

/// What is saved while main runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoints {
    /// Absolute folder in which main leaves its checkpoints.
    pub path: String,
    /// `s3://bucket/prefix/`, of this job alone.
    pub to: String,
    /// Seconds between two saves; one is also made when asked (see [`POD_DIR`]) and when main has ended early.
    pub interval_seconds: u64,
    /// How many complete ones are kept.
    pub keep: u32,
}

/// What the store checks an upload by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// CRC-64/NVME, of each part and of the whole object.
    Crc64nvme,
    /// SHA-256, of each part.
    Sha256,
    /// `Content-MD5`, of each request.
    Md5,
    /// Nothing: the store cannot check. Sizes are compared afterwards.
    None,
}

/// What to do when the destination already holds results.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnExisting {
    /// Fail with `DestinationNotEmpty`.
    #[default]
    Refuse,
    /// Replace files of the same name; files with other names stay.
    Overwrite,
    /// Succeed at once when they are a successful result of the same namespace, name and spec hash.
    Reuse,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn reads_what_the_operator_writes() {
        let spec: TransferSpec = serde_json::from_str(
            r#"{"job":{"uid":"u","namespace":"n","name":"j","specHash":"h"},"index":0,"attempt":1,
                "inputs":[{"from":"s3://b/p/","path":"/data"}],
                "results":{"path":"/results","to":"s3://b/p/","summary":"metrics.json","onExisting":"Overwrite"}}"#,
        )
        .unwrap();
        assert_eq!(spec.results.as_ref().unwrap().on_existing, OnExisting::Overwrite);
        let again: TransferSpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
        assert_eq!(again, spec);
    }

    #[test]
    fn results_may_be_null_and_defaults_refuse() {
        let spec: TransferSpec =
            serde_json::from_str(r#"{"job":{"uid":"u","namespace":"n","name":"j"},"attempt":2,"results":null}"#).unwrap();
        assert!(spec.results.is_none() && spec.inputs.is_empty() && spec.index == 0);
        let results: Results = serde_json::from_str(r#"{"path":"/r","to":"s3://b/","summary":null}"#).unwrap();
        assert_eq!(results.on_existing, OnExisting::Refuse);
    }
}
