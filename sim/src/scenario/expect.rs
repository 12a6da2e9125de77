//! How a scenario must end, and whether it did.

use super::catalog::OTHERS;
use super::objects::{NAMESPACE, destination};
use super::steps::Stage;
use crate::world::Delivered;
use gpujob_crds::{GpuJob, GpuNode, GpuPool, names};
use gpujob_transfer::receipt::Ended;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use std::ops::RangeInclusive;

/// How one job must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// `state: Succeeded`, with this very reason of its condition.
    Succeeded,
    /// `state: Failed`, with this reason.
    Failed(&'static str),
    /// What a race decides: `state: Succeeded` with its results, or `state: Failed` with this reason and nothing published.
    Either(&'static str),
    /// The object is gone.
    Gone,
    /// It is there, has not ended, and holds nothing.
    Held,
}

/// What must be true of one job in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobExpect {
    /// Its name.
    pub name: &'static str,
    /// How it ends.
    pub end: End,
    /// How many attempts it has on record, without faults of the operator. Faults may add to that, never to `failures`.
    pub attempts: RangeInclusive<i32>,
    /// How many of them may count against `backoffLimit`.
    pub failures: i32,
    /// What its destination holds.
    pub delivered: Option<Ended>,
}

/// What must be true in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect {
    /// Of each job.
    pub jobs: Vec<JobExpect>,
    /// Instances that are alive.
    pub instances_at_end: usize,
    /// Instances that may have been launched in all, without faults of the operator.
    pub launches: RangeInclusive<usize>,
    /// Whether the pool is there.
    pub pool: bool,
}

impl Expect {
    /// What is not (yet) as it must be, one line each; nothing: the scenario has ended well. `strict`: the operator had no
    /// faults, so attempts and launches are bounded too.
    pub async fn missing(&self, stage: &Stage, strict: bool) -> Vec<String> {
        let mut missing = vec![];
        let mut instances = stage.cloud.instances();
        instances.retain(|i| i.tags.get(names::CLUSTER_TAG).map(String::as_str) != Some(OTHERS));
        let alive = instances.iter().filter(|i| i.is_alive()).count();
        if alive != self.instances_at_end {
            missing.push(format!("{alive} instances are alive, {} expected", self.instances_at_end));
            return missing; // not yet: the rest need not be asked
        }
        let jobs = list::<GpuJob>(stage, Some(NAMESPACE)).await;
        for expected in &self.jobs {
            let job = jobs.iter().find(|j| j.name_any() == expected.name);
            missing.extend(expected.missing(job, strict).into_iter().map(|text| format!("job {}: {text}", expected.name)));
            missing.extend(expected.results(job, stage));
        }
        let nodes: Vec<String> = list::<GpuNode>(stage, None).await.iter().map(ResourceExt::name_any).collect();
        if self.instances_at_end == 0 && !nodes.is_empty() {
            missing.push(format!("GpuNodes {nodes:?} are left"));
        }
        let of_instances = |n: &&Node| n.spec.as_ref().and_then(|s| s.provider_id.as_deref()).is_some_and(|id| id.starts_with("aws:"));
        let machines: Vec<String> = list::<Node>(stage, None).await.iter().filter(of_instances).map(ResourceExt::name_any).collect();
        if self.instances_at_end == 0 && !machines.is_empty() {
            missing.push(format!("Nodes {machines:?} are left"));
        }
        let held: Vec<String> = list::<Pod>(stage, Some(NAMESPACE))
            .await
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_some() || !p.finalizers().is_empty())
            .map(ResourceExt::name_any)
            .collect();
        if !held.is_empty() {
            missing.push(format!("pods {held:?} are still held"));
        }
        let pools = list::<GpuPool>(stage, None).await.len();
        if (pools > 0) != self.pool {
            missing.push(format!("{pools} pools are there"));
        }
        let launched = instances.len();
        if strict && !self.launches.contains(&launched) {
            missing.push(format!("{launched} instances were launched, {:?} expected", self.launches));
        }
        missing.extend(stage.world.shared_gpus());
        missing
    }
}

impl JobExpect {
    fn missing(&self, job: Option<&GpuJob>, strict: bool) -> Vec<String> {
        let Some(job) = job else {
            return if self.end == End::Gone { vec![] } else { vec!["it is gone".into()] };
        };
        let status = job.status.clone().unwrap_or_default();
        let (state, reason) = (status.state.as_deref().unwrap_or_default(), reason(job));
        let mut missing = vec![];
        let well = match self.end {
            End::Succeeded => state == "Succeeded",
            End::Failed(why) => state == "Failed" && reason == why,
            End::Either(why) => state == "Succeeded" || (state == "Failed" && reason == why),
            End::Gone => false,
            End::Held => status.completion_time.is_none() && status.attempts.last().is_none_or(|a| a.outcome.is_some()),
        };
        if !well {
            missing.push(format!("{state:?} ({reason}), {:?} expected", self.end));
        }
        let attempts = status.attempts.last().map_or(0, |a| a.number);
        if strict && well && !self.attempts.contains(&attempts) {
            missing.push(format!("{attempts} attempts, {:?} expected", self.attempts));
        }
        let failures = status.failures.unwrap_or(0);
        if failures > self.failures {
            missing.push(format!("{failures} failures, at most {} expected", self.failures));
        }
        missing
    }

    fn results(&self, job: Option<&GpuJob>, stage: &Stage) -> Option<String> {
        let there = stage.world.store().delivered(&destination(self.name));
        let outcome = match &there {
            Delivered::Exactly { outcome, .. } => Some(*outcome),
            Delivered::Nothing => None,
            Delivered::Committing | Delivered::Broken(_) => return Some(format!("results of {}: {there:?}", self.name)),
        };
        let well = job.and_then(|j| j.status.as_ref()).is_some_and(|s| s.state.as_deref() == Some("Succeeded"));
        let delivered = match self.end {
            End::Either(_) => well.then_some(Ended::Succeeded),
            _ => self.delivered,
        };
        if outcome != delivered && (self.end != End::Gone || outcome.is_some()) {
            return Some(format!("results of {}: {there:?}, {delivered:?} expected", self.name));
        }
        // The receipt names the very manifest that is there.
        let stored = job.and_then(|j| j.status.as_ref()).and_then(|s| s.receipt.as_ref()).and_then(|r| r.manifest_sha256.clone());
        match there {
            Delivered::Exactly { manifest_sha256, .. }
                if (self.end == End::Succeeded || well) && stored.as_ref() != Some(&manifest_sha256) =>
            {
                Some(format!("results of {}: the status names manifest {stored:?}, there is {manifest_sha256}", self.name))
            }
            _ => None,
        }
    }
}

fn reason(job: &GpuJob) -> String {
    let conditions = job.status.iter().flat_map(|s| &s.conditions);
    conditions.filter(|c| c.type_ == "Succeeded").map(|c| c.reason.clone()).next().unwrap_or_default()
}

async fn list<K>(stage: &Stage, namespace: Option<&str>) -> Vec<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + std::fmt::Debug + serde::de::DeserializeOwned,
    K: 'static,
{
    let api: Api<K> = Api::all(stage.client.clone());
    let all = api.list(&ListParams::default()).await.map(|l| l.items).unwrap_or_default();
    all.into_iter().filter(|o| namespace.is_none() || o.meta().namespace.as_deref() == namespace).collect()
}
