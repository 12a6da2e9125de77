//! The world of one GpuJob: everything that [`plan`](super::plan) may look at, gathered from caches, sorted and complete.

use super::facts::{End, NodeFact, PodFact, Role};
use crate::watch::Stores;
use gpujob_crds::{GpuJob, GpuJobStatus, GpuNode, conditions, job_status::Attempt, names};
use gpujob_transfer::receipt::{Holder, Receipt, reason};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::sync::Arc;

/// One job, and all that belongs to it.
#[derive(Clone, Debug)]
pub struct JobWorld {
    /// The job as the cache has it. Its pod template is trimmed there: a pod is built from a fresh read.
    pub job: Arc<GpuJob>,
    /// GpuNodes that hold a reservation of this job's UID, or that one of its attempts names. Sorted by name.
    pub nodes: Vec<NodeFact>,
    /// Its pods of every role, by UID label. Sorted by attempt, role, name.
    pub pods: Vec<PodFact>,
    /// UIDs of jobs that a live read has just shown to be gone: see [`JobWorld::suspect`].
    pub gone: Vec<String>,
    /// GpuJob is being drained: a job that holds nothing keeps no finalizer, for nobody may be there to take it away.
    pub draining: bool,
    /// Why the pod that this very look was to make could not be made, in the API server's words.
    pub not_made: Option<String>,
}

/// Gathers the world of a job. `None`: the cache does not hold it (any more).
#[must_use]
pub fn observe(job: &ObjectRef<GpuJob>, stores: &Stores) -> Option<JobWorld> {
    let job = stores.jobs.get(job)?;
    let (nodes, pods) = around(&job, stores);
    Some(JobWorld::new(job, &nodes, &pods))
}

/// The GpuNodes and pods that may concern a job, by index: looking at one job must not cost more because there are others.
#[must_use]
pub fn around(job: &GpuJob, stores: &Stores) -> (Vec<Arc<GpuNode>>, Vec<Arc<Pod>>) {
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let mut nodes = stores.nodes_of(uid);
    let named = named(job).filter(|name| !nodes.iter().any(|n| n.metadata.name.as_deref() == Some(name)));
    let named: Vec<_> = named.filter_map(|name| stores.nodes.get(&ObjectRef::new(name))).collect();
    nodes.extend(named);
    (nodes, stores.pods_of(uid))
}

/// The GpuNodes that attempts name which go on.
fn named(job: &GpuJob) -> impl Iterator<Item = &str> {
    job.status.iter().flat_map(|s| &s.attempts).filter(|a| a.outcome.is_none()).filter_map(|a| a.node.as_deref())
}

impl JobWorld {
    /// The world of `job` out of all GpuNodes and all pods.
    #[must_use]
    pub fn new(job: Arc<GpuJob>, nodes: &[Arc<GpuNode>], pods: &[Arc<Pod>]) -> Self {
        let uid = job.uid().unwrap_or_default();
        let named: Vec<&str> = named(&job).collect();
        let concerns = |n: &&Arc<GpuNode>| n.reservation_of(&uid).is_some() || named.contains(&n.name_any().as_str());
        let mut nodes: Vec<NodeFact> = nodes.iter().filter(concerns).map(|n| NodeFact::of(n)).collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        // A store has no order, and a plan must not depend on one.
        let mut pods: Vec<PodFact> = pods
            .iter()
            .filter(|p| p.labels().get(names::JOB_UID) == Some(&uid) && p.namespace() == job.namespace())
            .filter_map(|p| PodFact::of(p))
            .collect();
        pods.sort_by(|a, b| (a.attempt, a.role, &a.name).cmp(&(b.attempt, b.role, &b.name)));
        Self { job, nodes, pods, gone: vec![], draining: false, not_made: None }
    }

    /// The job's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.job.metadata.uid.as_deref().unwrap_or_default()
    }

    /// What this controller has written of the job's status: all but what the scheduler owns.
    #[must_use]
    pub fn recorded(&self) -> GpuJobStatus {
        let mut status = self.job.status.clone().unwrap_or_default();
        status.waiting = None;
        status.conditions.retain(|c| c.type_ != conditions::job::ASSIGNED);
        status.conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        status
    }

    /// Whether deletion of the job has begun.
    #[must_use]
    pub fn deleting(&self) -> bool {
        self.job.metadata.deletion_timestamp.is_some()
    }

    /// The pod of this attempt in this role.
    #[must_use]
    pub fn pod(&self, attempt: i32, role: Role) -> Option<&PodFact> {
        self.pods.iter().find(|p| p.attempt == attempt && p.role == role)
    }

    /// The GpuNode of this name, if it exists.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<&NodeFact> {
        self.nodes.iter().find(|n| n.name == name)
    }

    /// The pod that `attempt` had, when its UID is on record and the cache does not show it: it is gone, or the cache is
    /// behind (a new leader's may be). A live read tells, see `act::confirm`.
    #[must_use]
    pub fn missing_pod(&self) -> Option<String> {
        let status = self.job.status.as_ref()?;
        let open = status.attempts.last().filter(|a| a.outcome.is_none())?;
        open.pod_uid.as_ref()?;
        let there = self.pod(open.number, Role::Attempt).is_some();
        (!there).then(|| names::pod(&self.job.name_any(), self.uid(), open.index, open.number, "attempt"))
    }

    /// The job that keeps this one from its destination, if it is of this cluster: it may be gone, having held the claim to its end.
    /// A live read tells, see `act::confirm`; about another cluster's jobs no read of ours tells anything.
    #[must_use]
    pub fn suspect(&self, cluster: &str) -> Option<Holder> {
        let last = self.job.status.as_ref()?.attempts.last()?;
        let ends = self.pods.iter().filter(|p| p.attempt == last.number).filter_map(|p| match p.role {
            Role::Attempt => p.fetch.as_ref()?.ended.as_ref(),
            Role::Check | Role::Resolve => p.end(),
            Role::Commit | Role::Discard | Role::Release => None,
        });
        let mut holders = ends.filter_map(End::receipt).filter(|r| r.reason == reason::DESTINATION_IN_USE).filter_map(|r| r.holder);
        holders.find(|h| !cluster.is_empty() && h.cluster == cluster && h.uid != self.uid() && !self.known_gone(&h.uid))
    }

    /// Whether that the job of this UID is gone is on record.
    fn known_gone(&self, uid: &str) -> bool {
        self.job.status.iter().flat_map(|s| &s.abandoned).any(|known| known == uid)
    }

    /// Whether this answer says that the destination is held by a job which is gone; its UID then.
    #[must_use]
    pub fn abandoned_by(&self, receipt: &Receipt) -> Option<String> {
        let holder = receipt.holder.as_ref().filter(|_| receipt.reason == reason::DESTINATION_IN_USE)?;
        (self.known_gone(&holder.uid) || self.gone.contains(&holder.uid)).then(|| holder.uid.clone())
    }

    /// The open attempt's GpuNode, when it is on record and the cache does not show it.
    #[must_use]
    pub fn missing_node(&self) -> Option<String> {
        let open = open(self.job.status.as_ref()?)?;
        open.node.clone().filter(|name| self.node(name).is_none())
    }
}

/// The attempt that goes on, if one does.
#[must_use]
pub fn open(status: &GpuJobStatus) -> Option<&Attempt> {
    status.attempts.last().filter(|a| a.outcome.is_none())
}

/// The number of the last attempt that is recorded as ended; 0 before the first.
#[must_use]
pub fn last_ended(status: &GpuJobStatus) -> i32 {
    status.attempts.iter().filter(|a| a.outcome.is_some()).map(|a| a.number).max().unwrap_or(0)
}
