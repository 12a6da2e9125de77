//! The replicas of a schedule: who runs, who comes back, and who is struck when the leader is.

use super::{Operator, Site};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// One replica's place.
#[derive(Debug)]
struct Slot {
    letter: char,
    /// How many processes it has had.
    generation: u32,
    /// How many names it has had.
    names: u32,
    up: Option<Operator>,
}

/// All replicas.
#[derive(Debug)]
pub struct Fleet {
    site: Site,
    slots: Vec<Slot>,
    /// Who is started again when. By time, then by place.
    returns: BTreeMap<(Instant, usize), ()>,
    mends: BTreeMap<(Instant, usize), ()>,
}

impl Fleet {
    /// Starts so many replicas, a second apart.
    pub fn start(site: Site, replicas: usize) -> Self {
        let slots = ('a'..='z').take(replicas).map(|letter| Slot { letter, generation: 0, names: 1, up: None }).collect();
        let returns = (0..replicas).map(|n| ((Instant::now() + Duration::from_secs(n as u64), n), ())).collect();
        let mut fleet = Fleet { site, slots, returns, mends: BTreeMap::new() };
        fleet.turn();
        fleet
    }

    /// Does what is due: processes that come back, lines that are mended.
    pub fn turn(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.returns.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, n), ()) = entry.remove_entry();
            let slot = &mut self.slots[n];
            slot.generation += 1;
            let identity = match slot.names {
                1 => format!("operator-{}", slot.letter),
                names => format!("operator-{}-{names}", slot.letter),
            };
            slot.up = Some(Operator::start(&self.site, &format!("operator-{}#{}", slot.letter, slot.generation), &identity));
        }
        while let Some(entry) = self.mends.first_entry().filter(|e| e.key().0 <= now) {
            let ((_, n), ()) = entry.remove_entry();
            if let Some(up) = self.slots[n].up.as_ref().filter(|o| o.is_up()) {
                up.cut(false);
            }
        }
    }

    /// When there is something to do next.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        self.returns.keys().chain(self.mends.keys()).map(|(at, _)| *at).min()
    }

    /// The place of the running process with this name in the Lease; without one, of the first that runs.
    fn place(&self, leader: Option<&str>) -> Option<usize> {
        let up = |n: &usize| self.slots[*n].up.as_ref().is_some_and(Operator::is_up);
        let all = || (0..self.slots.len()).filter(up);
        all().find(|n| self.slots[*n].up.as_ref().map(|o| o.identity.as_str()) == leader).or_else(|| all().next())
    }

    /// Whether this holder of the Lease is a process that runs and is connected.
    #[must_use]
    pub fn leads(&self, leader: Option<&str>) -> bool {
        self.slots
            .iter()
            .filter_map(|s| s.up.as_ref())
            .any(|o| Some(o.identity.as_str()) == leader && o.line.state() == super::line::State::Up)
    }

    /// kill -9 of the leader.
    pub fn kill(&mut self, leader: Option<&str>, back_in: Duration, new_name: bool) {
        if let Some(n) = self.place(leader) {
            self.bury(n, back_in, new_name);
        }
    }

    /// A process has died at a write.
    pub fn died(&mut self, who: &str, back_in: Duration) {
        let place = self.slots.iter().position(|s| s.up.as_ref().is_some_and(|o| o.who == who));
        if let Some(n) = place {
            self.bury(n, back_in, false);
        }
    }

    fn bury(&mut self, n: usize, back_in: Duration, new_name: bool) {
        if let Some(up) = self.slots[n].up.take() {
            up.crash();
        }
        self.slots[n].names += u32::from(new_name);
        self.returns.insert((Instant::now() + back_in, n), ());
    }

    /// SIGTERM to the leader, as a rollout does it: it comes back under another name.
    pub fn stop(&mut self, leader: Option<&str>, back_in: Duration) {
        let Some(n) = self.place(leader) else { return };
        if let Some(up) = self.slots[n].up.take() {
            tokio::spawn(up.stop());
        }
        self.slots[n].names += 1;
        self.returns.insert((Instant::now() + back_in, n), ());
    }

    /// Cuts the leader off for so long.
    pub fn partition(&mut self, leader: Option<&str>, for_: Duration) {
        let Some(n) = self.place(leader) else { return };
        if let Some(up) = &self.slots[n].up {
            up.cut(true);
            self.mends.insert((Instant::now() + for_, n), ());
        }
    }

    /// The leader's wall clock jumps.
    pub fn step_clock(&self, leader: Option<&str>, by: jiff::SignedDuration) {
        if let Some(up) = self.place(leader).and_then(|n| self.slots[n].up.as_ref()) {
            up.clock.step(by);
        }
    }
}
