//! A pool as the lab's, for tests.

#![allow(clippy::unwrap_used)]

use gpujob_crds::GpuPool;
use serde_json::json;

pub(crate) fn pool() -> GpuPool {
    serde_json::from_value(json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": {"name": "spot", "uid": "pool-uid"},
        "spec": {"aws": {
            "region": "us-east-1",
            "subnets": {"tags": {"gpujob.dev/cluster": "lab"}},
            "securityGroups": {"tags": {"gpujob.dev/cluster": "lab"}},
            "instanceProfile": "gpujob-node",
            "image": {"ssmParameter": "/aws/service/eks/optimized-ami/1.35/amazon-linux-2023/x86_64/nvidia/recommended/image_id"},
            "bootstrap": {"clusterName": "lab", "apiServerEndpoint": "https://10.77.0.1:6443", "certificateAuthority": "Y2E=", "cidr": "10.96.0.0/16"},
        }},
    }))
    .unwrap()
}
