//! `GpuPool`: where capacity may come from, and what it may cost. Its minimum is zero.

use crate::{Market, Price, duration::Seconds};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector, Time};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Provider settings, instance types, price caps, limits and the idle window.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[kube(
    group = "gpujob.dev",
    version = "v1alpha1",
    kind = "GpuPool",
    status = "GpuPoolStatus",
    cel,
    shortname = "gp",
    category = "gpu",
    derive = "Default",
    derive = "PartialEq",
    doc = "Where GPU capacity may come from, and what it may cost. Its minimum is zero.",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].status"),
    printcolumn(name = "Nodes", type_ = "integer", json_path = ".status.nodes"),
    printcolumn(name = "PerHour", type_ = "string", json_path = ".status.pricePerHour"),
    printcolumn(name = "Offers", type_ = "integer", json_path = ".status.offers"),
    printcolumn(name = "Cheapest", type_ = "string", json_path = ".status.cheapest"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type=='Ready')].message", priority = 1)
)]
#[x_kube(
    validation = Rule::new("has(self.aws)").message("name one provider: aws"),
    validation = Rule::new("!has(self.aws) || !has(oldSelf.aws) || self.aws.region == oldSelf.aws.region").message("aws.region is immutable: make another GpuPool for another region"),
    validation = Rule::new("!has(self.limits) || !has(self.limits.spendPerMonth)").message("limits.spendPerMonth is not supported yet: use limits.nodes and limits.pricePerHour"),
)]
pub struct GpuPoolSpec {
    /// Amazon EC2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub aws: Option<AwsPool>,
    /// Which instances may be bought. Default: every one with a GPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<Instances>,
    /// The markets, in the order of preference when prices are equal. Default: spot only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 2))]
    pub markets: Vec<Market>,
    /// How spot capacity is chosen among the offers of one request. Default `price-capacity-optimized`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allocation_strategy: Option<AllocationStrategy>,
    /// The most that it may hold and cost at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<Limits>,
    /// How long a node is kept after its last work. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle_after: Option<Seconds>,
    /// How long an instance may live at all: its own timer ends it then, operator or not. Default `168h`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_lifetime: Option<Seconds>,
    /// How long an instance may take to join the cluster before it is given back and replaced. Default `15m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub join_deadline: Option<Seconds>,
    /// How long a Node that is Ready may be without its GPUs before it is given back and replaced. Default `5m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu_deadline: Option<Seconds>,
    /// The namespaces whose jobs may use it. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespaces: Option<LabelSelector>,
    /// What deleting the pool does while it has GpuNodes. Default `Drain`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion: Option<Deletion>,
    /// The name that Nodes offer GPUs under. Default `nvidia.com/gpu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub resource_name: Option<String>,
}

/// Settings for Amazon EC2.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct AwsPool {
    /// Such as `us-east-1`.
    #[schemars(length(max = 32))]
    #[x_kube(validation = Rule::new("self.matches('^[a-z]{2}(-[a-z]+)+-[0-9]$')").message("write a region such as us-east-1, not a zone"))]
    pub region: String,
    /// Where instances are placed: one or more zones. By tags or by ids.
    pub subnets: Selection,
    /// What may reach them. By tags or by ids.
    pub security_groups: Selection,
    /// The instance profile's name: what the node may do in AWS, such as join an EKS cluster and pull images.
    #[schemars(length(min = 1, max = 128))]
    pub instance_profile: String,
    /// The machine image. Default: the newest EKS AL2023 image with NVIDIA's driver.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<AwsImage>,
    /// How it joins the cluster.
    pub bootstrap: Bootstrap,
    /// Its root volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Disk>,
    /// The URL of an SQS queue that EventBridge writes spot interruption warnings and rebalance recommendations to. Default: none;
    /// EC2 is asked every few seconds while there are spot instances, and rebalance recommendations are not seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https://[^/]+/.+$')").message("write the queue's URL, as `aws sqs get-queue-url` prints it: https://sqs.REGION.amazonaws.com/ACCOUNT/NAME"))]
    pub interruption_queue: Option<String>,
}

/// Things chosen by tags or by ids: one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.ids) != has(self.tags)").message("give either ids or tags"))]
pub struct Selection {
    /// By id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 32), inner(length(max = 64)))]
    pub ids: Option<Vec<String>>,
    /// By tags: all of them must match. An empty value matches any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub tags: Option<BTreeMap<String, String>>,
}

/// The machine image: one of the two.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.id) != has(self.ssmParameter)").message("give either id or ssmParameter"))]
pub struct AwsImage {
    /// An AMI id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub id: Option<String>,
    /// The name of an SSM parameter that holds an AMI id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub ssm_parameter: Option<String>,
}

/// How an instance joins the cluster: an EKS NodeConfig, as AL2023 images take it.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// The EKS cluster's name.
    #[schemars(length(min = 1, max = 100))]
    pub cluster_name: String,
    /// The API server's address, as instances reach it.
    #[schemars(length(max = 512))]
    #[x_kube(validation = Rule::new("self.matches('^https://[^/:]+(:[0-9]+)?/?$') || self.matches('^https://\\\\[[0-9a-fA-F:]+\\\\](:[0-9]+)?/?$')").message("write the API server's address with https:// in front, once, as `aws eks describe-cluster` prints it"))]
    pub api_server_endpoint: String,
    /// The cluster's CA certificate, PEM in base64, as `aws eks describe-cluster` prints it.
    #[schemars(length(max = 16384))]
    pub certificate_authority: String,
    /// The cluster's service range, such as `10.100.0.0/16`: `kubernetesNetworkConfig.serviceIpv4Cidr`. The kubelet's address of the
    /// cluster's DNS comes from it: with a wrong one the node joins and finds no names.
    #[schemars(length(max = 64))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9a-fA-F.:]+/[0-9]{1,3}$')").message("write the cluster's service range, such as 10.100.0.0/16"))]
    pub cidr: String,
    /// A shell script that runs at first boot, before the kubelet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub user_data: Option<String>,
}

/// The root volume.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Disk {
    /// GiB. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 20, max = 16384))]
    pub size_gib: Option<i32>,
    /// EBS volume type. Default `gp3`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    pub volume_type: Option<String>,
}

/// Which instances may be bought.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Instances {
    /// Types, such as `g6.xlarge`, or families, such as `g6.*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100), inner(length(max = 64)))]
    pub types: Vec<String>,
    /// GPU models, such as `L4`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32), inner(length(max = 32)))]
    pub models: Vec<String>,
    /// The least memory of each GPU, such as `20Gi`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16))]
    #[x_kube(validation = Rule::new("self.matches('^[0-9]{1,6}([.][0-9]{1,3})?(Mi|Gi|Ti|M|G|T)$')").message("write GPU memory as 20Gi, 24576Mi or 80G"))]
    pub min_memory: Option<String>,
}

/// The most that a pool may hold and cost at once.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Instances.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub nodes: Option<i32>,
    /// US dollars per hour, of all instances together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<Price>,
    /// US dollars per calendar month. Not supported yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spend_per_month: Option<Price>,
}

/// What deleting a pool does while it has GpuNodes.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Deletion {
    /// Nothing more is launched or begun there; its nodes go with the attempts that run on them, and then the pool.
    #[default]
    Drain,
    /// It is refused, by the admission policy that the chart installs.
    Refuse,
}

/// EC2 Fleet's strategies for spot.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum AllocationStrategy {
    /// Pools unlikely to be taken back, then the cheapest of them.
    #[default]
    PriceCapacityOptimized,
    /// Pools least likely to be taken back.
    CapacityOptimized,
    /// The cheapest pool.
    LowestPrice,
}

/// What is known of a pool.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct GpuPoolStatus {
    /// The generation of the spec that the rest speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// Its GpuNodes, dying ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nodes: Option<i32>,
    /// US dollars per hour of its GpuNodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_per_hour: Option<Price>,
    /// How many offers it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offers: Option<i32>,
    /// The cheapest offer when its settings were last checked, such as `spot g4dn.xlarge us-east-1b at 0.1964`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cheapest: Option<String>,
    /// What the provider made of the settings: the ids that launches name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::template::any_object")]
    pub prepared: Option<serde_json::Value>,
    /// When the settings were last accepted by the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prepared_time: Option<Time>,
    /// What the provider refused or took back lately: a restarted operator need not ask again. What has grown old is
    /// dropped with the next write.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Atomic)]
    pub memory: Vec<Remembered>,
}

/// One thing that is remembered of a provider's answers.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// `NoCapacity` and `PriceTooLow` speak of one offer, `QuotaExceeded` of a family in a market, `NoAddresses` of a zone's
    /// subnet, `PoolBlocked` of the whole pool, `Interrupted` of an offer that was taken back.
    pub reason: String,
    /// The market.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub market: Option<Market>,
    /// Such as `g6.xlarge`; of a quota the family, such as `g`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_type: Option<String>,
    /// Such as `us-east-1a`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The provider's code, such as `InsufficientInstanceCapacity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The provider's words, where a person can do something: such as which quota to raise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// How often in a row before. Of `Interrupted`: thousandths of interruptions at `time`; the count halves every two hours.
    pub count: i32,
    /// Not tried again before. Of `Interrupted`: the last one.
    pub time: Time,
}

impl GpuPoolSpec {
    /// The provider's name.
    #[must_use]
    pub fn provider(&self) -> &'static str {
        "aws"
    }

    /// The region of the provider.
    #[must_use]
    pub fn region(&self) -> &str {
        self.aws.as_ref().map_or("", |aws| &aws.region)
    }

    /// The queue that its provider writes notices to, if there is one.
    #[must_use]
    pub fn interruption_queue(&self) -> Option<&str> {
        self.aws.as_ref().and_then(|aws| aws.interruption_queue.as_deref())
    }

    /// The markets it buys in.
    #[must_use]
    pub fn markets(&self) -> &[Market] {
        if self.markets.is_empty() { &[Market::Spot] } else { &self.markets }
    }

    /// Seconds that a node is kept after its last work.
    #[must_use]
    pub fn idle_after(&self) -> i64 {
        self.idle_after.map_or(300, |s| s.0)
    }

    /// Seconds that an instance may live at all.
    #[must_use]
    pub fn max_lifetime(&self) -> i64 {
        self.max_lifetime.map_or(168 * 3600, |s| s.0)
    }

    /// Seconds that an instance may take to join.
    #[must_use]
    pub fn join_deadline(&self) -> i64 {
        self.join_deadline.map_or(900, |s| s.0)
    }

    /// Seconds that a Ready Node may be without its GPUs.
    #[must_use]
    pub fn gpu_deadline(&self) -> i64 {
        self.gpu_deadline.map_or(300, |s| s.0)
    }

    /// GiB of an instance's root volume.
    #[must_use]
    pub fn disk_gib(&self) -> i64 {
        self.aws.as_ref().and_then(|aws| aws.disk.as_ref()).and_then(|disk| disk.size_gib).unwrap_or(100).into()
    }

    /// The name that Nodes offer GPUs under.
    #[must_use]
    pub fn resource_name(&self) -> &str {
        self.resource_name.as_deref().unwrap_or("nvidia.com/gpu")
    }
}
