//! Random schedules of many actors over one epoch object: stale reads, lost answers, writes that arrive late and
//! actors that die anywhere. The oracle is what the epoch object went through, write by write.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::receipt::Ended;
use crate::spec::OnExisting;

/// xorshift64*: a seed replays a schedule.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) % sides
    }
}

#[derive(Default)]
struct Store {
    version: u64,
    now: Option<Epoch>,
    history: Vec<Epoch>,
}

impl Store {
    fn put_if(&mut self, version: u64, epoch: Epoch) -> bool {
        let fits = version == self.version;
        if fits {
            self.version += 1;
            self.history.push(epoch.clone());
            self.now = Some(epoch);
        }
        fits
    }
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Claim,
    Seal,
    Begin,
    Discard,
    Resolve,
}

/// One process: it reads, decides, writes; its write may be delayed, repeated, or its answer lost.
struct Process {
    me: Actor,
    wish: Wish,
    read: Option<(u64, Option<Epoch>)>,
    wrote: Option<Epoch>,
    rolling: Option<Epoch>,
    done: bool,
}

fn policy() -> Policy<'static> {
    Policy { on_existing: OnExisting::Overwrite, abandoned: &[], occupied: true }
}

impl Process {
    fn decide(&self, found: Option<&Epoch>) -> Decision {
        if let Some(subject) = &self.rolling {
            return finish(&self.me.nonce, found, subject);
        }
        let verdict = Verdict { attempt: self.me.attempt, outcome: Ended::Succeeded, exit_code: Some(0) };
        let plan = PlanRef { key: self.me.nonce.clone(), sha256: "s".into() };
        match self.wish {
            Wish::Claim => claim(&self.me, found, policy()),
            Wish::Seal => seal(&self.me, found, &plan),
            Wish::Begin => begin(&self.me, found, verdict),
            Wish::Discard => revoke(&self.me, found, false),
            Wish::Resolve => resolve(&self.me, found, policy()),
        }
    }

    fn step(&mut self, store: &mut Store, late: &mut Vec<(u64, Epoch)>, dice: &mut Dice) {
        let Some((version, found)) = self.read.take() else {
            self.read = Some((store.version, store.now.clone()));
            return;
        };
        if let (Some(wrote), Some(found)) = (&self.wrote, &found)
            && found.is_write(wrote)
        {
            self.done = self.rolling.is_none();
            self.wrote = None;
            return;
        }
        match self.decide(found.as_ref()) {
            Decision::Write(epoch) => {
                self.wrote = Some(epoch.clone());
                match dice.roll(4) {
                    // The request hangs in the network and may arrive at any later moment.
                    0 => late.push((version, epoch)),
                    // It arrives, the answer does not.
                    1 => {
                        store.put_if(version, epoch);
                    }
                    _ => {
                        if store.put_if(version, epoch) {
                            self.done = self.rolling.is_none();
                            self.wrote = None;
                        }
                    }
                }
            }
            Decision::RollForward(subject) => self.rolling = Some(subject),
            Decision::Wait(_) => {}
            _ if self.rolling.take().is_some() => {}
            _ => self.done = true,
        }
    }
}

fn actor(uid: &str, attempt: u32, who: usize) -> Actor {
    let job = JobRef { uid: uid.into(), namespace: "n".into(), name: uid.into(), ..JobRef::default() };
    Actor { job, index: 0, attempt, pod_uid: format!("{uid}-{attempt}"), nonce: format!("{who}") }
}

fn check(seed: u64, history: &[Epoch]) {
    let say = |what: &str| format!("seed {seed}: {what}: {history:#?}");
    for pair in history.windows(2) {
        let (a, b) = (&pair[0], &pair[1]);
        assert_eq!(b.seq, a.seq + 1, "{}", say("a write was skipped"));
        if a.state == State::Committing {
            assert!(a.same_attempt(b) && b.state == State::Committed, "{}", say("left committing"));
            assert_eq!((&a.plan, a.verdict), (&b.plan, b.verdict), "{}", say("another plan"));
        }
        if b.state == State::Committing {
            assert!(a.same_attempt(b) && a.state == State::Sealed && a.plan == b.plan, "{}", say("not sealed"));
        }
        if a.job.uid == b.job.uid {
            assert!(a.attempt <= b.attempt, "{}", say("a lower attempt came back"));
            assert!(a.state != State::Committed, "{}", say("changed its own committed results"));
            if a.same_attempt(b) && a.state == State::Revoked {
                panic!("{}", say("a revoked attempt came back"));
            }
        }
    }
    for uid in ["a", "b"] {
        let wins = history.iter().filter(|e| e.job.uid == uid && e.state == State::Committed).count();
        assert!(wins <= 1, "{}", say("two winners of one job"));
    }
}

#[test]
fn no_schedule_breaks_the_rules() {
    let (mut committed, mut revoked, mut overwritten) = (0, 0, 0);
    for seed in 1..=20_000u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut store = Store::default();
        let mut late = vec![];
        let mut people = vec![];
        for (uid, attempt) in [("a", 1), ("a", 2), ("a", 3), ("b", 1)] {
            for wish in [Wish::Claim, Wish::Seal, Wish::Begin, Wish::Begin, Wish::Discard, Wish::Resolve] {
                // Most attempts are never discarded or asked about.
                if matches!(wish, Wish::Discard | Wish::Resolve) && dice.roll(3) != 0 {
                    continue;
                }
                let me = actor(uid, attempt, people.len());
                people.push(Process { me, wish, read: None, wrote: None, rolling: None, done: false });
            }
        }
        for _ in 0..300 {
            let who = dice.roll(people.len() as u64 + 2) as usize;
            if let Some(p) = people.get_mut(who) {
                match dice.roll(60) {
                    0 => p.done = true, // kill -9
                    _ if !p.done => p.step(&mut store, &mut late, &mut dice),
                    _ => {}
                }
            } else if !late.is_empty() {
                let (version, epoch) = late.swap_remove(dice.roll(late.len() as u64) as usize);
                store.put_if(version, epoch);
            }
        }
        check(seed, &store.history);
        committed += usize::from(store.history.iter().any(|e| e.state == State::Committed));
        revoked += usize::from(store.history.iter().any(|e| e.state == State::Revoked));
        overwritten += usize::from(store.history.windows(2).any(|w| w[0].state == State::Committed));
    }
    // The schedules must reach what they are meant to try.
    assert!(committed > 2_000 && revoked > 2_000 && overwritten > 100, "{committed} {revoked} {overwritten}");
}
