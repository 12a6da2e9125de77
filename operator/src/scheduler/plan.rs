//! Who gets what. Pure: the same world gives the same plan, any prefix of the actions is safe, and planning again after
//! they took effect gives none.
//!
//! Jobs that want the same and stand on the same rung are one [`Class`]: what could be bought for it is found once, and 10,000
//! waiting jobs cost little more than one.

use super::cost::Hurry;
use super::demand::{Pending, Wants};
use super::ladder::Step;
use super::observe::World;
use super::offers::{Choice, Held, Menu, Rung};
use super::room::asks;
use super::seats::{Place, Seats, Serves, is_refused};
use super::why::{Why, backoff};
use gpujob_crds::{GpuNode, Reservation, names};
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One write.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Reserve on this GpuNode, at the version that was seen.
    Reserve { node: Arc<GpuNode>, job: usize, reservation: Reservation },
    /// Write the intent of a launch, with all its reservations in it: of the job that it is bought for, and of those that fit
    /// beside it.
    Launch { name: String, jobs: Vec<usize>, reservations: Vec<Reservation>, rung: Arc<Rung> },
}

impl Action {
    /// The jobs that it is for, by their index in the world.
    pub(super) fn jobs(&self) -> &[usize] {
        match self {
            Action::Reserve { job, .. } => std::slice::from_ref(job),
            Action::Launch { jobs, .. } => jobs,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    /// Why each job that is left waits, by its index in the world.
    pub(super) waiting: BTreeMap<usize, Arc<Why>>,
    pub(super) wake: Option<Timestamp>,
}

/// What decides what a job can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Class<'a> {
    pub(super) wants: &'a Wants,
    pub(super) step: Step,
    pub(super) hurry: Hurry,
}

/// What was found for a class so far.
struct Found<'a> {
    class: Class<'a>,
    serves: Serves,
    menu: Option<Menu<'a>>,
    /// The last choice: a wait for good, because limits only get tighter; a rung as long as its pool has no limits.
    choice: Option<Choice>,
}

/// The plan for all pending jobs.
pub(super) fn plan(world: &World, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut seats = Seats::new(world, now);
    let mut held = held(world);
    let taken: BTreeSet<&str> = world.nodes.iter().filter_map(|n| n.metadata.name.as_deref()).collect();
    let mut classes: BTreeMap<Class<'_>, usize> = BTreeMap::new();
    let mut found: Vec<Found<'_>> = vec![];
    let mut last: Option<(Class<'_>, usize)> = None;
    let mut left: Vec<(usize, usize)> = vec![];
    for (index, job) in world.pending.iter().enumerate() {
        if let Some(at) = job.not_before.filter(|at| *at > now) {
            plan.wait(index, Arc::new(backoff(job.attempt, at)));
            continue;
        }
        let class = Class { wants: &job.wants, step: job.ladder.step, hurry: job.ladder.hurry };
        // Equal wants are one object: neighbours are compared without looking into it.
        let same = last.filter(|(l, _)| std::ptr::eq(l.wants, class.wants) && l.step == class.step && l.hurry == class.hurry);
        let n = same.map_or_else(|| *classes.entry(class).or_insert(found.len()), |(_, n)| n);
        if n == found.len() {
            found.push(Found { class, serves: Serves::default(), menu: None, choice: None });
        }
        last = Some((class, n));
        let found = &mut found[n];
        if let Some(place) = seats.take(&job.wants, &mut found.serves) {
            plan.place(world, index, place);
            continue;
        }
        match found.choose(world, &held) {
            Choice::Buy(rung) => {
                let (nodes, price) = held[rung.pool];
                held[rung.pool] = (nodes + 1, price + rung.dearest);
                seats.bought(plan.actions.len(), &rung, &job.wants.demand);
                let (name, reservations) = (node_name(&taken, job), vec![reservation(job)]);
                plan.actions.push(Action::Launch { name, jobs: vec![index], reservations, rung });
            }
            Choice::Wait(why) => {
                let held_back = found.menu.as_ref().is_some_and(|m| m.held_back);
                left.push((index, n));
                plan.wait(index, with_ladder(why, job, held_back));
            }
        }
    }
    // What a later job could buy may have room for an earlier one that could not.
    let left = if seats.has_bought() { left } else { vec![] };
    for (index, n) in left {
        if let Some(place) = seats.take(&world.pending[index].wants, &mut found[n].serves) {
            plan.waiting.remove(&index);
            plan.place(world, index, place);
        }
    }
    plan.wake = plan.waiting.values().filter_map(|why| why.next_try).min();
    plan
}

impl<'a> Found<'a> {
    fn choose(&mut self, world: &'a World, held: &Held) -> Choice {
        if let Some(choice) = &self.choice {
            let stands = match choice {
                Choice::Wait(_) => true,
                Choice::Buy(rung) => world.pools[rung.pool].pool.spec.limits.is_none(),
            };
            if stands {
                return choice.clone();
            }
        }
        let menu = self.menu.get_or_insert_with(|| Menu::new(world, &self.class));
        let choice = match menu.rung(world, &self.class, held) {
            Some(rung) => Choice::Buy(Arc::new(rung)),
            None => Choice::Wait(Arc::new(menu.why(world, &self.class, held))),
        };
        self.choice = Some(choice.clone());
        choice
    }
}

impl Plan {
    fn wait(&mut self, job: usize, why: Arc<Why>) {
        self.waiting.insert(job, why);
    }

    fn place(&mut self, world: &World, index: usize, place: Place) {
        let one = reservation(&world.pending[index]);
        match place {
            Place::There(node) => {
                self.actions.push(Action::Reserve { node: world.nodes[node].clone(), job: index, reservation: one });
            }
            Place::Bought(action) => {
                if let Action::Launch { jobs, reservations, .. } = &mut self.actions[action] {
                    jobs.push(index);
                    reservations.push(one);
                }
            }
        }
    }
}

/// A wait that the job's own ladder ends, too.
fn with_ladder(why: Arc<Why>, job: &Pending, held_back: bool) -> Arc<Why> {
    if !held_back {
        return why;
    }
    let mut why = (*why).clone();
    why.next_try = [why.next_try, job.ladder.next].into_iter().flatten().min();
    if let Some(note) = &job.ladder.note {
        why.message.push_str("; ");
        why.message.push_str(note);
    }
    Arc::new(why)
}

fn reservation(job: &Pending) -> Reservation {
    Reservation {
        job_uid: job.uid.clone(),
        namespace: job.wants.namespace.clone(),
        name: job.name.clone(),
        index: 0,
        attempt: job.attempt,
        gpus: job.wants.demand.gpus,
        asks: Some(asks(&job.wants.demand)),
    }
}

/// What every pool holds, dying nodes included: they cost until they are gone. What was refused never was.
fn held(world: &World) -> Held {
    let pools: BTreeMap<String, usize> = world.pools.iter().enumerate().map(|(n, p)| (p.pool.name_any(), n)).collect();
    let mut held = vec![Default::default(); world.pools.len()];
    for node in world.nodes.iter().filter(|n| !is_refused(n)) {
        let Some(&pool) = pools.get(&node.spec.pool) else { continue };
        let price = node.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.price_per_hour);
        let (nodes, all): (i32, gpujob_crds::Price) = held[pool];
        held[pool] = (nodes + 1, all + price.unwrap_or_else(|| node.dearest()));
    }
    held
}

/// The first name of this attempt that is not taken: a try that was refused may still be on its way out.
fn node_name(taken: &BTreeSet<&str>, job: &Pending) -> String {
    (1..)
        .map(|n| names::gpu_node(&job.uid, 0, job.attempt, n))
        .find(|name| !taken.contains(name.as_str()))
        .unwrap_or_else(|| unreachable!("an endless range finds a name"))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod ladder_tests;

#[cfg(test)]
#[path = "packing_tests.rs"]
mod packing_tests;
