//! A GpuNode.

use gpujob_crds::{GpuNode, Reservation, conditions, job_status::BoughtOffer};
use jiff::Timestamp;
use kube::ResourceExt;

/// A GpuNode of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeFact {
    /// Its name.
    pub name: String,
    /// The version that was seen: a release is refused when there is a newer one.
    pub resource_version: String,
    /// Since when its Node is proved to be its instance: pods may be made for it.
    pub registered: Option<Timestamp>,
    /// Whether its GPUs are there, and since when.
    pub initialized: Option<Timestamp>,
    /// When its deletion began.
    pub deleting: Option<Timestamp>,
    /// When an interruption notice was seen.
    pub interrupted: Option<Timestamp>,
    /// When the instance will be taken.
    pub taken_at: Option<Timestamp>,
    /// The name that it offers GPUs under.
    pub resource_name: String,
    /// What was bought, once the cloud has answered.
    pub offer: Option<BoughtOffer>,
    /// Its GPUs.
    pub gpus: i32,
    /// What it is doing, from its Ready condition.
    pub message: String,
    /// The step of its life that it has not reached, in words. It outlives the Ready condition, which only says that the node goes.
    pub stuck: Option<String>,
    /// All its reservations, other jobs' too.
    pub reservations: Vec<Reservation>,
}

impl NodeFact {
    /// The facts of a GpuNode.
    #[must_use]
    pub fn of(node: &GpuNode) -> Self {
        let status = node.status.clone().unwrap_or_default();
        let instance = status.instance.as_ref();
        let condition = |type_| conditions::find(&status.conditions, type_);
        let reached = |type_| condition(type_).filter(|c| c.status == "True").map(|c| c.last_transition_time.0);
        Self {
            name: node.name_any(),
            resource_version: node.resource_version().unwrap_or_default(),
            registered: reached(conditions::node::REGISTERED),
            initialized: reached(conditions::node::INITIALIZED),
            deleting: node.metadata.deletion_timestamp.as_ref().map(|t| t.0),
            interrupted: status.interrupted.as_ref().map(|t| t.0),
            taken_at: status.taken_at.as_ref().map(|t| t.0),
            resource_name: node.spec.resource_name.clone(),
            offer: instance.map(|i| BoughtOffer {
                instance_type: i.instance_type.clone(),
                zone: i.zone.clone(),
                market: i.market,
                price_per_hour: i.price_per_hour,
            }),
            gpus: instance.map_or(node.spec.gpus, |i| i.gpus),
            message: condition(conditions::node::READY).map(|c| c.message.clone()).unwrap_or_default(),
            stuck: conditions::node::STEPS
                .into_iter()
                .find(|step| !conditions::is_true(&status.conditions, step))
                .and_then(condition)
                .map(|c| c.message.clone())
                .filter(|message| !message.is_empty()),
            reservations: node.reservations().to_vec(),
        }
    }

    /// That it goes, and what it never came to.
    #[must_use]
    pub fn farewell(&self) -> String {
        match &self.stuck {
            Some(stuck) => format!("{} is being given back; {stuck}", self.name),
            None => format!("{} is being deleted.", self.name),
        }
    }

    /// Whether its end has begun.
    #[must_use]
    pub fn dying(&self) -> bool {
        self.deleting.is_some() || self.interrupted.is_some()
    }
}
