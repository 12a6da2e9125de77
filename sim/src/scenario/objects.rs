//! The objects that scenarios begin with: a pool and jobs, as a person would apply them.

use crate::world::{PROGRAMS, Program};
use serde_json::{Value, json};

/// The namespace of all jobs.
pub const NAMESPACE: &str = "lab";
/// The pool's name.
pub const POOL: &str = "gpu";
/// The region of [`pool`].
pub const REGION: &str = "us-east-1";

/// The namespace of the jobs.
#[must_use]
pub fn namespace() -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
}

/// The name of [`quota`].
pub const QUOTA: &str = "team";

/// Room for so many pods in the namespace of the jobs.
#[must_use]
pub fn quota(pods: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": QUOTA, "namespace": NAMESPACE},
        "spec": {"hard": {"pods": pods.to_string()}},
    })
}

/// A pool that buys these types, in spot and on-demand, and gives an empty node back after two minutes.
#[must_use]
pub fn pool(types: &[&str], markets: &[&str]) -> Value {
    json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": POOL},
        "spec": {
            "aws": {
                "region": REGION,
                "subnets": {"tags": {"cluster": "lab"}}, "securityGroups": {"tags": {"cluster": "lab"}},
                "instanceProfile": "gpu-node",
                "bootstrap": {
                    "clusterName": "lab", "apiServerEndpoint": "https://10.0.0.1:6443",
                    "certificateAuthority": "Y2E=", "cidr": "10.96.0.0/16",
                },
            },
            "instances": {"types": types}, "markets": markets, "idleAfter": "2m", "limits": {"nodes": 10},
        },
    })
}

/// Where a job of this name delivers.
#[must_use]
pub fn destination(job: &str) -> String {
    format!("s3://bucket/{job}/")
}

/// A job of one GPU that delivers, with these programs, one for each attempt.
#[must_use]
pub fn job(name: &str, programs: &[Program]) -> Value {
    let programs = serde_json::to_string(programs).unwrap_or_default();
    json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "gpu": {"count": 1},
            "template": {
                "metadata": {"annotations": {PROGRAMS: programs}},
                "spec": {"containers": [{"name": "main", "image": "train", "command": ["train"]}]},
            },
            "results": {"path": "/results", "to": destination(name)},
        },
    })
}

/// The same job without results.
#[must_use]
pub fn job_without_results(name: &str, programs: &[Program]) -> Value {
    let mut job = job(name, programs);
    if let Some(spec) = job["spec"].as_object_mut() {
        spec.remove("results");
    }
    job
}
