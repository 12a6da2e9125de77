//! The Node object of a kubelet: what it registers with, and what it reports. Pure.

use super::super::machines::Instance;
use gpujob_crds::names;
use jiff::Timestamp;
use serde_json::{Value, json};

/// What it registers with, as the user data of `providers/aws/src/user_data.rs` has it.
pub(super) fn registration(instance: &Instance, now: Timestamp) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": instance.name, "kubernetes.io/os": "linux",
        "topology.kubernetes.io/zone": instance.zone, "node.kubernetes.io/instance-type": instance.instance_type,
    });
    let mut taints = vec![];
    if instance.gpus > 0 {
        labels[names::POOL_LABEL] = json!(instance.pool);
        labels["nvidia.com/gpu.present"] = json!("true");
        taints.push(json!({"key": names::UNREGISTERED_TAINT, "effect": "NoExecute"}));
        taints.push(json!({"key": names::GPU_TAINT, "value": "true", "effect": "NoSchedule"}));
    }
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": instance.name, "labels": labels},
        "spec": {"providerID": instance.provider_id, "taints": taints},
        "status": status(instance, 0, false, now),
    })
}

/// What it reports. `ready`: its runtime and network are up. `gpus`: what its device plugin has registered.
pub(super) fn status(instance: &Instance, gpus: i64, ready: bool, now: Timestamp) -> Value {
    let mut resources = json!({
        "cpu": format!("{}m", instance.millicores), "memory": format!("{}Mi", instance.memory_mib),
        "ephemeral-storage": "90Gi", "pods": instance.pods.to_string(),
    });
    if gpus > 0 {
        resources[&instance.resource_name] = json!(gpus.to_string());
    }
    let (value, reason) = if ready { ("True", "KubeletReady") } else { ("False", "KubeletNotReady") };
    json!({
        "addresses": [
            {"type": "InternalIP", "address": instance.address},
            {"type": "InternalDNS", "address": instance.name},
            {"type": "Hostname", "address": instance.name},
        ],
        "capacity": resources, "allocatable": resources,
        "conditions": [{
            "type": "Ready", "status": value, "reason": reason, "message": "kubelet is posting ready status",
            "lastHeartbeatTime": now, "lastTransitionTime": now,
        }],
    })
}
