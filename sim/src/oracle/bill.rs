//! The bill: every instance is owned or soon ended, and until it is gone its GpuNode says so; one for each intent, none while nothing
//! needs it, and none taken from work.

use super::mirror::Mirror;
use crate::cloud::Machine;
use gpujob_crds::conditions::{self, node as condition};
use gpujob_crds::{GpuJob, GpuNode, names};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};

/// How long an instance may run that nobody owns: it is seen within 15 s, and ended within 60 s of that.
const ORPHAN: SignedDuration = SignedDuration::from_secs(75);
/// How late an idle node may be given back.
const LATE: SignedDuration = SignedDuration::from_secs(30);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Bill {
    unowned_since: BTreeMap<String, Timestamp>,
    /// The GpuNodes that were there when last looked, by UID, with their names.
    there: BTreeMap<String, String>,
    said: BTreeSet<String>,
}

/// Whether one of these GpuNodes owns the instance: by UID, and by the id that it records, if it does.
fn owned(machine: &Machine, mirror: &Mirror) -> bool {
    let uid = machine.tags.get(names::NODE_UID_TAG);
    let owner = mirror.nodes.values().find(|n| n.metadata.uid.is_some() && n.metadata.uid.as_ref() == uid);
    owner.is_some_and(|n| n.status.as_ref().and_then(|s| s.instance.as_ref()).is_none_or(|i| i.id == machine.id))
}

impl Bill {
    /// One look. `calm`: since when nothing has gone wrong that would excuse a delay; `now` when something just does.
    ///
    /// `behind`: how far a clock of the operator may be behind the truth: it counts idle windows from what that clock said.
    pub(super) fn look(
        &mut self,
        machines: &[Machine],
        cluster: &str,
        mirror: &Mirror,
        calm: Timestamp,
        behind: SignedDuration,
        now: Timestamp,
    ) -> Vec<String> {
        let mut wrong = vec![];
        // A GpuNode is one intent, whatever its request says of itself.
        let mut intents: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for machine in machines.iter().filter(|m| m.tags.get(names::CLUSTER_TAG).is_some_and(|c| c == cluster)) {
            let intent = machine.tags.get(names::NODE_UID_TAG).map_or("", String::as_str);
            intents.entry(intent).or_default().push(&machine.id);
            if machine.ending.is_some() || machine.gone.is_some() || owned(machine, mirror) {
                self.unowned_since.remove(&machine.id);
                continue;
            }
            let since = *self.unowned_since.entry(machine.id.clone()).or_insert(now);
            if now.duration_since(since.max(calm)) > ORPHAN {
                wrong.push(format!("{} runs, and nobody has owned it since {since}", machine.id));
            }
        }
        for (intent, ids) in intents.into_iter().filter(|(_, ids)| ids.len() > 1) {
            wrong.push(format!("{} instances for the GpuNode with the UID {intent:?}: {ids:?}", ids.len()));
        }
        wrong.extend(self.let_go(machines, mirror));
        for node in mirror.nodes.values() {
            wrong.extend(idle(node, mirror, calm, behind, now));
        }
        wrong.retain(|w| self.said.insert(w.clone()));
        wrong
    }

    /// GpuNodes that went before their instances: from then on nobody would end what a provider has forgotten to.
    fn let_go(&mut self, machines: &[Machine], mirror: &Mirror) -> Vec<String> {
        let now = mirror.nodes.values().filter_map(|node| Some((node.uid()?, node.name_any()))).collect();
        let before = std::mem::replace(&mut self.there, now);
        let went = before.into_iter().filter(|(uid, _)| !self.there.contains_key(uid));
        // By its tag, whether it was ever recorded or not.
        let left = |uid: &String| machines.iter().find(|m| m.gone.is_none() && m.tags.get(names::NODE_UID_TAG) == Some(uid));
        let early = went.filter_map(|(uid, node)| Some((node, left(&uid)?)));
        early.map(|(node, machine)| format!("GpuNode {node} went before its instance {} was gone", machine.id)).collect()
    }
}

/// A node that is kept though its window is over.
fn idle(node: &GpuNode, mirror: &Mirror, calm: Timestamp, behind: SignedDuration, now: Timestamp) -> Option<String> {
    if node.metadata.deletion_timestamp.is_some() || !node.reservations().is_empty() {
        return None;
    }
    let status = node.status.as_ref()?;
    let ready = conditions::find(&status.conditions, condition::INITIALIZED).filter(|c| c.status == "True")?.last_transition_time.0;
    let since = status.idle_since.as_ref().map_or(ready, |t| t.0.max(ready));
    let window = mirror.pools.get(&node.spec.pool).map_or(0, |p| p.spec.idle_after());
    let end = since.max(calm) + SignedDuration::from_secs(window) + LATE + behind;
    (now > end).then(|| format!("GpuNode {} has been empty since {since} and is still there", node.name_any()))
}

/// Why this instance must not be ended now; `None` when it may: the cloud itself takes it, a person has deleted its GpuNode or Node,
/// or its kubelet is silent.
pub(super) fn taken_from_work(machine: &Machine, mirror: &Mirror, now: Timestamp) -> Option<String> {
    if machine.noticed.is_some_and(|at| at <= now) || machine.ending.is_some() {
        return None;
    }
    let uid = machine.tags.get(names::NODE_UID_TAG);
    let owner = mirror.nodes.values().find(|n| n.metadata.uid.as_ref() == uid)?;
    let recorded = owner.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.id.as_str());
    if owner.metadata.deletion_timestamp.is_none() && recorded.is_none_or(|id| id == machine.id) {
        return Some(format!("{} is ended, and its GpuNode {} lives", machine.id, owner.name_any()));
    }
    let node_name = owner.status.as_ref().and_then(|s| s.node_name.clone())?;
    if mirror.deleted_by_others.contains(&owner.name_any()) || !mirror.is_ready(&node_name) {
        return None;
    }
    let at_work = |pod: &&std::sync::Arc<Pod>| {
        let here = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(&node_name);
        here && pod.metadata.deletion_timestamp.is_none() && runs(pod) && mirror.jobs.values().any(|j| wants(j, pod))
    };
    let pod = mirror.pods.values().find(at_work)?;
    let held = owner.reservations().iter().map(|r| r.name.clone()).collect::<Vec<_>>();
    Some(format!("{} is ended while {} runs on it (reservations: {held:?})", machine.id, pod.name_any()))
}

fn runs(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    super::jobs::attempt_of(pod).is_some() && statuses.filter_map(|s| s.state.as_ref()).any(|s| s.running.is_some())
}

/// Whether the job still wants this pod to go on.
fn wants(job: &GpuJob, pod: &Pod) -> bool {
    let status = job.status.as_ref();
    job.uid().as_ref() == pod.labels().get(names::JOB_UID)
        && job.metadata.deletion_timestamp.is_none()
        && job.spec.suspend != Some(true)
        && status.is_none_or(|s| s.completion_time.is_none())
        && status.and_then(|s| s.attempts.iter().find(|a| a.pod_uid == pod.uid())).is_none_or(|a| a.outcome.is_none())
}
