//! Which offers one job could be given, and which of them go into one request.

use super::demand::Pending;
use super::observe::{PoolView, World};
use gpujob_crds::job_status::Tried;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::Offer;
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Offers up to this much dearer than the best go into its request: EC2 then picks the one least likely to be taken back.
pub(super) const BAND_PERCENT: i64 = 20;
/// The most offers in one request.
pub(super) const MOST: usize = 60;

/// What can be bought for one job now, or why nothing can.
#[derive(Debug)]
pub(super) enum Choice {
    Buy(Rung),
    Wait(Why),
}

/// One request: one pool, one market, offers of about one price.
#[derive(Debug, PartialEq)]
pub(super) struct Rung {
    /// Index of the pool in the world.
    pub(super) pool: usize,
    pub(super) market: Market,
    /// Cheapest first.
    pub(super) offers: Vec<Offer>,
    pub(super) max_price: Price,
}

/// Why a job waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Why {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) next_try: Option<Timestamp>,
    pub(super) tried: Vec<Tried>,
}

fn why(reason: &str, message: String) -> Why {
    Why { reason: reason.into(), message, ..Why::default() }
}

/// What a pool holds: GpuNodes and dollars per hour.
pub(super) type Held = BTreeMap<String, (i32, Price)>;

/// The best rung for this job, over all pools that admit it.
pub(super) fn choose(world: &World, job: &Pending, held: &Held) -> Choice {
    let admitting: Vec<(usize, &PoolView)> = world.pools.iter().enumerate().filter(|(_, p)| world.admits(&p.pool, job)).collect();
    if admitting.is_empty() {
        return Choice::Wait(no_pool(world, job));
    }
    let (mut candidates, mut refused, mut limits, mut unready) = (vec![], vec![], vec![], vec![]);
    let mut misfits: BTreeMap<&str, usize> = BTreeMap::new();
    let mut cheapest_over_cap: Option<&Offer> = None;
    let mut until: Option<Timestamp> = None;
    let mut wait_for = |at: Timestamp| until = Some(until.map_or(at, |u: Timestamp| u.min(at)));
    for (index, view) in &admitting {
        if !view.ready {
            unready.push(format!("GpuPool {} {}", view.pool.name_any(), view.why_not));
            continue;
        }
        if let Some(blocked) = &view.blocked {
            unready.push(format!("GpuPool {}: {} ({})", view.pool.name_any(), blocked.message, blocked.reason));
            wait_for(blocked.until);
            continue;
        }
        for (offer, refusal) in &view.offers {
            if !view.pool.spec.markets().contains(&offer.market) || !(job.markets.is_empty() || job.markets.contains(&offer.market)) {
                *misfits.entry("another market").or_default() += 1;
            } else if job.misfits.iter().any(|(_, t)| t.as_deref() == Some(&offer.instance_type)) {
                *misfits.entry("a pod that did not fit before").or_default() += 1;
            } else if let Some(why) = job.demand.misfit(offer) {
                *misfits.entry(why).or_default() += 1;
            } else if job.price_cap.is_some_and(|cap| offer.price > cap) {
                cheapest_over_cap = Some(cheapest_over_cap.map_or(offer, |c| if offer.price < c.price { offer } else { c }));
            } else if let Some(limit) = over_limit(view, held, offer) {
                limits.push(limit);
            } else if let Some(believed) = refusal {
                refused.push((offer, believed));
                wait_for(believed.until);
            } else {
                candidates.push((*index, offer));
            }
        }
    }
    // Price first; of equals the earlier pool, so that the plan does not depend on chance.
    candidates.sort_by(|a, b| (a.1.price, a.1.market, a.0, a.1).cmp(&(b.1.price, b.1.market, b.0, b.1)));
    if let Some((pool, best)) = candidates.first().copied() {
        return Choice::Buy(rung(world, job, held, pool, best, &candidates));
    }
    if !refused.is_empty() {
        let tried: Vec<Tried> = refused.iter().take(16).map(|(o, b)| Tried { offer: o.label(), answer: b.code.clone() }).collect();
        let class = refused.iter().map(|(_, b)| b.class.reason()).min().unwrap_or("NoCapacity");
        let message = format!(
            "{} of {} fitting offers were refused lately ({}); the next is tried {}",
            refused.len(),
            refused.len(),
            tried.first().map_or("", |t| t.answer.as_str()),
            until.map_or_else(|| "soon".into(), |u| format!("at {}", u.strftime("%H:%M:%SZ")))
        );
        return Choice::Wait(Why { reason: class.into(), message, next_try: until, tried });
    }
    let mut why = if let Some(limit) = limits.first() {
        why("PoolLimit", limit.clone())
    } else if let Some(offer) = cheapest_over_cap {
        why(
            "PriceAboveBudget",
            format!(
                "the cheapest offer that fits is {} at {} per hour: raise budget.pricePerHour or wait for a lower price",
                offer.label(),
                offer.price
            ),
        )
    } else if !unready.is_empty() {
        why("PoolNotReady", unready.join("; "))
    } else {
        let text: Vec<String> = misfits.iter().map(|(why, n)| format!("{n} with {why}")).collect();
        why(
            "NoOfferFits",
            format!(
                "no instance type of the pools that admit this job fits it ({}): change gpu or the template's resources, or widen the pool's instances",
                text.join(", ")
            ),
        )
    };
    why.next_try = until;
    Choice::Wait(why)
}

fn no_pool(world: &World, job: &Pending) -> Why {
    let names: Vec<String> = world.pools.iter().map(|p| p.pool.name_any()).collect();
    if names.is_empty() {
        return why("NoPool", "there is no GpuPool: apply one (see manifests/samples)".into());
    }
    if let Some(missing) = job.pools.iter().find(|p| !names.contains(p)) {
        return why("NoPool", format!("GpuPool {missing} does not exist; there are: {}", names.join(", ")));
    }
    why("NoPool", format!("no GpuPool admits namespace {}: see spec.namespaces of {}", job.namespace, names.join(", ")))
}

fn over_limit(view: &PoolView, held: &Held, offer: &Offer) -> Option<String> {
    let name = view.pool.name_any();
    let limits = view.pool.spec.limits.as_ref()?;
    let (nodes, price) = held.get(&name).copied().unwrap_or_default();
    if limits.nodes.is_some_and(|most| nodes >= most) {
        return Some(format!("GpuPool {name} holds {nodes} nodes, its limit: waiting for one to become free (limits.nodes)"));
    }
    let most = limits.price_per_hour?;
    (price + offer.price > most).then(|| {
        format!(
            "GpuPool {name} spends {price} per hour and {} at {} would pass its limit of {most} (limits.pricePerHour)",
            offer.label(),
            offer.price
        )
    })
}

/// The best offer and those of its pool and market within the band, so far as every one of them is within all limits:
/// budgets are checked on the dearest that may come.
fn rung(world: &World, job: &Pending, held: &Held, pool: usize, best: &Offer, candidates: &[(usize, &Offer)]) -> Rung {
    let band = best.price.plus_percent(BAND_PERCENT);
    let view = &world.pools[pool];
    let offers: Vec<Offer> = candidates
        .iter()
        .filter(|(p, o)| *p == pool && o.market == best.market && o.price <= band && over_limit(view, held, o).is_none())
        .map(|(_, o)| (*o).clone())
        .take(MOST)
        .collect();
    let dearest = offers.iter().map(|o| o.on_demand_price.max(o.price)).max().unwrap_or(best.price);
    // Where the pool has a limit per hour, what may be paid is what is counted as held until the instance is known: two
    // requests of one moment must not pass the limit together.
    let limited = view.pool.spec.limits.as_ref().and_then(|l| l.price_per_hour).is_some();
    let most = if limited { offers.iter().map(|o| o.price).max().unwrap_or(best.price) } else { dearest };
    let max_price = job.price_cap.map_or(most, |cap| cap.min(most));
    Rung { pool, market: best.market, offers, max_price }
}
