//! Packing: by tables, and by random worlds whose plans must keep what holds always.

use super::*;
use crate::scheduler::room::Room;
use crate::scheduler::worlds::*;
use gpujob_crds::node::Asks;
use gpujob_crds::pool::Limits;
use gpujob_crds::{Market, Price};
use gpujob_provider_core::Demand;

fn asking(uid: &str, gpus: i32, millicores: i64) -> Pending {
    wanting(uid, Wants { demand: Demand { gpus, millicores, ..Default::default() }, ..Wants::default() })
}

/// `g6.12xlarge` in these worlds has 8 vCPUs: 7,910 millicores for pods, and 100 of them for DaemonSets.
fn four_gpus() -> Vec<gpujob_provider_core::Offer> {
    vec![offer("g6.12xlarge", "a", Market::Spot, 1_500_000, 4)]
}

fn reserved(plan: &Plan) -> Vec<String> {
    plan.actions
        .iter()
        .map(|a| match a {
            Action::Reserve { node, .. } => node.name_any(),
            Action::Launch { .. } => "bought".to_owned(),
        })
        .collect()
}

#[test]
fn whole_gpus_are_packed_so_that_nodes_become_empty() {
    let jobs = ["a", "b", "c", "d", "e"].map(|uid| asking(uid, 1, 0)).to_vec();
    let mut w = world(jobs, vec![pool(four_gpus())]);
    w.nodes = vec![node("empty", 4, 0), node("one", 4, 1), node("three", 4, 3)];
    assert_eq!(reserved(&plan(&w, now())), ["three", "one", "one", "one", "empty"]);
    w.pending = vec![asking("a", 2, 0), asking("b", 1, 0), asking("c", 4, 0)];
    assert_eq!(reserved(&plan(&w, now())), ["one", "one", "empty"], "the fullest that has room for it");
}

#[test]
fn a_node_that_somebody_cordoned_seats_nobody() {
    let mut w = world(vec![asking("a", 1, 0)], vec![pool(four_gpus())]);
    w.nodes = vec![node("cordoned", 4, 3), node("open", 4, 0)];
    w.cordoned = ["cordoned".to_owned()].into();
    assert_eq!(reserved(&plan(&w, now())), ["open"]);
    w.nodes.pop();
    assert_eq!(reserved(&plan(&w, now())), ["bought"]);
}

#[test]
fn a_node_without_its_gpus_is_waited_for_before_another_is_bought() {
    let mut w = world(vec![asking("a", 1, 0)], vec![pool(four_gpus())]);
    w.nodes = vec![node("short", 4, 0)];
    for (seconds, expected) in [(5, "short"), (120, "short"), (121, "bought")] {
        let since = now().checked_sub(jiff::SignedDuration::from_secs(seconds)).expect("time");
        w.short = [("short".to_owned(), since)].into();
        assert_eq!(reserved(&plan(&w, now())), [expected], "{seconds}");
    }
}

#[test]
fn what_is_bought_is_shared_by_those_that_fit_beside_it() {
    let jobs = ["a", "b", "c", "d", "e"].map(|uid| asking(uid, 1, 1000)).to_vec();
    let done = plan(&world(jobs, vec![pool(four_gpus())]), now());
    let shared: Vec<&[usize]> = done.actions.iter().map(Action::jobs).collect();
    assert_eq!(shared, [&[0, 1, 2, 3][..], &[4]], "one instance with four GPUs for four jobs");
}

#[test]
fn a_second_job_gets_what_the_first_really_left() {
    let with = |asks: Option<Asks>| {
        let mut first = (*node("n", 4, 1)).clone();
        first.status.as_mut().and_then(|s| s.assignments.as_mut()).expect("reserved")[0].asks = asks;
        let mut w = world(vec![asking("j", 1, 5000)], vec![pool(four_gpus())]);
        w.nodes = vec![Arc::new(first)];
        reserved(&plan(&w, now()))
    };
    let asks = |millicores| Some(Asks { millicores, ..Asks::default() });
    assert_eq!(with(asks(100)), ["n"], "more than its share, and it is there");
    assert_eq!(with(asks(4000)), ["bought"], "less than its share, and it is not");
    assert_eq!(with(None), ["n"], "who did not say is counted with its share");
    // Two in one plan, too.
    let mut w = world(vec![asking("a", 1, 5000), asking("b", 1, 5000)], vec![pool(four_gpus())]);
    w.nodes = vec![node("n", 4, 0)];
    assert_eq!(reserved(&plan(&w, now())), ["n", "bought"]);
}

#[test]
fn what_nodes_really_offer_corrects_the_estimate() {
    let small = Room { millicores: 3000, memory_mib: 1 << 20, disk_mib: 1 << 20, pods: 50 };
    let mut w = world(vec![asking("j", 1, 5000)], vec![pool(four_gpus())]);
    assert_eq!(reserved(&plan(&w, now())), ["bought"], "by the estimate it fits");
    w.pools[0].learned.insert("g6.12xlarge".into(), small);
    assert_eq!(plan(&w, now()).waiting[&0].reason, "NoOfferFits");
    w.nodes = vec![node("n", 4, 0)];
    assert_eq!(reserved(&plan(&w, now())), [""; 0], "the type's nodes are too small as well");
    w.offered.insert("n".into(), Room { millicores: 6000, ..small });
    assert_eq!(reserved(&plan(&w, now())), ["n"], "this one is not");
}

#[test]
fn disk_and_pods_count() {
    let big = |disk_mib| wanting("j", Wants { demand: Demand { gpus: 1, disk_mib, ..Default::default() }, ..Wants::default() });
    assert_eq!(reserved(&plan(&world(vec![big(91_136)], vec![pool(four_gpus())]), now())), ["bought"]);
    let none = plan(&world(vec![big(91_137)], vec![pool(four_gpus())]), now());
    assert!(none.waiting[&0].message.contains("too little disk"), "{}", none.waiting[&0].message);
}

/// A small generator of its own, so that every run tries the same worlds: Knuth's MMIX constants.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }

    fn gpus(&mut self) -> i32 {
        [1, 1, 2, 4, 8][self.below(5) as usize]
    }
}

fn random_world(seed: u64) -> World {
    let mut chance = Chance(seed.wrapping_mul(2_654_435_761) + 1);
    let types = [("g6.xlarge", 1), ("g6.12xlarge", 4), ("g6.48xlarge", 8)];
    let pools = (0..1 + chance.below(3)).map(|n| {
        let offers = (0..chance.below(12)).map(|_| {
            let (name, gpus) = types[chance.below(3) as usize];
            let market = if chance.below(3) == 0 { Market::OnDemand } else { Market::Spot };
            let record = if chance.below(4) == 0 { refused(1 + chance.below(100) as i64) } else { Default::default() };
            (offer(name, ["a", "b"][chance.below(2) as usize], market, 100_000 + chance.below(900_000) as i64, gpus), record)
        });
        let mut view = remembering(offers.collect());
        let mut pool = (*view.pool).clone();
        (pool.metadata.name, pool.metadata.uid) = (Some(format!("p{n}")), Some(format!("uid-{n}")));
        if chance.below(2) == 0 {
            pool.spec.limits = Some(Limits {
                nodes: Some(chance.below(5) as i32),
                price_per_hour: Some(Price::from_micros(chance.below(3_000_000) as i64)),
                ..Default::default()
            });
        }
        if chance.below(4) == 0 {
            let team = Some([("team".to_owned(), "b".to_owned())].into());
            pool.spec.namespaces =
                Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector { match_labels: team, ..Default::default() });
        }
        view.ready = chance.below(6) > 0;
        view.pool = Arc::new(pool);
        view
    });
    let pools = pools.collect::<Vec<_>>();
    let nodes = (0..chance.below(8)).map(|n| {
        let (name, gpus) = types[chance.below(3) as usize];
        let mut one = (*node(&format!("n{n}"), gpus, chance.below(gpus as u64 + 1) as i32)).clone();
        let pool = chance.below(3);
        (one.spec.pool, one.spec.pool_uid) = (format!("p{pool}"), format!("uid-{pool}"));
        if let Some(instance) = one.status.as_mut().and_then(|s| s.instance.as_mut()) {
            instance.instance_type = name.into();
            instance.price_per_hour = Price::from_micros(100_000 + chance.below(900_000) as i64);
        }
        if chance.below(6) == 0 {
            one.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now()));
        }
        Arc::new(one)
    });
    let nodes: Vec<_> = nodes.collect();
    let jobs = (0..chance.below(20)).map(|n| {
        let wants = Wants {
            demand: Demand { gpus: chance.gpus(), millicores: chance.below(9000) as i64, ..Default::default() },
            price_cap: (chance.below(3) == 0).then(|| Price::from_micros(chance.below(1_000_000) as i64)),
            markets: if chance.below(3) == 0 { vec![Market::Spot] } else { vec![] },
            ..Wants::default()
        };
        on([Step::Spot, Step::Either, Step::OnDemandFirst][chance.below(3) as usize], wanting(&format!("j{n:02}"), wants))
    });
    let jobs = jobs.collect();
    World { nodes, ..world(jobs, pools) }
}

/// The world after the plan took effect: reserved and bought, nothing joined yet.
fn after(world: &World, plan: &Plan) -> World {
    let mut next = world.clone();
    for action in &plan.actions {
        match action {
            Action::Reserve { node, reservation, .. } => {
                let found = next.nodes.iter_mut().find(|n| n.name_any() == node.name_any()).expect("it was there");
                let mut changed = (**found).clone();
                let mut all = changed.reservations().to_vec();
                all.push(reservation.clone());
                changed.status.get_or_insert_default().assignments = Some(all);
                *found = Arc::new(changed);
            }
            Action::Launch { name, reservations, rung, .. } => {
                let view = &world.pools[rung.pool];
                let mut intent = GpuNode::new(name, Default::default());
                (intent.spec.pool, intent.spec.pool_uid) = (view.pool.name_any(), view.pool.uid().expect("uid"));
                intent.spec.launched_for = reservations.clone();
                intent.spec.gpus = rung.offers.iter().map(|o| o.gpus).min().expect("offers");
                intent.spec.launch.market = Some(rung.market);
                intent.spec.launch.offers = rung.offers.iter().map(|o| o.reference()).collect();
                next.nodes.push(Arc::new(intent));
            }
        }
    }
    next.nodes.sort_by_key(|n| n.name_any());
    let served: BTreeSet<usize> = plan.actions.iter().flat_map(|a| a.jobs().to_vec()).collect();
    next.pending = world.pending.iter().enumerate().filter(|(n, _)| !served.contains(n)).map(|(_, j)| j.clone()).collect();
    next
}

#[test]
fn what_holds_in_every_world() {
    let (mut reserves, mut launches, mut waits) = (0, 0, 0);
    for seed in 0..1500 {
        let w = random_world(seed);
        let done = plan(&w, now());
        assert_eq!(plan(&w, now()).actions, done.actions, "{seed}: one world, two plans");
        let mut each: Vec<usize> = done.actions.iter().flat_map(|a| a.jobs().to_vec()).chain(done.waiting.keys().copied()).collect();
        each.sort_unstable();
        assert_eq!(each, (0..w.pending.len()).collect::<Vec<_>>(), "{seed}: each job once");
        let names: BTreeSet<&String> = done
            .actions
            .iter()
            .filter_map(|a| match a {
                Action::Launch { name, .. } => Some(name),
                Action::Reserve { .. } => None,
            })
            .collect();
        launches += names.len();
        reserves += done.actions.len() - names.len();
        waits += done.waiting.len();
        for (action, job) in done.actions.iter().flat_map(|a| a.jobs().iter().map(move |job| (a, *job))) {
            let first = action.jobs()[0] == job;
            let job = &w.pending[job];
            match action {
                Action::Reserve { node, .. } => {
                    let view = w.pools.iter().find(|p| p.pool.uid().as_deref() == Some(&node.spec.pool_uid)).expect("its pool");
                    assert!(w.admits(&view.pool, &job.wants), "{seed}: a node of a pool that does not admit");
                    assert!(node.metadata.deletion_timestamp.is_none(), "{seed}: a dying node");
                    let price = node.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.price_per_hour);
                    assert!(job.wants.price_cap.is_none_or(|cap| price.is_some_and(|p| p <= cap)), "{seed}: above the job's cap");
                }
                Action::Launch { rung, .. } => {
                    let view = &w.pools[rung.pool];
                    assert!(view.ready && w.admits(&view.pool, &job.wants), "{seed}: of a pool that does not admit");
                    assert!(!rung.offers.is_empty() && rung.offers.len() <= crate::scheduler::offers::MOST, "{seed}");
                    for o in &rung.offers {
                        assert!(o.market == rung.market && o.gpus >= job.wants.demand.gpus, "{seed}: {}", o.label());
                        assert!(
                            job.wants.price_cap.is_none_or(|cap| o.price <= cap && (!first || rung.max_price <= cap)),
                            "{seed}: above the job's cap"
                        );
                        assert!(job.wants.markets.is_empty() || job.wants.markets.contains(&o.market), "{seed}: another market");
                        let at = view.offers.iter().zip(&view.records).find(|(known, r)| *known == o && r.refused.is_none());
                        assert!(at.is_some(), "{seed}: refused lately: {}", o.label());
                    }
                }
            }
        }
        let next = after(&w, &done);
        for node in &next.nodes {
            assert!(node.free_gpus() >= 0, "{seed}: more GPUs than {} has", node.name_any());
        }
        for view in &w.pools {
            let Some(limits) = view.pool.spec.limits.as_ref() else { continue };
            let of = |world: &World| -> Vec<Price> {
                let mine = world.nodes.iter().filter(|n| n.spec.pool == view.pool.name_any());
                mine.map(|n| n.status.as_ref().and_then(|s| s.instance.as_ref()).map_or_else(|| n.dearest(), |i| i.price_per_hour))
                    .collect()
            };
            let (before, now) = (of(&w), of(&next));
            if now.len() > before.len() {
                assert!(limits.nodes.is_none_or(|most| now.len() <= most as usize), "{seed}: over limits.nodes");
                assert!(
                    limits.price_per_hour.is_none_or(|most| now.into_iter().sum::<Price>() <= most),
                    "{seed}: over limits.pricePerHour"
                );
            }
        }
        // What is left could not be helped: the next plan of the same moment has nothing to do.
        assert_eq!(plan(&next, now()).actions, [], "{seed}: not at rest");
    }
    assert!(reserves > 500 && launches > 500 && waits > 500, "the worlds try all of it: {reserves} {launches} {waits}");
}
