//! Why a job waits, in words that say what to do.

use super::demand::Wants;
use super::observe::World;
use super::offers::Refused;
use gpujob_crds::job_status::Tried;
use gpujob_provider_core::{ErrorClass, Offer};
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Why a job waits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Why {
    pub(super) reason: String,
    pub(super) message: String,
    pub(super) next_try: Option<Timestamp>,
    pub(super) tried: Vec<Tried>,
}

/// Offers that fit and were refused.
pub(super) type Refusals<'a> = Vec<Refused<'a>>;

impl Why {
    pub(super) fn new(reason: &str, message: String) -> Self {
        Why { reason: reason.into(), message, ..Why::default() }
    }
}

pub(super) fn backoff(attempt: i32, at: Timestamp) -> Why {
    let message = format!("attempt {attempt} starts after a backoff, at {}", clock(at));
    Why { next_try: Some(at), ..Why::new("Backoff", message) }
}

/// Everything that fits was refused. What a person can do something about comes first: a quota with its name.
pub(super) fn refused(refused: &[Refused<'_>], until: Option<Timestamp>) -> Why {
    let rank = |class: &ErrorClass| match class {
        ErrorClass::Unauthorized | ErrorClass::Invalid => 0,
        ErrorClass::Quota => 1,
        ErrorClass::Addresses => 2,
        ErrorClass::Capacity => 3,
        _ => 4,
    };
    let mut sorted: Vec<&Refused<'_>> = refused.iter().collect();
    sorted.sort_by_key(|(_, b)| (rank(&b.class), std::cmp::Reverse(b.until)));
    let Some((_, worst)) = sorted.first() else { return Why::default() };
    let mut codes: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, believed) in refused {
        *codes.entry(&believed.code).or_default() += 1;
    }
    let codes: Vec<String> = codes.iter().map(|(code, n)| format!("{n} {code}")).collect();
    let next = until.map_or_else(|| "soon".into(), |u| format!("at {}", clock(u)));
    let mut message = format!("all {} offers that fit were refused lately ({}); the next is tried {next}", refused.len(), codes.join(", "));
    if !worst.message.is_empty() {
        message.push_str(". ");
        message.push_str(&worst.message);
    }
    let tried = sorted.iter().take(16).map(|(o, b)| Tried { offer: o.label(), answer: b.code.clone() }).collect();
    Why { reason: worst.class.reason().into(), message, next_try: until, tried }
}

pub(super) fn over_cap(offer: &Offer) -> Why {
    let message = format!(
        "the cheapest offer that fits is {} at {} per hour: raise budget.pricePerHour or wait for a lower price",
        offer.label(),
        offer.price
    );
    Why::new("PriceAboveBudget", message)
}

pub(super) fn nothing_fits(misfits: &BTreeMap<&'static str, usize>) -> Why {
    let text: Vec<String> = misfits.iter().map(|(why, n)| format!("{n} with {why}")).collect();
    let message = format!(
        "no instance type of the pools that admit this job fits it ({}): change gpu or the template's resources, or widen the pool's instances or markets",
        text.join(", ")
    );
    Why::new("NoOfferFits", message)
}

pub(super) fn no_pool(world: &World, wants: &Wants) -> Why {
    let names: Vec<String> = world.pools.iter().map(|p| p.pool.name_any()).collect();
    let message = if names.is_empty() {
        "there is no GpuPool: apply one (see manifests/samples), or ask who runs this cluster to".into()
    } else if let Some(missing) = wants.pools.iter().find(|p| !names.contains(p)) {
        format!("GpuPool {missing} does not exist; there are: {}", names.join(", "))
    } else {
        format!("no GpuPool admits namespace {}: see spec.namespaces of {}", wants.namespace, names.join(", "))
    };
    Why::new("NoPool", message)
}

fn clock(at: Timestamp) -> impl std::fmt::Display {
    at.strftime("%H:%M:%SZ").to_string()
}
