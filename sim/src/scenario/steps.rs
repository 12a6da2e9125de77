//! What happens on the way: when, and what. A [`Stage`] is where it happens.

use super::objects::{NAMESPACE, POOL, QUOTA};
use super::resource;
use crate::cloud::FakeCloud;
use crate::world::World;
use gpujob_crds::{GpuJob, GpuNode, names};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// When something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// So long after the beginning.
    After(Duration),
    /// So long after this job's program has been started for the nth time, from 1.
    Runs {
        /// The job.
        job: &'static str,
        /// Which start.
        nth: u32,
        /// How long after it.
        later: Duration,
    },
}

/// What happens.
#[derive(Clone, Debug)]
pub enum Act {
    /// The cloud announces that it takes the instance under this job back, and does so after this long.
    Interrupt(&'static str, Duration),
    /// The cloud says through the pool's queue that the instance under this job is likely to be taken.
    Rebalance(&'static str),
    /// The job is deleted.
    DeleteJob(&'static str),
    /// The job is deleted, and its finalizers are taken away by force: nobody gives back what it held.
    Forget(&'static str),
    /// The job is deleted, its finalizers are taken away by force, and the same is applied again.
    Replace(&'static str),
    /// The pool is deleted.
    DeletePool,
    /// The namespace's quota is deleted.
    DeleteQuota,
    /// The namespace of all jobs is deleted.
    DeleteNamespace,
    /// The GpuNode under this job is deleted by hand.
    DeleteGpuNode(&'static str),
    /// The Node object under this job is deleted by hand.
    DeleteNode(&'static str),
    /// `spec.suspend` of a job is set.
    Suspend(&'static str, bool),
    /// The pod of this job's attempt is deleted by hand.
    DeletePod(&'static str),
    /// The operator that leads loses the API server for good.
    LoseLeader,
    /// The kubelet under this job loses the API server for so long.
    Silence(&'static str, Duration),
    /// The cloud changes.
    Cloud(fn(&FakeCloud)),
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub struct Step {
    /// When.
    pub when: When,
    /// What.
    pub act: Act,
}

/// Where a scenario is played.
#[derive(Clone)]
pub struct Stage {
    /// The API server, without faults.
    pub client: kube::Client,
    /// The cloud.
    pub cloud: FakeCloud,
    /// The world.
    pub world: Arc<World>,
    /// Cuts the operator that leads off.
    pub lose_leader: Arc<dyn Fn() + Send + Sync>,
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

impl Stage {
    /// Plays all steps, each at its time. They do not wait for each other.
    pub async fn play(&self, steps: &[Step]) {
        let all = steps.iter().map(|step| async move {
            match &step.when {
                When::After(time) => tokio::time::sleep(*time).await,
                When::Runs { job, nth, later } => {
                    self.world.started(job, *nth).await;
                    tokio::time::sleep(*later).await;
                }
            }
            tracing::info!(act = ?step.act, "scenario");
            self.act(&step.act).await;
        });
        futures::future::join_all(all).await;
    }

    async fn act(&self, act: &Act) {
        match act {
            Act::Interrupt(job, notice) => {
                if let Some(id) = self.instance(job).await {
                    self.cloud.interrupt(&id, *notice);
                }
            }
            Act::Rebalance(job) => {
                if let Some(id) = self.instance(job).await {
                    self.cloud.rebalance(&id);
                }
            }
            Act::DeleteJob(job) => self.delete("GpuJob", Some(NAMESPACE), job).await,
            Act::Forget(job) => {
                if let Err(error) = self.forget(job).await {
                    tracing::warn!(job, %error, "scenario: forget");
                }
            }
            Act::Replace(job) => {
                if let Err(error) = self.replace(job).await {
                    tracing::warn!(job, %error, "scenario: replace");
                }
            }
            Act::DeletePool => self.delete("GpuPool", None, POOL).await,
            Act::DeleteQuota => self.delete("ResourceQuota", Some(NAMESPACE), QUOTA).await,
            Act::DeleteNamespace => self.delete("Namespace", None, NAMESPACE).await,
            Act::DeleteGpuNode(job) => {
                if let Some(node) = self.gpu_node(job).await {
                    self.delete("GpuNode", None, &node.metadata.name.unwrap_or_default()).await;
                }
            }
            Act::DeleteNode(job) => {
                if let Some(name) = self.gpu_node(job).await.and_then(|n| n.status).and_then(|s| s.node_name) {
                    self.delete("Node", None, &name).await;
                }
            }
            Act::Suspend(job, suspend) => {
                let api: Api<GpuJob> = Api::namespaced(self.client.clone(), NAMESPACE);
                let patch = json!({"spec": {"suspend": suspend}});
                if let Err(error) = api.patch(job, &PatchParams::default(), &Patch::Merge(&patch)).await {
                    tracing::warn!(job, %error, "scenario: suspend");
                }
            }
            Act::DeletePod(job) => {
                if let Some(pod) = self.pod(job).await {
                    self.delete("Pod", Some(NAMESPACE), &pod).await;
                }
            }
            Act::LoseLeader => (self.lose_leader)(),
            Act::Silence(job, time) => {
                let found = self.gpu_node(job).await.and_then(|n| n.status);
                if let Some((node, id)) = found.and_then(|s| s.node_name.zip(s.instance.map(|i| i.id))) {
                    self.world.silence(&node, &id, *time);
                }
            }
            Act::Cloud(change) => change(&self.cloud),
        }
    }

    async fn forget(&self, job: &str) -> kube::Result<GpuJob> {
        let api: Api<GpuJob> = Api::namespaced(self.client.clone(), NAMESPACE);
        let old = api.get(job).await?;
        api.delete(job, &DeleteParams::default()).await?;
        if api.get_opt(job).await?.is_some() {
            let bare = json!({"metadata": {"finalizers": null}});
            api.patch(job, &PatchParams::default(), &Patch::Merge(&bare)).await?;
        }
        Ok(old)
    }

    async fn replace(&self, job: &str) -> kube::Result<()> {
        let api: Api<GpuJob> = Api::namespaced(self.client.clone(), NAMESPACE);
        let old = self.forget(job).await?;
        api.create(&PostParams::default(), &GpuJob::new(job, old.spec)).await?;
        Ok(())
    }

    /// The GpuNode that holds a reservation of this job.
    async fn gpu_node(&self, job: &str) -> Option<GpuNode> {
        let all = Api::<GpuNode>::all(self.client.clone()).list(&ListParams::default()).await.ok()?;
        all.items.into_iter().find(|n| n.reservations().iter().any(|r| r.name == job))
    }

    /// The name of the pod of this job's attempt.
    async fn pod(&self, job: &str) -> Option<String> {
        let params = ListParams::default().labels(&format!("{}={job},{}=attempt", names::JOB, names::ROLE));
        let all = Api::<Pod>::namespaced(self.client.clone(), NAMESPACE).list(&params).await.ok()?;
        all.items.into_iter().find(|p| p.metadata.deletion_timestamp.is_none()).and_then(|p| p.metadata.name)
    }

    async fn instance(&self, job: &str) -> Option<String> {
        self.gpu_node(job).await?.status?.instance.map(|i| i.id)
    }

    async fn delete(&self, kind: &str, namespace: Option<&str>, name: &str) {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource(kind)),
            None => Api::all_with(self.client.clone(), &resource(kind)),
        };
        if let Err(error) = api.delete(name, &DeleteParams::default()).await {
            tracing::warn!(kind, name, %error, "scenario: delete");
        }
    }
}
