//! Who gets what. Pure: the same world gives the same plan, any prefix of the actions is safe, and planning again after
//! they took effect gives none.

use super::demand::Pending;
use super::observe::World;
use super::offers::{Choice, Held, Rung, Why, choose};
use gpujob_crds::{GpuNode, Price, Reservation, conditions, names};
use gpujob_provider_core::Offer;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a node that has joined may be silent before jobs are given others. Booting takes less.
const SILENCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);

/// One write.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Reserve on this GpuNode, at the version that was seen.
    Reserve { node: Arc<GpuNode>, reservation: Reservation },
    /// Write the intent of a launch, with the reservation in it.
    Launch { name: String, reservation: Reservation, rung: Rung },
}

impl Action {
    /// The job that it is for.
    pub(super) fn job_uid(&self) -> &str {
        match self {
            Action::Reserve { reservation, .. } | Action::Launch { reservation, .. } => &reservation.job_uid,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// Why each job that is left waits, by UID.
    pub(super) waiting: BTreeMap<String, Why>,
    pub(super) wake: Option<Timestamp>,
}

/// The plan for all pending jobs.
pub(super) fn plan(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut free: BTreeMap<String, i32> = world.nodes.iter().map(|n| (n.name_any(), n.free_gpus())).collect();
    let mut held = held(world);
    for job in &world.pending {
        if let Some(at) = job.not_before.filter(|at| *at > now) {
            let text = format!("attempt {} starts after a backoff, at {}", job.attempt, at.strftime("%H:%M:%SZ"));
            plan.wait(job, Why { reason: "Backoff".into(), message: text, next_try: Some(at), ..Why::default() });
            continue;
        }
        let reservation = Reservation {
            job_uid: job.uid.clone(),
            namespace: job.namespace.clone(),
            name: job.name.clone(),
            index: 0,
            attempt: job.attempt,
            gpus: job.demand.gpus,
            asks: None,
        };
        if let Some(node) = best_node(world, job, &free, now) {
            *free.entry(node.name_any()).or_default() -= job.demand.gpus;
            plan.actions.push(Action::Reserve { node: node.clone(), reservation });
            continue;
        }
        match choose(world, job, &held) {
            Choice::Buy(rung) => {
                let pool = world.pools[rung.pool].pool.name_any();
                let dearest = rung.offers.iter().map(|o| o.price).max().unwrap_or(Price::ZERO);
                let entry = held.entry(pool).or_default();
                *entry = (entry.0 + 1, entry.1 + dearest);
                plan.actions.push(Action::Launch { name: node_name(world, job), reservation, rung });
            }
            Choice::Wait(why) => plan.wait(job, why),
        }
    }
    plan
}

impl Plan {
    fn wait(&mut self, job: &Pending, why: Why) {
        if let Some(at) = why.next_try {
            self.wake = Some(self.wake.map_or(at, |old| old.min(at)));
        }
        self.waiting.insert(job.uid.clone(), why);
    }
}

/// What every pool holds, dying nodes included: they cost until they are gone.
fn held(world: &World) -> Held {
    let mut held = Held::new();
    for node in &world.nodes {
        let price = node.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.price_per_hour);
        let price = price.unwrap_or_else(|| node.dearest());
        let entry = held.entry(node.spec.pool.clone()).or_default();
        *entry = (entry.0 + 1, entry.1 + price);
    }
    held
}

/// The first name of this attempt that is not taken: a try that was refused may still be on its way out.
fn node_name(world: &World, job: &Pending) -> String {
    (1..)
        .map(|n| names::gpu_node(&job.uid, 0, job.attempt, n))
        .find(|name| !world.nodes.iter().any(|n| n.name_any() == *name))
        .unwrap_or_else(|| unreachable!("an endless range finds a name"))
}

/// A node that this job can have: usable or soon to be, of a pool that admits it, with room. The fullest first, so that
/// others become empty; of equals a Ready one, then by name.
fn best_node(world: &World, job: &Pending, free: &BTreeMap<String, i32>, now: Timestamp) -> Option<Arc<GpuNode>> {
    let fits = |node: &&Arc<GpuNode>| {
        let room = free.get(&node.name_any()).copied().unwrap_or(0);
        let tried = job.misfits.iter().any(|(name, _)| name.as_deref() == node.metadata.name.as_deref());
        !node.is_leaving() && room >= job.demand.gpus && !tried && !ails(node, now) && serves(world, node, job)
    };
    world
        .nodes
        .iter()
        .filter(fits)
        .min_by_key(|node| {
            let ready = node.status.as_ref().is_some_and(|s| conditions::is_true(&s.conditions, conditions::node::READY));
            (!ready, free.get(&node.name_any()).copied().unwrap_or(0), node.name_any())
        })
        .cloned()
}

/// Whether this node has joined and does not work: its kubelet is silent, or its Node is gone, and not since just now.
fn ails(node: &GpuNode, now: Timestamp) -> bool {
    let condition = node.status.as_ref().and_then(|s| conditions::find(&s.conditions, conditions::node::INITIALIZED));
    condition.is_some_and(|c| {
        let silent = c.reason == "NodeMissing" || c.reason == "NodeNotReady" || (c.reason == "NoGpu" && c.status == "True");
        silent && now.duration_since(c.last_transition_time.0) > SILENCE
    })
}

fn serves(world: &World, node: &GpuNode, job: &Pending) -> bool {
    let Some(view) = world.pools.iter().find(|p| p.pool.metadata.uid.as_deref() == Some(&node.spec.pool_uid)) else { return false };
    let market = node.spec.launch.market;
    if !world.admits(&view.pool, job) || !(job.markets.is_empty() || market.is_some_and(|m| job.markets.contains(&m))) {
        return false;
    }
    let refused = node
        .status
        .as_ref()
        .is_some_and(|s| conditions::find(&s.conditions, conditions::node::LAUNCHED).is_some_and(|c| c.status == "False"));
    let instance = node.status.as_ref().and_then(|s| s.instance.as_ref());
    let price = instance.map(|i| i.price_per_hour).or_else(|| node.spec.launch.offers.iter().map(|o| o.price_per_hour).max());
    if refused || job.price_cap.is_some_and(|cap| price.is_none_or(|p| p > cap)) {
        return false;
    }
    // Before the instance is known every type that may come must do; what others on the node ask for is not counted twice,
    // because jobs share a node only by whole GPUs and ask for their part of it.
    let types: Vec<&str> = match instance {
        Some(i) => vec![i.instance_type.as_str()],
        None => node.spec.launch.offers.iter().map(|o| o.instance_type.as_str()).collect(),
    };
    types.iter().all(|t| {
        let offer: Option<&Offer> = view.offers.iter().map(|(o, _)| o).find(|o| o.instance_type == *t);
        offer.is_some_and(|o| {
            let others = node.reservations().len();
            let share = |all: i64| if others == 0 { all } else { all * i64::from(job.demand.gpus) / i64::from(o.gpus.max(1)) };
            job.demand.misfit(o).is_none()
                && job.demand.millicores <= share(o.allocatable_millicores())
                && job.demand.memory_mib <= share(o.allocatable_memory_mib())
        })
    })
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
