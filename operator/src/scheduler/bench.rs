//! A world of any size for the benchmark, and the plan of it. Nobody else may need this.

use super::cost::Hurry;
use super::demand::{Pending, Wants};
use super::ladder::{Ladder, Step};
use super::observe::{PoolView, World};
use super::plan::plan;
use super::room::asks;
use crate::capacity::Record;
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::pool::Limits;
use gpujob_crds::{GpuNode, GpuNodeSpec, GpuPool, Market, Price, Reservation};
use gpujob_provider_core::{Demand, Offer, Prepared};
use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A world that a plan can be made of again and again.
#[derive(Debug)]
pub struct BenchWorld(World);

const TYPES: [(&str, i32, &str); 12] = [
    ("g4dn.xlarge", 1, "T4"),
    ("g4dn.12xlarge", 4, "T4"),
    ("g5.xlarge", 1, "A10G"),
    ("g5.2xlarge", 1, "A10G"),
    ("g5.12xlarge", 4, "A10G"),
    ("g5.48xlarge", 8, "A10G"),
    ("g6.xlarge", 1, "L4"),
    ("g6.2xlarge", 1, "L4"),
    ("g6.12xlarge", 4, "L4"),
    ("g6e.xlarge", 1, "L40S"),
    ("g6e.12xlarge", 4, "L40S"),
    ("p5.48xlarge", 8, "H100"),
];

/// `jobs` waiting jobs of 40 kinds, `nodes` nodes of four GPUs of which every tenth has one free, and `offers` offers in four pools.
/// `limited`: the pools are as full as they may be, so that every job that finds no free GPU waits.
#[must_use]
pub fn world(jobs: usize, nodes: usize, offers: usize, limited: bool) -> BenchWorld {
    let kinds: Vec<Arc<Wants>> = (0..40).map(|n| Arc::new(kind(n))).collect();
    let pending = (0..jobs).map(|n| Pending {
        uid: format!("00000000-0000-0000-0000-{n:012}"),
        name: format!("job-{n}"),
        attempt: 1,
        priority: 0,
        created: Timestamp::UNIX_EPOCH,
        wants: kinds[n * 7 % kinds.len()].clone(),
        ladder: Ladder { step: Step::Either, hurry: Hurry::NONE, next: None, note: None },
        not_before: None,
    });
    BenchWorld(World {
        pending: pending.collect(),
        nodes: (0..nodes).map(|n| Arc::new(node(n))).collect(),
        pools: (0..4).map(|n| pool(n, offers / 4, limited)).collect(),
        namespaces: (0..8).map(|n| (format!("team-{n}"), BTreeMap::new())).collect(),
        ..World::default()
    })
}

/// Makes the plan. Returns how many actions it has, and how many jobs wait.
#[must_use]
pub fn plan_of(world: &BenchWorld) -> (usize, usize) {
    let plan = plan(&world.0, Timestamp::UNIX_EPOCH);
    (plan.actions.len(), plan.waiting.len())
}

fn kind(n: usize) -> Wants {
    let gpus = [1, 1, 1, 2, 4][n % 5];
    Wants {
        namespace: format!("team-{}", n % 8),
        demand: Demand { gpus, millicores: 500 * i64::from(gpus), memory_mib: 1000, ..Demand::default() },
        price_cap: n.is_multiple_of(2).then(|| Price::from_micros(40_000_000)),
        ..Wants::default()
    }
}

fn pool(n: usize, offers: usize, limited: bool) -> PoolView {
    let mut pool = GpuPool::new(&format!("pool-{n}"), Default::default());
    pool.metadata.uid = Some(format!("uid-{n}"));
    pool.spec.markets = vec![Market::Spot, Market::OnDemand];
    pool.spec.limits = limited.then(|| Limits { nodes: Some(1), ..Limits::default() });
    let offer = |m: usize| {
        let (name, gpus, model) = TYPES[m % TYPES.len()];
        let market = if m.is_multiple_of(3) { Market::OnDemand } else { Market::Spot };
        let price = Price::from_micros(300_000 * i64::from(gpus) + i64::try_from(m * 7919 % 100_000).unwrap_or(0));
        Offer {
            price,
            instance_type: name.into(),
            zone: format!("region-{n}{}", m / TYPES.len()),
            market,
            on_demand_price: price,
            gpus,
            gpu_model: model.into(),
            gpu_memory_mib: 24_000,
            vcpus: 4 * gpus,
            memory_mib: 16_384 * i64::from(gpus),
        }
    };
    let mut offers: Vec<Offer> = (0..offers).map(offer).collect();
    offers.sort();
    PoolView {
        pool: Arc::new(pool),
        ready: true,
        why_not: String::new(),
        prepared: Some(Prepared(serde_json::Value::Null)),
        records: vec![Record::default(); offers.len()],
        offers: Arc::new(offers),
        learned: BTreeMap::new(),
        blocked: None,
    }
}

fn node(n: usize) -> GpuNode {
    let pool = n % 4;
    let mut node = GpuNode::new(
        &format!("gn-{n:06}"),
        GpuNodeSpec { pool: format!("pool-{pool}"), pool_uid: format!("uid-{pool}"), gpus: 4, ..Default::default() },
    );
    node.metadata.uid = node.metadata.name.clone();
    node.spec.launch.market = Some(Market::Spot);
    let reserved = if n.is_multiple_of(10) { 3 } else { 4 };
    let one = |k: i32| Reservation {
        job_uid: format!("running-{n}-{k}"),
        gpus: 1,
        attempt: 1,
        asks: Some(asks(&Demand { millicores: 500, ..Demand::default() })),
        ..Default::default()
    };
    node.status = Some(GpuNodeStatus {
        instance: Some(InstanceStatus {
            id: format!("i-{n}"),
            instance_type: "g6.12xlarge".into(),
            zone: format!("region-{pool}0"),
            market: Market::Spot,
            price_per_hour: Price::from_micros(1_200_000),
            gpus: 4,
            private_dns_name: None,
            private_ip: None,
            provider_id: None,
            launch_time: None,
        }),
        assignments: Some((0..reserved).map(one).collect()),
        ..Default::default()
    });
    node
}
