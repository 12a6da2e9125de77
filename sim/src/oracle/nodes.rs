//! What GpuNodes may say and ask for: one intent a try, prices and limits kept, and nobody taken off a node while they work.

use super::mirror::{Change, Mirror};
use gpujob_crds::conditions::{self, node as condition};
use gpujob_crds::{GpuNode, Price};
use kube::ResourceExt;

/// Looks at a write of a GpuNode. `going`: whether the instance under the one of this name has begun to go by itself.
pub(super) fn check(change: &Change, mirror: &Mirror, going: &dyn Fn(&str) -> bool) -> Vec<String> {
    let (old, new): (Option<GpuNode>, Option<GpuNode>) = change.typed();
    let mut wrong = vec![];
    match (old, new) {
        (None, Some(node)) => bought(&node, mirror, &mut wrong),
        (Some(old), Some(new)) => {
            changed(&old, &new, &mut wrong);
            if change.ours && !going(&change.name) {
                wrong.extend(given_back(&old, &new, mirror));
            }
        }
        (Some(old), None) if old.metadata.deletion_timestamp.is_none() && change.ours => {
            wrong.push("it was removed without having been deleted".into());
        }
        _ => {}
    }
    wrong
}

fn bought(node: &GpuNode, mirror: &Mirror, wrong: &mut Vec<String>) {
    if node.finalizers().is_empty() {
        wrong.push("an intent without a finalizer".into());
    }
    let dearest = node.dearest();
    for r in &node.spec.launched_for {
        let job = mirror.jobs.values().find(|j| j.uid().as_deref() == Some(&r.job_uid));
        if let Some(cap) = job.and_then(|j| j.spec.budget.as_ref()).and_then(|b| b.price_per_hour).filter(|cap| dearest > *cap) {
            wrong.push(format!("{dearest} per hour for a job with a budget of {cap}"));
        }
    }
    let Some(limits) = mirror.pools.get(&node.spec.pool).and_then(|p| p.spec.limits.clone()) else { return };
    // The mirror holds this one already.
    let held: Vec<_> = mirror.nodes.values().filter(|n| n.spec.pool == node.spec.pool).collect();
    let cost: Price =
        held.iter().map(|n| n.status.as_ref().and_then(|s| s.instance.as_ref()).map_or_else(|| n.dearest(), |i| i.price_per_hour)).sum();
    if limits.nodes.is_some_and(|most| held.len() > usize::try_from(most).unwrap_or(0)) {
        wrong.push(format!("{} nodes in a pool of at most {:?}", held.len(), limits.nodes));
    }
    if let Some(most) = limits.price_per_hour.filter(|most| cost > *most) {
        wrong.push(format!("{cost} per hour in a pool of at most {most}"));
    }
}

/// A node that works well is not given back while a job has a place on it: it may have got that after somebody found the node idle.
fn given_back(old: &GpuNode, new: &GpuNode, mirror: &Mirror) -> Option<String> {
    if old.metadata.deletion_timestamp.is_some() || new.metadata.deletion_timestamp.is_none() {
        return None;
    }
    let status = new.status.as_ref()?;
    let ready = conditions::find(&status.conditions, condition::READY).is_some_and(|c| c.status == "True");
    let well = ready && status.interrupted.is_none() && mirror.is_ready(status.node_name.as_deref()?);
    let stays = mirror.pools.get(&new.spec.pool).is_some_and(|p| p.metadata.deletion_timestamp.is_none());
    let wants = |uid: &str| {
        mirror.jobs.values().any(|j| {
            let ended = j.status.as_ref().is_some_and(|s| s.completion_time.is_some());
            j.uid().as_deref() == Some(uid) && j.metadata.deletion_timestamp.is_none() && j.spec.suspend != Some(true) && !ended
        })
    };
    let held = new.reservations().iter().find(|r| wants(&r.job_uid))?;
    (well && stays).then(|| format!("it is given back while {} has a place on it", held.name))
}

fn changed(old: &GpuNode, new: &GpuNode, wrong: &mut Vec<String>) {
    let instance = |n: &GpuNode| n.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.id.clone());
    match (instance(old), instance(new)) {
        (Some(was), Some(is)) if was != is => wrong.push(format!("its instance was {was} and is {is}")),
        (Some(was), None) => wrong.push(format!("its instance {was} is forgotten")),
        _ => {}
    }
    let reserved: i32 = new.reservations().iter().map(|r| r.gpus).sum();
    let grows = new.reservations().len() > old.reservations().len();
    if grows && new.free_gpus() < 0 {
        wrong.push(format!("{reserved} GPUs are reserved, {} too many", -new.free_gpus()));
    }
    if grows && old.metadata.deletion_timestamp.is_some() {
        wrong.push("a reservation on a node that is being deleted".into());
    }
    let mut jobs: Vec<_> = new.reservations().iter().map(|r| &r.job_uid).collect();
    jobs.sort();
    jobs.dedup();
    if jobs.len() < new.reservations().len() {
        wrong.push("two reservations of one job".into());
    }
}
