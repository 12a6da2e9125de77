//! Room on the nodes that are there, or are coming: who can still be placed where.
//!
//! Whole GPUs are packed: of the nodes that will do the fullest is taken, so that others become empty and are given back. A node
//! that is Ready comes before one that boots.

use super::demand::Wants;
use super::observe::{PoolView, World};
use super::offers::Rung;
use super::room::{Room, asks};
use gpujob_crds::{GpuNode, Market, Price, Reservation, conditions};
use gpujob_provider_core::Demand;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// How long a node that has joined may be silent before jobs are given others. Booting takes less.
const SILENCE: jiff::SignedDuration = jiff::SignedDuration::from_mins(2);

/// One node with a free GPU.
struct Seat {
    pool: usize,
    ready: bool,
    free: i32,
    left: Room,
    market: Option<Market>,
    price: Option<Price>,
    /// Indexes of offers of its pool, one for each type that it is or may become.
    types: Vec<usize>,
}

impl Seat {
    /// Takes what this asks for.
    fn fill(&mut self, demand: &Demand) {
        self.free -= demand.gpus;
        self.left = self.left.beside(&asks(demand));
    }
}

/// Where an attempt was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// On a node that is there, by its index in the world.
    There(usize),
    /// On one that this plan buys, by the index of its action.
    Bought(usize),
}

/// All nodes with a free GPU.
pub(super) struct Seats<'a> {
    world: &'a World,
    /// By the node's index in the world.
    seats: BTreeMap<usize, Seat>,
    /// Those that this plan buys, counted after all nodes of the world.
    coming: Vec<Seat>,
    /// Those that are there, in the order of choice: not ready, free GPUs, index.
    order: BTreeSet<(bool, i32, usize)>,
    /// The actions that buy the others.
    bought: Vec<usize>,
}

/// What a class of jobs found out about nodes that cannot change while one plan is made.
#[derive(Debug, Default)]
pub(super) struct Serves {
    nodes: BTreeMap<usize, bool>,
    /// No node that is there had room: rooms only shrink.
    exhausted: bool,
    /// As many of those that this plan buys had none either.
    full: usize,
}

impl<'a> Seats<'a> {
    pub(super) fn new(world: &'a World, now: Timestamp) -> Self {
        let by_uid: BTreeMap<&str, usize> =
            world.pools.iter().enumerate().filter_map(|(n, p)| Some((p.pool.metadata.uid.as_deref()?, n))).collect();
        let types: Vec<BTreeMap<&str, usize>> =
            world.pools.iter().map(|p| p.offers.iter().enumerate().rev().map(|(n, o)| (o.instance_type.as_str(), n)).collect()).collect();
        let mut seats = Seats { world, seats: BTreeMap::new(), coming: vec![], order: BTreeSet::new(), bought: vec![] };
        for (index, node) in world.nodes.iter().enumerate() {
            let cordoned = node.metadata.name.as_ref().is_some_and(|name| world.cordoned.contains(name));
            if node.free_gpus() <= 0 || is_ending(node) || cordoned || ails(world, node, now) {
                continue;
            }
            let Some(&pool) = by_uid.get(node.spec.pool_uid.as_str()) else { continue };
            if let Some(seat) = seat(world, node, pool, &types[pool]) {
                seats.order.insert((!seat.ready, seat.free, index));
                seats.seats.insert(index, seat);
            }
        }
        seats
    }

    /// A node for one attempt that wants this: what it takes is no longer free.
    pub(super) fn take(&mut self, wants: &Wants, serves: &mut Serves) -> Option<Place> {
        let gpus = wants.demand.gpus;
        if !serves.exhausted {
            let found = [false, true].iter().find_map(|booting| {
                let mut roomy = self.order.range((*booting, gpus, 0)..=(*booting, i32::MAX, usize::MAX));
                roomy.find(|(_, _, index)| self.fits(*index, wants, serves)).copied()
            });
            if let Some((booting, free, index)) = found {
                self.order.remove(&(booting, free, index));
                if let Some(seat) = self.seats.get_mut(&index) {
                    seat.fill(&wants.demand);
                    if seat.free > 0 {
                        self.order.insert((booting, seat.free, index));
                    }
                }
                return Some(Place::There(index));
            }
            serves.exhausted = true;
        }
        while let Some(action) = self.bought.get(serves.full).copied() {
            let index = self.world.nodes.len() + serves.full;
            if self.fits(index, wants, serves) {
                self.coming[serves.full].fill(&wants.demand);
                return Some(Place::Bought(action));
            }
            serves.full += 1;
        }
        None
    }

    /// This action buys a node for `demand`: others may fit beside it.
    pub(super) fn bought(&mut self, action: usize, rung: &Rung, demand: &Demand) {
        let Some(room) = rung.room.filter(|_| rung.gpus > demand.gpus) else { return };
        self.bought.push(action);
        self.coming.push(Seat {
            pool: rung.pool,
            ready: false,
            free: rung.gpus - demand.gpus,
            left: room.beside(&asks(demand)),
            market: Some(rung.market),
            price: Some(rung.dearest),
            types: rung.types.clone(),
        });
    }

    /// Whether any action buys a node that others may fit on.
    pub(super) fn has_bought(&self) -> bool {
        !self.bought.is_empty()
    }

    fn fits(&self, index: usize, wants: &Wants, serves: &mut Serves) -> bool {
        let there = self.world.nodes.len();
        let Some(seat) = (if index < there { self.seats.get(&index) } else { self.coming.get(index - there) }) else { return false };
        seat.free >= wants.demand.gpus
            && seat.left.misfit(&wants.demand).is_none()
            && *serves.nodes.entry(index).or_insert_with(|| self.serves(index, seat, wants))
    }

    /// Whether this node would do, were it empty.
    fn serves(&self, index: usize, seat: &Seat, wants: &Wants) -> bool {
        let view = &self.world.pools[seat.pool];
        let name = self.world.nodes.get(index).and_then(|n| n.metadata.name.as_deref());
        let tried = name.is_some() && wants.misfits.iter().any(|(tried, _)| tried.as_deref() == name);
        let market = wants.markets.is_empty() || seat.market.is_some_and(|m| wants.markets.contains(&m));
        let price = wants.price_cap.is_none_or(|cap| seat.price.is_some_and(|p| p <= cap));
        let gpus = || seat.types.iter().all(|n| wants.demand.gpu_misfit(&view.offers[*n]).is_none());
        // The nodes of a pool that goes end with the work that they have.
        let stays = view.pool.metadata.deletion_timestamp.is_none();
        stays && !tried && market && price && self.world.admits(&view.pool, wants) && gpus()
    }
}

/// What is free on this node. `None` when one of the types that it may become is not known any more.
fn seat(world: &World, node: &GpuNode, pool: usize, types: &BTreeMap<&str, usize>) -> Option<Seat> {
    let view = &world.pools[pool];
    let status = node.status.as_ref();
    let instance = status.and_then(|s| s.instance.as_ref());
    // Before the instance is known every type that may come must do.
    let known: Vec<usize> = match instance {
        Some(i) => vec![*types.get(i.instance_type.as_str())?],
        None => node
            .spec
            .launch
            .offers
            .iter()
            .map(|o| types.get(o.instance_type.as_str()).copied())
            .collect::<Option<BTreeSet<_>>>()?
            .into_iter()
            .collect(),
    };
    let offered = node.metadata.name.as_ref().and_then(|name| world.offered.get(name)).copied();
    let whole = offered.or_else(|| known.iter().map(|n| view.room(&view.offers[*n])).reduce(Room::least))?;
    Some(Seat {
        pool,
        ready: status.is_some_and(|s| conditions::is_true(&s.conditions, conditions::node::READY)),
        free: node.free_gpus(),
        left: left(view, &known, whole, node.reservations()),
        market: node.spec.launch.market,
        price: instance.map(|i| i.price_per_hour).or_else(|| node.spec.launch.offers.iter().map(|o| o.price_per_hour).max()),
        types: known,
    })
}

/// What those that are there already really leave: each reservation says what its pods ask for.
fn left(view: &PoolView, types: &[usize], whole: Room, reservations: &[Reservation]) -> Room {
    let gpus = types.iter().map(|n| view.offers[*n].gpus).min().unwrap_or(1);
    reservations.iter().fold(whole, |left, r| match &r.asks {
        Some(asks) => left.beside(asks),
        None => left.beside_share(&whole, r.gpus, gpus),
    })
}

/// Whether its end has begun: deleted, refused, or to be taken back.
fn is_ending(node: &GpuNode) -> bool {
    node.metadata.deletion_timestamp.is_some() || is_refused(node) || node.status.as_ref().is_some_and(|s| s.interrupted.is_some())
}

/// Whether the provider refused its launch: it holds nothing, and costs nothing.
pub(super) fn is_refused(node: &GpuNode) -> bool {
    let launched = node.status.as_ref().filter(|s| s.instance.is_none());
    launched.and_then(|s| conditions::find(&s.conditions, conditions::node::LAUNCHED)).is_some_and(|c| c.status == "False")
}

/// Whether this node has joined and does not work: its kubelet is silent or its GPUs are gone, and not since just now, or its Node is
/// gone. A kubelet registers once, when it starts: a Node that somebody deleted does not come back by itself.
fn ails(world: &World, node: &GpuNode, now: Timestamp) -> bool {
    let long = |since: Timestamp| now.duration_since(since) > SILENCE;
    let short = node.metadata.name.as_ref().and_then(|name| world.short.get(name)).is_some_and(|since| long(*since));
    let condition = node.status.as_ref().and_then(|s| conditions::find(&s.conditions, conditions::node::INITIALIZED));
    short || condition.is_some_and(|c| c.reason == "NodeMissing" || (c.reason == "NodeNotReady" && long(c.last_transition_time.0)))
}
