//! What the operator says of a GpuJob: conditions, attempts, and the receipt.

use crate::{Market, Price};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is known of a GpuJob. `conditions` is the truth; `state`, `attempt` and `node` are there to be read in a table.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuJobStatus {
    /// The generation of the spec that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Succeeded, Reconciling, Stalled, Assigned, StorageReady, Running, ResultsStored, Suspended.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One word for the table: Waiting, Launching, Starting, Running, Delivering, Succeeded, Failed, Suspended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The number of the current attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<i32>,
    /// The GpuNode of the current attempt: a copy, the GpuNode holds the reservation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When the program first started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When the job ended, delivered or failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// Every attempt, oldest first, at most 160. Old interrupted ones are dropped beyond 32; the counters keep the count.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 160))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub attempts: Vec<Attempt>,
    /// UIDs of jobs that held the destination with nothing published, and that a live read has shown to be gone: this job takes their
    /// claim over. At most 8, newest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(max = 64)))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub abandoned: Vec<String>,
    /// Attempts that ended by the program's own failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<i32>,
    /// Attempts that ended by an interruption.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interruptions: Option<i32>,
    /// What was tried while waiting, and when the next try is. Written by the scheduler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Waiting>,
    /// The content of `results.summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::template::any_object")]
    pub summary: Option<serde_json::Value>,
    /// What it took and cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Receipt>,
}

/// One run of the job's pod.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// From 1.
    pub number: i32,
    /// 0 until arrays come.
    #[serde(default)]
    pub index: i32,
    /// The GpuNode it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// The UID of its pod: the name of its staging area.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_uid: Option<String>,
    /// SHA-256 of the pod template that it ran, first 16 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_hash: Option<String>,
    /// When the reservation was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub assigned_time: Option<Time>,
    /// When its program started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When its program ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_time: Option<Time>,
    /// How its program ended, recorded before anything is decided from it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it was disrupted, if it was before its program ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disruption: Option<String>,
    /// How it ended. Absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// One CamelCase word for why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people, with the last lines of the program's output when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What became of its results in the store: `Committed`, `Discarded`, `Released` (thrown away, and the destination given back),
    /// `Unresolved`, `Unreleased`, or absent when unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<String>,
    /// When its outcome was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// What was bought for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offer: Option<BoughtOffer>,
}

/// How an attempt ended.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Exit code 0, undisturbed, and the results are committed.
    Succeeded,
    /// The program's own failure, or a setting that cannot work.
    Failed,
    /// Taken away before it ended.
    Interrupted,
}

/// The offer that an attempt ran on.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct BoughtOffer {
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The market.
    pub market: Market,
    /// US dollars per hour when it was bought.
    pub price_per_hour: Price,
}

/// Why the job has no reservation yet.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Waiting {
    /// When the operator tries again by itself. Absent: when something changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try: Option<Time>,
    /// The last answers, newest first, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub tried: Vec<Tried>,
}

/// One offer that was asked for, and the answer.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Tried {
    /// Such as `spot g6.xlarge us-east-1a`.
    pub offer: String,
    /// The provider's code.
    pub answer: String,
}

/// What a job took and cost. Seconds are whole; dollars a decimal string.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// From creation to the reservation of the winning attempt.
    #[serde(default)]
    pub queue_seconds: i64,
    /// From the reservation to the start of the program: launch, boot, pull and inputs.
    #[serde(default)]
    pub start_seconds: i64,
    /// The program itself.
    #[serde(default)]
    pub run_seconds: i64,
    /// From the program's end to the commit.
    #[serde(default)]
    pub delivery_seconds: i64,
    /// Spent in attempts that were interrupted or failed.
    #[serde(default)]
    pub lost_seconds: i64,
    /// From reservation to end of all attempts at the price of their offers, shared by GPUs; the idle window after the
    /// last one is the pool's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dollars: Option<Price>,
    /// Files delivered.
    #[serde(default)]
    pub files: i64,
    /// Bytes delivered.
    #[serde(default)]
    pub bytes: i64,
    /// The key of the manifest, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest: Option<String>,
    /// SHA-256 of the manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
}
