//! The state behind the API: what is sold, what was bought, and what is going to happen by itself.
//!
//! Nothing runs in the background. What is due by itself (a boot, an end, a reclaim, a move of the market) stands in an
//! agenda and is done, in order of time, before anybody looks: see [`Account::settle`].

use super::calls::Traffic;
use super::events::{Event, What};
use super::machine::{Machine, POWERED_OFF, RECLAIMED};
use super::market::{Bazaar, Place, Places};
use super::queue::Queue;
use super::template::Template;
use super::token::Remembered;
use super::trace::Move;
use gpujob_provider_core::{InstanceState, Notice, NoticeKind};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// How an instance boots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boot {
    /// It runs after this long.
    After(Duration),
    /// It stays pending.
    Never,
    /// It dies after this long instead, of this: `Server.InternalError`, say.
    Dies(Duration, String),
}

/// What happens by itself.
#[derive(Clone, Debug)]
pub(super) enum Due {
    Market(Move),
    Runs(String),
    Dies(String, String),
    Reclaimed(String),
    Gone(String),
    /// The instance's own timer looks at the clock.
    Timer(String),
}

/// A disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its id.
    pub id: String,
    /// Its tags: those of its instance.
    pub tags: BTreeMap<String, String>,
    /// When it was made.
    pub created: Timestamp,
    /// The instance that uses it.
    pub instance: Option<String>,
}

/// How the cloud behaves, until told otherwise.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    /// How long lists do not show a new instance.
    pub(super) lag: SignedDuration,
    /// How long calls by id do not find a new instance.
    pub(super) id_lag: SignedDuration,
    /// How long a new template cannot be named by launches.
    pub(super) template_lag: SignedDuration,
    /// How long an instance shuts down.
    pub(super) shutdown: Duration,
    /// How instances boot; the last that fits counts.
    pub(super) boot: Vec<(Places, Boot)>,
    /// Whether a token answers with the refusal that it got before.
    pub(super) remembers_refusals: bool,
    /// Whether images are prefetched.
    pub(super) prefetches: bool,
    /// Whether instances end themselves.
    pub(super) timers: bool,
    /// Whether the queue is told of every instance that ends, and not of spot's warnings alone.
    pub(super) tells_ends: bool,
}

/// How long an instance waits for its kubelet to join before it powers itself off.
pub(super) const JOIN_WITHIN: SignedDuration = SignedDuration::from_mins(30);
/// How long it stays without an API server.
pub(super) const SILENT_FOR: SignedDuration = SignedDuration::from_hours(1);

pub(super) struct Account {
    /// The time of what is being done now.
    pub(super) now: Timestamp,
    pub(super) bazaar: Bazaar,
    pub(super) machines: BTreeMap<String, Machine>,
    pub(super) volumes: BTreeMap<String, Volume>,
    /// By name.
    pub(super) templates: BTreeMap<String, Template>,
    pub(super) tokens: BTreeMap<String, Remembered>,
    pub(super) queue: Queue,
    pub(super) traffic: Traffic,
    pub(super) events: Vec<Event>,
    pub(super) manners: Manners,
    agenda: BTreeMap<(Timestamp, u64), Due>,
    counter: u64,
}

impl Account {
    pub(super) fn new(now: Timestamp) -> Self {
        Account {
            now,
            bazaar: Bazaar::new(),
            machines: BTreeMap::new(),
            volumes: BTreeMap::new(),
            templates: BTreeMap::new(),
            tokens: BTreeMap::new(),
            queue: Queue::default(),
            traffic: Traffic::default(),
            events: vec![],
            manners: Manners {
                lag: SignedDuration::ZERO,
                id_lag: SignedDuration::ZERO,
                template_lag: SignedDuration::from_secs(1),
                shutdown: Duration::from_secs(20),
                boot: vec![(Places::all(), Boot::After(Duration::from_secs(15)))],
                remembers_refusals: false,
                prefetches: true,
                timers: true,
                tells_ends: true,
            },
            agenda: BTreeMap::new(),
            counter: 0,
        }
    }

    /// A number that was never given before.
    pub(super) fn number(&mut self) -> u64 {
        self.counter += 1;
        self.counter
    }

    pub(super) fn plan(&mut self, at: Timestamp, due: Due) {
        let number = self.number();
        self.agenda.insert((at.max(self.now), number), due);
    }

    /// When something happens next.
    pub(super) fn next(&self) -> Option<Timestamp> {
        self.agenda.keys().next().map(|(at, _)| *at)
    }

    /// Does all that is due by `now`, each at its time.
    pub(super) fn settle(&mut self, now: Timestamp) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            self.now = entry.key().0;
            let due = entry.remove();
            self.happen(due);
        }
        self.now = now;
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Market(change) => change.apply(&mut self.bazaar),
            Due::Runs(id) => self.run(&id),
            Due::Dies(id, why) => self.end(&id, &why),
            Due::Reclaimed(id) => self.end(&id, RECLAIMED),
            Due::Gone(id) => self.bury(&id),
            Due::Timer(id) => self.look_at_timer(&id),
        }
    }

    pub(super) fn tell(&mut self, id: &str, what: What) {
        let number = u64::try_from(self.events.len()).unwrap_or(u64::MAX) + 1;
        self.events.push(Event { number, at: self.now, instance: id.to_owned(), what });
    }

    fn run(&mut self, id: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.is_alive()) else { return };
        machine.running = Some(now);
        let max_lifetime = machine.max_lifetime;
        self.tell(id, What::Running);
        if let Some(max_lifetime) = max_lifetime {
            self.plan(now + JOIN_WITHIN, Due::Timer(id.to_owned()));
            self.plan(now + max_lifetime, Due::Timer(id.to_owned()));
        }
    }

    /// What EventBridge makes of a change of state.
    fn tell_end(&mut self, id: &str, state: &str) {
        if self.manners.tells_ends {
            self.warn(id, NoticeKind::Interruption, state, Some(self.now));
        }
    }

    /// Writes to the queue.
    pub(super) fn warn(&mut self, id: &str, kind: NoticeKind, code: &str, at: Option<Timestamp>) {
        let (number, now) = (self.number(), self.now);
        self.queue.send(number, now, Notice { instance: id.to_owned(), kind, at, code: code.to_owned(), receipt: None });
    }

    /// Begins its end, unless that has begun.
    pub(super) fn end(&mut self, id: &str, why: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.is_alive()) else { return };
        machine.ending = Some(now);
        machine.why = Some(why.to_owned());
        self.tell(id, What::Ending(why.to_owned()));
        self.tell_end(id, "shutting-down");
        self.plan(now + self.manners.shutdown, Due::Gone(id.to_owned()));
    }

    /// It is gone: its capacity is free again, and its volume goes too, unless told otherwise.
    fn bury(&mut self, id: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.gone.is_none()) else { return };
        machine.gone = Some(now);
        let (place, leaves_volume) = (Place::of(&machine.offer), machine.leaves_volume);
        if let Some(stall) = self.bazaar.stalls.get_mut(&place) {
            stall.used = stall.used.saturating_sub(1);
        }
        if leaves_volume {
            self.volumes.values_mut().filter(|v| v.instance.as_deref() == Some(id)).for_each(|v| v.instance = None);
        } else {
            self.volumes.retain(|_, v| v.instance.as_deref() != Some(id));
        }
        self.tell(id, What::Gone);
        self.tell_end(id, "terminated");
    }

    /// The dead man's rules, as providers/aws writes them into user data.
    fn look_at_timer(&mut self, id: &str) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id).filter(|m| m.is_alive() && self.manners.timers) else { return };
        let (Some(running), Some(max_lifetime)) = (machine.running, machine.max_lifetime) else { return };
        let late = machine.joined.is_none() && now.duration_since(running) >= JOIN_WITHIN;
        let silent = machine.silent_since.is_some_and(|since| now.duration_since(since) >= SILENT_FOR);
        let old = now.duration_since(running) >= max_lifetime;
        if late || silent || old {
            machine.console += "gpujob dead-man: powering off\n";
            self.end(id, POWERED_OFF);
        }
    }

    /// What the instance sees of the API server, as the world says.
    pub(super) fn hears(&mut self, id: &str, answers: bool) {
        let now = self.now;
        let Some(machine) = self.machines.get_mut(id) else { return };
        match (answers, machine.silent_since) {
            (true, _) => machine.silent_since = None,
            (false, Some(_)) => {}
            (false, None) => {
                machine.silent_since = Some(now);
                self.plan(now + SILENT_FOR, Due::Timer(id.to_owned()));
            }
        }
    }

    /// How an instance at this place boots.
    pub(super) fn boot(&self, place: &Place) -> Boot {
        let fits = self.manners.boot.iter().rev().find(|(places, _)| places.contain(place));
        fits.map_or(Boot::After(Duration::ZERO), |(_, boot)| boot.clone())
    }

    /// The instance that calls by id find: one that is not too new, and not gone for an hour.
    pub(super) fn find(&self, id: &str) -> Option<&Machine> {
        let machine = self.machines.get(id)?;
        (machine.found_from <= self.now && self.is_kept(machine, self.now)).then_some(machine)
    }

    /// EC2 shows the dead for about an hour.
    pub(super) fn is_kept(&self, machine: &Machine, at: Timestamp) -> bool {
        machine.state(at) < InstanceState::Terminated
            || machine.gone.is_some_and(|gone| at.duration_since(gone) < SignedDuration::from_hours(1))
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
