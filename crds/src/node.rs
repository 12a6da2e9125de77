//! `GpuNode`: one instance, from intent to proven termination. Written before the cloud is called, removed after the cloud
//! says that the instance is gone.

use crate::{Market, Price};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The intent of one launch. Immutable: what was asked for must be replayed byte for byte.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "gpujob.dev",
    version = "v1alpha1",
    kind = "GpuNode",
    status = "GpuNodeStatus",
    cel,
    shortname = "gn",
    category = "gpu",
    derive = "Default",
    derive = "PartialEq",
    doc = "One instance, from the intent to buy it to the proof that it is gone. The operator writes these.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].reason"),
    printcolumn(name = "Type", type_ = "string", json_path = ".status.instance.instanceType"),
    printcolumn(name = "Zone", type_ = "string", json_path = ".status.instance.zone"),
    printcolumn(name = "Market", type_ = "string", json_path = ".spec.launch.market"),
    printcolumn(name = "Price", type_ = "string", json_path = ".status.instance.pricePerHour"),
    printcolumn(name = "Instance", type_ = "string", json_path = ".status.instance.id"),
    printcolumn(name = "Pool", type_ = "string", json_path = ".spec.pool", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[x_kube(validation = Rule::new("self == oldSelf").message("a GpuNode's spec is immutable: it is the record of what was bought. Delete the GpuNode to give the instance back"))]
pub struct GpuNodeSpec {
    /// The pool that pays.
    pub pool: String,
    /// The pool's UID, because a name may be used again.
    pub pool_uid: String,
    /// The provider's name, such as `aws`.
    pub provider: String,
    /// The region. Copied, so that the instance can be found when the pool is gone.
    pub region: String,
    /// The reservations that it is launched for. Once `status.assignments` is set, that is the truth.
    #[schemars(length(max = 64))]
    pub launched_for: Vec<Reservation>,
    /// What is asked of the cloud.
    pub launch: LaunchIntent,
    /// The GPUs of the smallest instance that the request may return.
    #[schemars(range(min = 0, max = 64))]
    pub gpus: i32,
    /// The name that the Node offers its GPUs under.
    pub resource_name: String,
}

/// A rendered launch request: replayed as it is, never rendered again, because prices and operator versions move.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct LaunchIntent {
    /// Part of the client token. 1: a definite refusal ends this GpuNode and the next try is a new one.
    pub ordinal: i32,
    /// The market of all its offers.
    pub market: Option<Market>,
    /// The offers that the request accepts, cheapest first.
    #[schemars(length(max = 128))]
    pub offers: Vec<OfferRef>,
    /// The provider's own request, whole.
    #[schemars(schema_with = "crate::template::any_object")]
    pub request: serde_json::Value,
}

/// One offer by name, with its price when the intent was written.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct OfferRef {
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// US dollars per hour.
    pub price_per_hour: Price,
    /// Its GPUs.
    pub gpus: i32,
}

/// An attempt's claim on this node's GPUs. It lives here alone; a job's status is a copy.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Reservation {
    /// The UID of the GpuJob.
    pub job_uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// 0 until arrays come.
    #[serde(default)]
    pub index: i32,
    /// From 1.
    pub attempt: i32,
    /// The GPUs it holds.
    pub gpus: i32,
    /// What its pods ask for besides: what is left for others on a node with many GPUs. Absent: its share by GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asks: Option<Asks>,
}

/// What the pods of an attempt ask of a node, GPUs aside.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
pub struct Asks {
    /// Millicores.
    pub millicores: i64,
    /// MiB of memory.
    pub memory_mib: i64,
    /// MiB of ephemeral storage.
    pub disk_mib: i64,
}

/// What is known of the instance.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuNodeStatus {
    /// Launched, Registered, Initialized, Ready, Terminated.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The instance that the cloud gave for this intent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceStatus>,
    /// The Node, once it is proved to be the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The reservations. Absent until the first change: then `spec.launchedFor` holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub assignments: Option<Vec<Reservation>>,
    /// When the last reservation ended: the idle window runs from here. Absent while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_since: Option<Time>,
    /// When an interruption notice was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupted: Option<Time>,
}

/// The instance behind a GpuNode.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct InstanceStatus {
    /// The provider's id, such as `i-0abc`.
    pub id: String,
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The market it was bought in.
    pub market: Market,
    /// US dollars per hour when it was bought.
    pub price_per_hour: Price,
    /// Its GPUs.
    pub gpus: i32,
    /// The name that its kubelet must join with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_dns_name: Option<String>,
    /// The address that its Node must have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_ip: Option<String>,
    /// What its Node's `spec.providerID` must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// When the cloud says that it was launched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launch_time: Option<Time>,
}

impl GpuNode {
    /// The reservations that hold now: of the status once it has any, of the intent before.
    #[must_use]
    pub fn reservations(&self) -> &[Reservation] {
        self.status.as_ref().and_then(|s| s.assignments.as_deref()).unwrap_or(&self.spec.launched_for)
    }

    /// The dearest price per hour that the request may have bought at, by the prices of its offers.
    #[must_use]
    pub fn dearest(&self) -> Price {
        self.spec.launch.offers.iter().map(|o| o.price_per_hour).max().unwrap_or(Price::ZERO)
    }

    /// The GPUs that are not reserved. What was really bought counts once it is known.
    #[must_use]
    pub fn free_gpus(&self) -> i32 {
        let bought = self.status.as_ref().and_then(|s| s.instance.as_ref()).map_or(self.spec.gpus, |i| i.gpus);
        bought - self.reservations().iter().map(|r| r.gpus).sum::<i32>()
    }

    /// The reservation of this job, if it has one here. By UID.
    #[must_use]
    pub fn reservation_of(&self, job_uid: &str) -> Option<&Reservation> {
        self.reservations().iter().find(|r| r.job_uid == job_uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_outranks_the_intent() {
        let one = Reservation { job_uid: "a".into(), attempt: 1, gpus: 1, ..Default::default() };
        let mut node = GpuNode { spec: GpuNodeSpec { launched_for: vec![one], gpus: 4, ..Default::default() }, ..Default::default() };
        assert_eq!(node.free_gpus(), 3);
        assert!(node.reservation_of("a").is_some());
        node.status = Some(GpuNodeStatus { assignments: Some(vec![]), ..Default::default() });
        assert_eq!(node.free_gpus(), 4);
        assert!(node.reservation_of("a").is_none());
    }
}
