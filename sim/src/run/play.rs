//! Plays one schedule: builds the whole world in virtual time, lets it go wrong as planned, and watches until it has settled.

use super::schedule::{Schedule, Verdict};
use crate::clock::SimClock;
use crate::cloud::{Failure, Fault as CloudFault, Operation, Places};
use crate::faults::{Director, Fault, Happening};
use crate::kube::FakeKube;
use crate::oracle::Oracle;
use crate::process::{Site, fleet::Fleet};
use crate::scenario::{Scenario, Stage, catalog};
use crate::timeline::{Kind, Timeline};
use crate::world::World;
use gpujob_crds::{Market, Price};
use jiff::SignedDuration;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

/// The longest that a schedule may take.
pub const LIMIT: Duration = Duration::from_secs(2 * 3600);
/// How long nothing may be written for a schedule to be settled: everything is looked at anew every 300 s, so once within that.
const QUIET: Duration = Duration::from_secs(320);
/// The same where nothing goes wrong: two of those, and whatever else is done every few minutes.
pub(super) const QUIET_CLEAN: Duration = Duration::from_secs(640);
/// Seconds between two listings of a cloud in which something lives.
const LISTED: u64 = 15;
/// Between two looks of the oracles.
const TICK: Duration = Duration::from_secs(1);

/// Runs a schedule on a runtime of its own.
///
/// # Panics
/// When the scenario does not exist, cannot be set up, or leaves itself in memory.
#[must_use]
pub fn play(schedule: &Schedule) -> Verdict {
    let scenario = catalog::named(&schedule.scenario).unwrap_or_else(|| panic!("no scenario {}", schedule.scenario));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    // The future of an operator is not `Send`: it runs where it was made.
    let local = tokio::task::LocalSet::new();
    let (verdict, oracle) = local.block_on(&runtime, async {
        let play = Play::new(schedule, scenario);
        let oracle = Arc::downgrade(&play.oracle);
        (play.run().await, oracle)
    });
    drop((local, runtime));
    // The oracle holds everything else. A hundred thousand schedules would not fit into memory.
    assert!(oracle.upgrade().is_none(), "something still holds what a schedule was made of");
    verdict
}

struct Play<'a> {
    schedule: &'a Schedule,
    scenario: Scenario,
    clock: SimClock,
    timeline: Timeline,
    director: Director,
    kube: FakeKube,
    cloud: crate::cloud::FakeCloud,
    oracle: Arc<Oracle>,
    /// What happens when, still to come. By time, then in the order of the schedule.
    agenda: BTreeMap<(Instant, usize), Happening>,
    /// What goes back to normal when.
    mends: BTreeMap<(Instant, usize), Mend>,
    /// Until when delays are excused, whatever else happens.
    excused: Instant,
    /// How long nothing may be written in the end.
    quiet: Duration,
}

/// What was changed for a while.
#[derive(Clone, Copy, Debug)]
enum Mend {
    Capacity,
    Listings,
}

impl<'a> Play<'a> {
    fn new(schedule: &'a Schedule, scenario: Scenario) -> Self {
        let clock = SimClock::new();
        let timeline = Timeline::new(clock.clone());
        let director = Director::new(clock.clone(), schedule.faults.clone(), schedule.seed);
        let kube = FakeKube::new(Arc::new(clock.clone()));
        let cloud = catalog::cloud(Arc::new(clock.clone()), &scenario);
        let steps = schedule.faults.iter().filter_map(|f| match f {
            Fault::At { what: Happening::StepClock { by_s }, .. } => Some(SignedDuration::from_secs((-by_s).max(0))),
            _ => None,
        });
        let stepped = steps.reduce(|all, step| all + step);
        let oracle = Oracle::new(kube.clone(), cloud.clone(), clock.clone(), timeline.clone(), stepped);
        let quiet = if schedule.faults.is_empty() { QUIET_CLEAN } else { QUIET };
        let start = Instant::now();
        let at = |(n, fault): (usize, &Fault)| match *fault {
            Fault::At { second, what } => Some(((start + Duration::from_secs(second), n), what)),
            _ => None,
        };
        let agenda = schedule.faults.iter().enumerate().filter_map(at).collect();
        Play { schedule, scenario, clock, timeline, director, kube, cloud, oracle, agenda, mends: BTreeMap::new(), excused: start, quiet }
    }

    async fn run(mut self) -> Verdict {
        let client = self.kube.client();
        let hardware = Arc::new(self.cloud.clone());
        let world = Arc::new(World::start(client.clone(), hardware, Arc::new(self.clock.clone()), self.scenario.script.clone()));
        let controllers = self.kube.clone();
        tokio::spawn(async move { controllers.controllers().await });
        let namespaces = self.kube.objects("namespaces");
        let system = namespaces.iter().find(|n| n["metadata"]["name"] == "kube-system").expect("every cluster has it");
        let cluster = system["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        self.oracle.introduce(world.store().clone(), &cluster);
        let (died, mut deaths) = mpsc::unbounded_channel();
        let site = Site {
            kube: self.kube.clone(),
            cloud: self.cloud.clone(),
            clock: self.clock.clone(),
            director: self.director.clone(),
            timeline: self.timeline.clone(),
            witness: self.oracle.clone(),
            died,
            cluster,
            lease: Duration::from_secs(self.schedule.lease_s),
            wires: Arc::default(),
        };
        site.listen();
        self.scenario.apply(&client).await.expect("the scenario's objects are accepted");
        let fleet = Arc::new(Mutex::new(Fleet::start(site, self.schedule.replicas)));
        let stage = self.stage(client, world, &fleet);
        let steps = {
            let (stage, steps) = (stage.clone(), self.scenario.steps.clone());
            tokio::spawn(async move { stage.play(&steps).await })
        };
        let start = Instant::now();
        loop {
            let next = Instant::now() + TICK;
            let next = fleet.lock().expect("no panic holds this lock").next().map_or(next, |at| at.min(next));
            let next = self.agenda.keys().chain(self.mends.keys()).map(|(at, _)| *at).min().map_or(next, |at| at.min(next));
            // A death is buried at once: its tasks are told to end.
            if let Ok(Some(death)) = timeout(next.saturating_duration_since(Instant::now()), deaths.recv()).await {
                fleet.lock().expect("no panic holds this lock").died(&death.who, Duration::from_secs(death.back_in_s));
            } else {
                sleep_until(next).await;
            }
            self.turn(&fleet);
            self.oracle.look();
            let whole_second = self.clock.elapsed().as_secs().is_multiple_of(10);
            let may_be_over = whole_second && steps.is_finished() && self.agenda.is_empty() && self.mends.is_empty();
            let late = start.elapsed() >= LIMIT;
            if late || (may_be_over && self.oracle.quiet_for() >= self.quiet) {
                let missing = self.scenario.expect.missing(&stage, self.schedule.faults.is_empty()).await;
                if missing.is_empty() && self.oracle.quiet_for() >= self.quiet {
                    break;
                }
                if late {
                    self.accuse_late(missing);
                    break;
                }
            }
        }
        self.oracle.finish();
        stage.world.stop();
        // It holds the processes' wires, which hold the oracle, which holds the cloud.
        self.cloud.on_write(|_| {});
        self.verdict()
    }

    fn accuse_late(&self, missing: Vec<String>) {
        for what in &missing {
            self.oracle.accuse("end", what.as_str());
        }
        let quiet = self.oracle.quiet_for();
        if quiet < self.quiet {
            self.oracle.accuse("quiet", format!("still writing after {} s: the last write was {} s ago", LIMIT.as_secs(), quiet.as_secs()));
        }
    }

    fn stage(&self, client: kube::Client, world: Arc<World>, fleet: &Arc<Mutex<Fleet>>) -> Stage {
        let (fleet, oracle) = (fleet.clone(), self.oracle.clone());
        let lose_leader = move || {
            let leader = oracle.leader();
            fleet.lock().expect("no panic holds this lock").partition(leader.as_deref(), LIMIT);
        };
        Stage { client, cloud: self.cloud.clone(), world, lose_leader: Arc::new(lose_leader) }
    }

    /// Does what is due, and notes whether anything is wrong now.
    fn turn(&mut self, fleet: &Mutex<Fleet>) {
        let now = Instant::now();
        let mut fleet = fleet.lock().expect("no panic holds this lock");
        fleet.turn();
        while let Some(entry) = self.agenda.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, n), what) = entry.remove_entry();
            self.timeline.note("schedule", Kind::Fault, format!("{what:?}"));
            self.happen(n, what, &mut fleet);
        }
        while let Some(entry) = self.mends.first_entry().filter(|e| e.key().0 <= now) {
            match entry.remove() {
                Mend::Capacity => self.cloud.set_capacity(&Places::all().market(Market::Spot), None),
                Mend::Listings => self.cloud.set_lag(Duration::ZERO),
            }
        }
        if !fleet.leads(self.oracle.leader().as_deref()) || self.excused > now {
            crate::faults::Witness::disturbed(self.oracle.as_ref());
        }
    }

    fn happen(&mut self, n: usize, what: Happening, fleet: &mut Fleet) {
        let (now, leader) = (Instant::now(), self.oracle.leader());
        let leader = leader.as_deref();
        let mut lasts = |seconds: u64| {
            let time = Duration::from_secs(seconds);
            self.excused = self.excused.max(now + time);
            time
        };
        match what {
            Happening::Kill { back_in_s, new_name } => fleet.kill(leader, Duration::from_secs(back_in_s), new_name),
            Happening::Stop { back_in_s } => fleet.stop(leader, Duration::from_secs(back_in_s)),
            Happening::Partition { for_s } => fleet.partition(leader, Duration::from_secs(for_s)),
            Happening::StepClock { by_s } => {
                // Whatever is measured by that clock may be off by so much.
                lasts(by_s.unsigned_abs());
                fleet.step_clock(leader, SignedDuration::from_secs(by_s));
            }
            Happening::StallWatches { for_s } => self.director.stall_watches(lasts(for_s)),
            Happening::DropEvents { for_s } => self.director.drop_events(lasts(for_s)),
            Happening::CloseWatches => self.director.close_watches(),
            Happening::Reclaim { notice_s } => {
                let running = self.cloud.instances().into_iter().find(|m| m.is_alive() && m.running.is_some());
                if let Some(machine) = running {
                    self.cloud.interrupt(&machine.id, Duration::from_secs(notice_s));
                }
            }
            Happening::NoCapacity { for_s } => {
                let until = now + lasts(for_s);
                self.cloud.set_capacity(&Places::all().market(Market::Spot), Some(0));
                self.mends.insert((until, n), Mend::Capacity);
            }
            Happening::HideInstances { lag_s, for_s } => {
                let until = now + lasts(for_s + lag_s);
                self.cloud.set_lag(Duration::from_secs(lag_s));
                self.mends.insert((until, n), Mend::Listings);
            }
            Happening::Market(moves) => {
                let (trace, seconds) = moves.trace();
                lasts(seconds);
                self.cloud.follow(&trace);
            }
            Happening::OldListings { times, by_s } => {
                lasts(by_s + u64::from(times) * LISTED);
                self.cloud.fault(CloudFault::next(Operation::List, Failure::Stale(Duration::from_secs(by_s))).times(times));
            }
            Happening::ShortListings { times, after } => {
                lasts(u64::from(times) * LISTED);
                self.cloud.fault(CloudFault::next(Operation::List, Failure::Incomplete(after)).times(times));
            }
            Happening::Prices { percent } => {
                for offer in self.cloud.market() {
                    let price = Price::from_micros(offer.price.micros() * i64::from(percent) / 100);
                    self.cloud.set_price(&Places::from(&offer), price);
                }
            }
        }
    }

    fn verdict(&self) -> Verdict {
        Verdict {
            schedule: self.schedule.clone(),
            violations: self.oracle.violations(),
            timeline: self.timeline.entries(),
            digest: self.timeline.digest(),
            writes: self.director.writes(),
            requests: self.director.requests(),
            calls: self.director.calls(),
            seconds: self.clock.elapsed().as_secs(),
        }
    }
}
