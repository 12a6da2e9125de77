//! `GpuJob`: one piece of GPU work. A pod template, what goes in, what comes out, what it may cost.

use crate::{Market, Price, duration::Seconds, job_status::GpuJobStatus, template};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to run, on which GPU, with which data, at which price. Field names follow `batch/v1 Job` where the idea is the
/// same: a Job becomes a GpuJob by changing the kind and adding `gpu` and `results`.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "gpujob.dev", version = "v1alpha1", kind = "GpuJob", namespaced, status = "GpuJobStatus", cel,
    shortname = "gj", category = "gpu", derive = "Default", derive = "PartialEq",
    doc = "One piece of GPU work: a pod template, what goes in, what comes out, what it may cost.",
    printcolumn(name = "State", type_ = "string", json_path = ".status.state"),
    printcolumn(name = "GPUs", type_ = "integer", json_path = ".spec.gpu.count"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Cost", type_ = "string", json_path = ".status.receipt.dollars"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Succeeded')].message", priority = 1),
    validation = Rule::new("size(self.metadata.name) <= 52").message("metadata.name may have at most 52 characters: pods are named after it"),
)]
#[x_kube(
    validation = Rule::new("!has(self.completions) && !has(self.parallelism)").message("completions and parallelism are not supported yet: apply one GpuJob for each run"),
    validation = Rule::new("!has(self.onDemandAfter) || !has(self.markets) || self.markets.size() == 2").message("onDemandAfter says when to leave spot for on-demand: name both in markets, or leave markets out"),
    validation = Rule::new("!has(self.windows)").message("windows is not supported yet: use suspend to hold the job back"),
    validation = Rule::new("!has(self.fallback)").message("fallback is not supported yet"),
    validation = Rule::new("!has(self.notify)").message("notify is not supported yet: watch the Succeeded condition"),
    validation = Rule::new("!has(self.gpu.container) || !has(self.template.spec) || self.template.spec.containers.exists(c, c.name == self.gpu.container)").message("gpu.container must be the name of one of template.spec.containers"),
    validation = Rule::new("!has(self.inputs) || self.inputs.all(i, self.inputs.exists_one(j, j.path == i.path))").message("each of inputs needs a path of its own"),
    validation = Rule::new("!has(self.inputs) || !has(self.results) || self.inputs.all(i, i.path != self.results.path)").message("results.path must not be the path of an input: the input would be delivered as a result"),
    validation = Rule::new("!has(self.checkpoints) || !has(self.inputs) || self.inputs.all(i, i.path != self.checkpoints.path)").message("checkpoints.path must not be the path of an input"),
    validation = Rule::new("!has(self.checkpoints) || !has(self.results) || self.results.path != self.checkpoints.path").message("checkpoints.path must not be results.path: checkpoints would be delivered as results"),
    validation = Rule::new("!has(self.checkpoints) || has(self.checkpoints.to) || has(self.results)").message("checkpoints.to is needed where there are no results: write s3://bucket/prefix/"),
    validation = Rule::new("self.gpu == oldSelf.gpu").message("gpu is immutable: delete the GpuJob and apply it again"),
    validation = Rule::new("self.template == oldSelf.template || (has(oldSelf.suspend) && oldSelf.suspend)").message("template is immutable unless the GpuJob is suspended: delete it and apply it again"),
    validation = Rule::new("has(self.inputs) == has(oldSelf.inputs) && (!has(self.inputs) || self.inputs == oldSelf.inputs)").message("inputs is immutable: delete the GpuJob and apply it again"),
    validation = Rule::new("has(self.results) == has(oldSelf.results) && (!has(self.results) || self.results == oldSelf.results)").message("results is immutable: delete the GpuJob and apply it again"),
    validation = Rule::new("has(self.checkpoints) == has(oldSelf.checkpoints) && (!has(self.checkpoints) || self.checkpoints == oldSelf.checkpoints)").message("checkpoints is immutable: delete the GpuJob and apply it again"),
    validation = Rule::new("has(self.storage) == has(oldSelf.storage) && (!has(self.storage) || self.storage == oldSelf.storage)").message("storage is immutable: delete the GpuJob and apply it again"),
    validation = Rule::new("(has(self.pools) == has(oldSelf.pools) && (!has(self.pools) || self.pools == oldSelf.pools)) || (has(oldSelf.suspend) && oldSelf.suspend)").message("pools is immutable unless the GpuJob is suspended"),
    validation = Rule::new("has(self.managedBy) == has(oldSelf.managedBy) && (!has(self.managedBy) || self.managedBy == oldSelf.managedBy)").message("managedBy is immutable"),
)]
pub struct GpuJobSpec {
    /// The GPUs of one attempt.
    pub gpu: Gpu,
    /// The pod to run. Its first container (or `gpu.container`) gets the GPUs. `restartPolicy` is `Never`, or absent.
    #[schemars(schema_with = "template::pod_template")]
    pub template: PodTemplateSpec,
    /// What to copy into the pod before its containers start.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub inputs: Vec<Input>,
    /// What to deliver when the containers have ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Results>,
    /// A folder that survives interruptions: saved while the program runs, restored before the next attempt starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoints: Option<Checkpoints>,
    /// How the pod reaches object storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// The pools to buy from. Default: every pool that admits the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), inner(length(max = 253)))]
    pub pools: Vec<String>,
    /// The markets to buy in. Default: all that the pool allows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub markets: Vec<Market>,
    /// When to leave the spot market, if the pool and `markets` allow on-demand. Default: as soon as every spot offer that fits
    /// and costs less was refused. With a deadline on-demand is bought before it is too late, whatever is said here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_demand_after: Option<OnDemandAfter>,
    /// What it may cost. Checked before anything is bought.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Jobs of higher priority are served first; among equals, the older.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = -1_000_000, max = 1_000_000))]
    pub priority: Option<i32>,
    /// When it may run. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub windows: Option<Vec<Window>>,
    /// What to do when no GPU can be had. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Whom to tell. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8))]
    pub notify: Option<Vec<Notify>>,
    /// Hold the job back; a running attempt is stopped as on a spot notice and its node given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<bool>,
    /// How many times a failing program is run again. Interruptions do not count. Default 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 100))]
    pub backoff_limit: Option<i32>,
    /// How many interruptions are borne before the job is given up. Default 20.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub interruption_limit: Option<i32>,
    /// Seconds that the job may take from its first start of the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub active_deadline_seconds: Option<i64>,
    /// Seconds that the job may wait for its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub queue_deadline_seconds: Option<i64>,
    /// Seconds that delivery may take after the program has ended. Default 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 10, max = 86_400))]
    pub delivery_deadline_seconds: Option<i64>,
    /// Seconds after its end that the GpuJob is deleted. No default: it stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub ttl_seconds_after_finished: Option<i32>,
    /// The controller in charge, as in `batch/v1 Job`. Anything but `gpujob.dev/operator` makes this operator leave the job alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub managed_by: Option<String>,
    /// Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completions: Option<i32>,
    /// Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<i32>,
}

/// The GPUs of one attempt. Only `count` is needed.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// How many GPUs, all on one node.
    #[schemars(range(min = 1, max = 16))]
    pub count: i32,
    /// The least memory of each GPU, such as `20Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{1,6}([.][0-9]{1,3})?(Mi|Gi|Ti|M|G|T)$')").message("write GPU memory as 20Gi, 24576Mi or 80G"))]
    pub memory: Option<String>,
    /// The models that will do, as the provider names them: `T4`, `A10G`, `L4`, `L40S`, `A100`, `H100`. Default: any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 32)))]
    pub models: Vec<String>,
    /// The container of the template that gets the GPUs. Default: the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub container: Option<String>,
}

/// One thing to copy in.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!self.from.startsWith('https://') || has(self.checksum)").message("an input from https:// needs a checksum: sha256: and 64 hex digits, as sha256sum prints them"),
    validation = Rule::new("!has(self.checksum) || !self.from.endsWith('/')").message("a checksum is of one object: from must not end with a slash"),
)]
pub struct Input {
    /// An object (`s3://bucket/key`), everything below a prefix (`s3://bucket/prefix/`), the same with `gs://`, or a file of a web
    /// server (`https://host/file`).
    #[schemars(length(max = 1100))]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/.*$') || self.matches('^https://[^/?#@]+/.*[^/]$')").message("write s3://bucket/key for one object, s3://bucket/prefix/ for all below it, gs:// for Google Cloud, or https://host/file"))]
    pub from: String,
    /// The folder in every container where it appears. Absolute.
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^/[^:]+$') && self != '/gpujob' && !self.startsWith('/gpujob/')").message("write an absolute folder such as /data; /gpujob is taken by the operator"))]
    pub path: String,
    /// What the object must be: `sha256:` and 64 hex digits. Bytes that differ never reach the program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    #[x_kube(validation = Rule::new("self.matches('^sha256:[0-9a-f]{64}$')").message("write sha256: and 64 hex digits, as sha256sum prints them"))]
    pub checksum: Option<String>,
    /// Keep it on the node's disk for the next job there that asks for the same content. The job's namespace must admit hostPath volumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<bool>,
}

/// What to deliver, and where.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Results {
    /// The folder in every container whose files are the results. Absolute.
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^/[^:]+$') && self != '/gpujob' && !self.startsWith('/gpujob/')").message("write an absolute folder such as /data; /gpujob is taken by the operator"))]
    pub path: String,
    /// The destination: a prefix that ends with `/`. Files keep the names that the program gave them.
    #[schemars(length(max = 1100))]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/(.*/)?$')").message("write s3://bucket/prefix/ (or gs://) with a slash at the end"))]
    pub to: String,
    /// A JSON file among the results, at most 2 KiB, that also appears in `status.summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("!self.startsWith('/') && !self.contains('..')").message("summary is a file below results.path, such as metrics.json"))]
    pub summary: Option<String>,
    /// What to do when the destination holds results already. Default `Refuse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_existing: Option<OnExisting>,
    /// Globs below `path`: only these files are delivered. `*` stays within a folder, `**` does not. Default: everything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub include: Vec<String>,
    /// Globs below `path`: files that are not delivered, though `include` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 255)))]
    pub exclude: Vec<String>,
    /// How long the results stay on the node, and delivery is tried again, when it fails for a reason that a person can mend. The
    /// node is paid for meanwhile. Default 10m; at most `deliveryDeadlineSeconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_on_failure: Option<Seconds>,
}

/// What to do when the destination holds committed results.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExisting {
    /// Fail the job, and touch nothing.
    #[default]
    Refuse,
    /// Replace them when the new ones are whole.
    Overwrite,
    /// Take them as this job's results if namespace, name and spec are the same: for GitOps, which applies for ever.
    Reuse,
}

/// A folder that is saved while the program runs, and restored before the next attempt starts. Each save is whole or not there.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoints {
    /// The folder. Absolute.
    #[schemars(length(max = 255))]
    #[x_kube(validation = Rule::new("self.matches('^/[^:]+$') && self != '/gpujob' && !self.startsWith('/gpujob/')").message("write an absolute folder such as /data; /gpujob is taken by the operator"))]
    pub path: String,
    /// Below which prefix they are kept, in `.gpujob/checkpoints/` and there in a folder for each job. Ends with `/`. Default:
    /// `results.to`. They go when the results are delivered, or the GpuJob is deleted before; a failed job's stay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1100))]
    #[x_kube(validation = Rule::new("self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]/(.*/)?$')").message("write s3://bucket/prefix/ (or gs://) with a slash at the end"))]
    pub to: Option<String>,
    /// How often it is saved, besides when the node is about to be taken away. Default 5m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Seconds>,
    /// How many are kept. Default 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub keep: Option<i32>,
}

/// How object storage is reached.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Storage {
    /// Where the keys are. Without it the identity of the pod's service account is used. The Secret's keys are the SDKs' own names:
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, and `AWS_CA_BUNDLE`, the
    /// PEM text itself of a store's own certificate authority; for `gs://` `GOOGLE_APPLICATION_CREDENTIALS`, the JSON itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<SecretName>,
    /// What the store checks uploads by. Default: the strongest that it honours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub integrity: Option<Integrity>,
}

/// What the store checks uploads by.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Integrity {
    /// CRC-64/NVME.
    Crc64nvme,
    /// SHA-256.
    Sha256,
    /// Content-MD5.
    Md5,
    /// Nothing: the store cannot check. Sizes are compared afterwards.
    None,
}

/// A Secret of the job's namespace.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct SecretName {
    /// The Secret's name.
    #[schemars(length(min = 1, max = 253))]
    pub secret_name: String,
}

/// When to leave the spot market: whichever comes first.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.interruptions) || has(self.waiting)").message("onDemandAfter needs interruptions, waiting or both"))]
pub struct OnDemandAfter {
    /// After this many interruptions: from then on on-demand is bought first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000))]
    pub interruptions: Option<i32>,
    /// After an attempt has waited this long for spot capacity: then on-demand is bought if no spot offer that costs less is
    /// to be had. `0s`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting: Option<Seconds>,
}

/// What the job may cost, in US dollars.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.total)").message("budget.total is not supported yet: use budget.pricePerHour with activeDeadlineSeconds"))]
pub struct Budget {
    /// The most that an instance for this job may cost per hour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<Price>,
    /// The most that the whole job may cost. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Price>,
}

/// A time at which the job may run.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// When it opens, in cron's five fields.
    #[schemars(length(max = 100))]
    pub cron: String,
    /// How long it stays open.
    pub duration: Seconds,
    /// An IANA zone. Default UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub time_zone: Option<String>,
}

/// What to do when no GPU can be had.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Fallback {
    /// Run on CPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuFallback>,
}

/// Run without a GPU.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct CpuFallback {
    /// After this long without a GPU.
    pub after: Seconds,
}

/// Whom to tell, and of what.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Notify {
    /// A web address, kept in a Secret.
    pub webhook: SecretName,
    /// The events. Not called `on`: YAML reads that word as `true`.
    #[schemars(length(max = 8), inner(length(max = 32)))]
    pub events: Vec<String>,
}

impl GpuJobSpec {
    /// How many times a failing program is run again.
    #[must_use]
    pub fn backoff_limit(&self) -> i32 {
        self.backoff_limit.unwrap_or(2)
    }

    /// How many interruptions are borne.
    #[must_use]
    pub fn interruption_limit(&self) -> i32 {
        self.interruption_limit.unwrap_or(20)
    }

    /// Seconds that delivery may take.
    #[must_use]
    pub fn delivery_deadline(&self) -> i64 {
        self.delivery_deadline_seconds.unwrap_or(3600)
    }

    /// Seconds that results stay on the node while delivery fails for a reason that a person can mend.
    #[must_use]
    pub fn keep_on_failure(&self) -> i64 {
        let asked = self.results.as_ref().and_then(|r| r.keep_on_failure).map_or(600, |s| s.0);
        asked.min(self.delivery_deadline())
    }

    /// Whether anything of the job is read from or written to a store.
    #[must_use]
    pub fn moves_data(&self) -> bool {
        !self.inputs.is_empty() || self.results.is_some() || self.checkpoints.is_some()
    }

    /// Whether this operator is in charge of the job.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.managed_by.as_deref().is_none_or(|by| by == "gpujob.dev/operator")
    }
}
