//! Worlds for the tests of plans.

use super::cost::Hurry;
use super::demand::{Pending, Wants};
use super::ladder::{Ladder, Step};
use super::observe::{PoolView, World};
use super::offers::Rung;
use super::plan::{Action, Plan};
use crate::capacity::Record;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::pool::Limits;
use gpujob_crds::{GpuNode, GpuNodeSpec, GpuPool, Market, Price, Reservation};
use gpujob_provider_core::{Demand, Offer, Prepared};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn offer(instance_type: &str, zone: &str, market: Market, micros: i64, gpus: i32) -> Offer {
    Offer {
        price: Price::from_micros(micros),
        instance_type: instance_type.into(),
        zone: zone.into(),
        market,
        on_demand_price: Price::from_micros(800_000),
        gpus,
        gpu_model: "L4".into(),
        gpu_memory_mib: 22_888,
        vcpus: 8,
        memory_mib: 32_768,
    }
}

/// A job with one GPU, that may buy anything.
pub(super) fn job(uid: &str) -> Pending {
    wanting(uid, Wants { demand: Demand { gpus: 1, ..Default::default() }, ..Default::default() })
}

pub(super) fn wanting(uid: &str, wants: Wants) -> Pending {
    Pending {
        uid: uid.into(),
        name: uid.into(),
        attempt: 1,
        priority: 0,
        created: Timestamp::UNIX_EPOCH,
        wants: Arc::new(Wants { namespace: "ns".into(), ..wants }),
        ladder: Ladder { step: Step::Either, hurry: Hurry::NONE, next: None, note: None },
        not_before: None,
    }
}

pub(super) fn pool(offers: Vec<Offer>) -> PoolView {
    let mut pool = GpuPool::new("p", Default::default());
    pool.metadata.uid = Some("pool-uid".into());
    pool.spec.markets = vec![Market::Spot, Market::OnDemand];
    PoolView {
        pool: Arc::new(pool),
        ready: true,
        why_not: String::new(),
        prepared: Some(Prepared(serde_json::json!({}))),
        records: vec![Record::default(); offers.len()],
        offers: Arc::new(offers),
        learned: BTreeMap::new(),
        blocked: None,
    }
}

pub(super) fn limited(offers: Vec<Offer>, limits: Limits) -> PoolView {
    let mut view = pool(offers);
    let mut changed = (*view.pool).clone();
    changed.spec.limits = Some(limits);
    view.pool = Arc::new(changed);
    view
}

pub(super) fn world(jobs: Vec<Pending>, pools: Vec<PoolView>) -> World {
    World { pending: jobs, pools, namespaces: [("ns".to_owned(), [("team".to_owned(), "a".to_owned())].into())].into(), ..World::default() }
}

pub(super) fn node(name: &str, gpus: i32, reserved: i32) -> Arc<GpuNode> {
    let mut node = GpuNode::new(name, GpuNodeSpec { pool: "p".into(), pool_uid: "pool-uid".into(), gpus, ..Default::default() });
    node.spec.launch.market = Some(Market::Spot);
    node.metadata.uid = Some(name.into());
    node.status = Some(GpuNodeStatus {
        instance: Some(InstanceStatus {
            id: name.into(),
            instance_type: "g6.12xlarge".into(),
            zone: "a".into(),
            market: Market::Spot,
            price_per_hour: Price::from_micros(1_500_000),
            gpus,
            private_dns_name: None,
            private_ip: None,
            provider_id: None,
            launch_time: None,
        }),
        assignments: Some(
            (0..reserved)
                .map(|n| Reservation { job_uid: format!("other-{name}-{n}"), gpus: 1, attempt: 1, ..Default::default() })
                .collect(),
        ),
        ..Default::default()
    });
    Arc::new(node)
}

pub(super) fn now() -> Timestamp {
    Timestamp::from_second(1000).expect("time")
}

pub(super) fn bought(plan: &Plan) -> Vec<&Rung> {
    plan.actions
        .iter()
        .filter_map(|a| match a {
            Action::Launch { rung, .. } => Some(&**rung),
            Action::Reserve { .. } => None,
        })
        .collect()
}

pub(super) fn why(world: &World) -> String {
    super::plan::plan(world, now()).waiting.values().next().map_or_else(String::new, |w| w.reason.clone())
}

/// What was refused just now, and is believed for so many seconds.
pub(super) fn refused(seconds: i64) -> Record {
    let capacity = crate::capacity::Capacity::default();
    let refusal = gpujob_provider_core::Refusal {
        instance_type: "t.t".into(),
        zone: "a".into(),
        market: Market::Spot,
        code: "InsufficientInstanceCapacity".into(),
        class: gpujob_provider_core::ErrorClass::Capacity,
    };
    capacity.refused("p", "r", &[refusal], "", Timestamp::from_second(1000 + seconds - 30).expect("time"));
    capacity.records("p", "r", &[offer("t.t", "a", Market::Spot, 1, 1)], now()).remove(0)
}

/// A pool that remembers something of each of its offers.
pub(super) fn remembering(offers: Vec<(Offer, Record)>) -> PoolView {
    let (offers, records): (Vec<Offer>, Vec<Record>) = offers.into_iter().unzip();
    PoolView { records, ..pool(offers) }
}

/// The same job on another step.
pub(super) fn on(step: Step, job: Pending) -> Pending {
    Pending { ladder: Ladder { step, ..job.ladder }, ..job }
}
