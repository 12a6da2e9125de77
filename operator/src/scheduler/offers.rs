//! Which offers a class of jobs could be given, and which of them go into one request.
//!
//! Every type that fits is on the menu, not only the smallest: spot prices are often upside down (a larger type cheaper than a
//! smaller one of the same GPU), and zones differ by a factor of four.

use super::cost::expected;
use super::ladder::Step;
use super::observe::{PoolView, World};
use super::plan::Class;
use super::room::Room;
use super::why::{Refusals, Why, no_pool, nothing_fits, over_cap, refused};
use crate::capacity::Believed;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::Offer;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Offers that are expected to cost up to this much more than the best go into its request: EC2 then picks the one least likely
/// to be taken back.
pub(super) const BAND_PERCENT: i64 = 20;
/// The most offers in one request.
pub(super) const MOST: usize = 60;

/// One request: one pool, one market, offers of about one expected cost.
#[derive(Debug, PartialEq)]
pub(super) struct Rung {
    /// Index of the pool in the world.
    pub(super) pool: usize,
    pub(super) market: Market,
    /// By expected cost.
    pub(super) offers: Vec<Offer>,
    pub(super) max_price: Price,
    /// The dearest list price that may come of it: what budgets are checked on.
    pub(super) dearest: Price,
    /// The GPUs and the room of the least that may come of it.
    pub(super) gpus: i32,
    pub(super) room: Option<Room>,
    /// The first offer of its pool of each type that may come of it.
    pub(super) types: Vec<usize>,
}

/// What every pool holds, by its index: GpuNodes and dollars per hour.
pub(super) type Held = Vec<(i32, Price)>;

/// An offer that could be bought now, limits aside.
#[derive(Clone, Copy, Debug)]
struct Candidate<'a> {
    /// Whether it comes only when all others are refused.
    last: bool,
    cost: Price,
    pool: usize,
    offer: &'a Offer,
}

/// All that can be bought for a class of jobs, best first, and why the rest cannot.
#[derive(Debug)]
pub(super) struct Menu<'a> {
    candidates: Vec<Candidate<'a>>,
    refused: Refusals<'a>,
    cheapest_over_cap: Option<&'a Offer>,
    unready: Vec<String>,
    misfits: BTreeMap<&'static str, usize>,
    admitted: bool,
    until: Option<Timestamp>,
    /// On-demand would do, and its time has not come.
    pub(super) held_back: bool,
}

impl<'a> Menu<'a> {
    pub(super) fn new(world: &'a World, class: &Class) -> Self {
        let mut menu = Menu {
            candidates: vec![],
            refused: vec![],
            cheapest_over_cap: None,
            unready: vec![],
            misfits: BTreeMap::new(),
            admitted: false,
            until: None,
            held_back: false,
        };
        let mut spot_fits = false;
        for (index, view) in world.pools.iter().enumerate().filter(|(_, p)| world.admits(&p.pool, class.wants)) {
            menu.admitted = true;
            if !view.ready {
                menu.unready.push(format!("GpuPool {} {}", view.pool.name_any(), view.why_not));
            } else if let Some(blocked) = &view.blocked {
                menu.unready.push(format!("GpuPool {}: {} ({})", view.pool.name_any(), blocked.message, blocked.reason));
                menu.wait_for(blocked.until);
            } else {
                spot_fits |= menu.add(index, view, class);
            }
        }
        // Where no spot offer fits at all, waiting for one would be for ever.
        if class.step == Step::Spot && spot_fits {
            let before = menu.candidates.len() + menu.refused.len();
            menu.candidates.retain(|c| c.offer.market == Market::Spot);
            menu.refused.retain(|(offer, _)| offer.market == Market::Spot);
            menu.held_back = menu.candidates.len() + menu.refused.len() < before;
        }
        menu.until = menu.refused.iter().map(|(_, b)| b.until).chain(menu.until).min();
        // Of equals the earlier pool, so that the plan does not depend on chance.
        let key = |c: &Candidate<'a>| (c.last, c.cost, c.offer.market, c.pool, c.offer);
        menu.candidates.sort_by(|a, b| key(a).cmp(&key(b)));
        menu
    }

    /// Adds the offers of one pool. Returns whether a spot offer fits, to be had now or not.
    fn add(&mut self, index: usize, view: &'a PoolView, class: &Class) -> bool {
        let (wants, mut spot_fits) = (class.wants, false);
        let mut fits: BTreeMap<&str, Option<&'static str>> = BTreeMap::new();
        for (offer, record) in view.offers.iter().zip(&view.records) {
            if !view.pool.spec.markets().contains(&offer.market) || !(wants.markets.is_empty() || wants.markets.contains(&offer.market)) {
                *self.misfits.entry("another market").or_default() += 1;
                continue;
            }
            let misfit = *fits.entry(&offer.instance_type).or_insert_with(|| {
                if wants.misfits.iter().any(|(_, t)| t.as_deref() == Some(&offer.instance_type)) {
                    return Some("a pod that did not fit before");
                }
                wants.demand.gpu_misfit(offer).or_else(|| view.room(offer).misfit(&wants.demand))
            });
            if let Some(why) = misfit {
                *self.misfits.entry(why).or_default() += 1;
            } else if wants.price_cap.is_some_and(|cap| offer.price > cap) {
                self.cheapest_over_cap = Some(self.cheapest_over_cap.map_or(offer, |c| if offer.price < c.price { offer } else { c }));
            } else {
                spot_fits |= offer.market == Market::Spot;
                match &record.refused {
                    Some(believed) => self.refused.push((offer, believed)),
                    None => self.candidates.push(Candidate {
                        last: class.step == Step::OnDemandFirst && offer.market == Market::Spot,
                        cost: expected(offer.price, offer.market, record, class.hurry),
                        pool: index,
                        offer,
                    }),
                }
            }
        }
        spot_fits
    }

    fn wait_for(&mut self, at: Timestamp) {
        self.until = Some(self.until.map_or(at, |u| u.min(at)));
    }

    /// The best that is within the limits: the best offer, and those of its pool and market within the band, so far as every one
    /// of them is within all limits.
    pub(super) fn rung(&self, world: &World, class: &Class, held: &Held) -> Option<Rung> {
        let best = self.candidates.iter().find(|c| over_limit(&world.pools[c.pool], held[c.pool], c.offer).is_none())?;
        let (view, band) = (&world.pools[best.pool], best.cost.plus_percent(BAND_PERCENT));
        let near = |c: &&Candidate<'a>| c.pool == best.pool && c.offer.market == best.offer.market && c.cost <= band;
        let within = |c: &&Candidate<'a>| over_limit(view, held[c.pool], c.offer).is_none();
        let offers: Vec<Offer> = self.candidates.iter().filter(near).filter(within).map(|c| c.offer.clone()).take(MOST).collect();
        let dearest = offers.iter().map(|o| o.price).max().unwrap_or(best.offer.price);
        let at_most = offers.iter().map(|o| o.on_demand_price.max(o.price)).max().unwrap_or(best.offer.price);
        // Where the pool has a limit per hour, what may be paid is what is counted as held until the instance is known: two
        // requests of one moment must not pass the limit together.
        let limited = view.pool.spec.limits.as_ref().and_then(|l| l.price_per_hour).is_some();
        let most = if limited { dearest } else { at_most };
        let max_price = class.wants.price_cap.map_or(most, |cap| cap.min(most));
        let names: BTreeSet<&str> = offers.iter().map(|o| o.instance_type.as_str()).collect();
        let first = |name: &&str| view.offers.iter().position(|o| o.instance_type == **name);
        Some(Rung {
            pool: best.pool,
            market: best.offer.market,
            max_price,
            dearest,
            gpus: offers.iter().map(|o| o.gpus).min().unwrap_or(0),
            room: offers.iter().map(|o| view.room(o)).reduce(Room::least),
            types: names.iter().filter_map(first).collect(),
            offers,
        })
    }

    /// Why nothing can be bought.
    pub(super) fn why(&self, world: &World, class: &Class, held: &Held) -> Why {
        if !self.admitted {
            return no_pool(world, class.wants);
        }
        let limit = self.candidates.first().and_then(|c| over_limit(&world.pools[c.pool], held[c.pool], c.offer));
        let mut why = if let Some(limit) = limit {
            Why::new("PoolLimit", limit)
        } else if !self.refused.is_empty() {
            return refused(&self.refused, self.until);
        } else if let Some(offer) = self.cheapest_over_cap {
            over_cap(offer)
        } else if !self.unready.is_empty() {
            Why::new("PoolNotReady", self.unready.join("; "))
        } else {
            nothing_fits(&self.misfits)
        };
        why.next_try = self.until;
        why
    }
}

fn over_limit(view: &PoolView, (nodes, price): (i32, Price), offer: &Offer) -> Option<String> {
    let limits = view.pool.spec.limits.as_ref()?;
    if limits.nodes.is_some_and(|most| nodes >= most) {
        let name = view.pool.name_any();
        return Some(format!("GpuPool {name} holds {nodes} nodes, its limit: waiting for one to become free (limits.nodes)"));
    }
    let most = limits.price_per_hour?;
    (price + offer.price > most).then(|| {
        format!(
            "GpuPool {} spends {price} per hour and {} at {} would pass its limit of {most} (limits.pricePerHour)",
            view.pool.name_any(),
            offer.label(),
            offer.price
        )
    })
}

/// A rung that jobs of one class share, or why they wait.
#[derive(Clone, Debug)]
pub(super) enum Choice {
    Buy(Arc<Rung>),
    Wait(Arc<Why>),
}

/// Refusals that are believed, with what they ruled out.
pub(super) type Refused<'a> = (&'a Offer, &'a Believed);
