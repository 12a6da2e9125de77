//! The stories. Each ends with committed results, seen by the oracle on the way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::Dice;
use super::oracle::{Place, processes};
use super::saves;
use crate::attempt::{Attempt, Ended};
use crate::gate::Gate;

/// A bucket and a seed go in, a line for people comes out.
pub(crate) type Story = fn(&str, u64) -> String;

pub(crate) const STORIES: [(&str, Story); 8] = [
    ("the worker is killed while it stages", worker_killed),
    ("the sidecar is killed, and the next attempt takes over", sidecar_killed),
    ("a commit is killed", commit_killed),
    ("a fetch is killed", fetch_killed),
    ("attempts race", race),
    ("a node is cut off, and returns", partition),
    ("sidecars are killed while they save checkpoints", saves::killed),
    ("an attempt is cut off while it saves a checkpoint, and returns", saves::zombie),
];

const COMMIT: [&str; 7] = ["commit", "--outcome", "Succeeded", "--exit-code", "0", "--wait", "5"];

fn behind(job: &mut Attempt) -> Gate {
    let gate = Gate::new();
    job.env.insert("AWS_ENDPOINT_URL_S3", gate.endpoint());
    gate
}

fn claimed(place: &Place, job: &Attempt) {
    let fetched = job.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "seed {}: {}", place.seed, fetched.log);
}

fn worker_killed(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let mut job = place.attempt(1);
    claimed(&place, &job);
    let gate = behind(&mut job);
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    let mut victim = processes(sidecar.child.id())[1];
    gate.kill_after(dice.roll(place.bytes()), vec![victim]);
    sidecar.signal(Signal::TERM);
    let mut kills = 0;
    let began = Instant::now();
    // Up to three workers, each at another byte.
    while kills < 3 && began.elapsed() < Duration::from_secs(20) {
        let now = processes(sidecar.child.id());
        if now.len() < 2 && gate.hit() && std::fs::read(format!("/proc/{}/stat", sidecar.child.id())).is_ok_and(|s| s.contains(&b'Z')) {
            break;
        }
        if !gate.hit() {
            if now.len() < 2 {
                break;
            }
        } else if let Some(worker) = now.get(1).filter(|worker| **worker != victim) {
            kills += 1;
            victim = *worker;
            gate.kill_after(dice.roll(place.bytes() * 3 / 2), vec![victim]);
        }
        thread::sleep(Duration::from_millis(5));
    }
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Sealed"), "seed {seed}: {}", ended.log);
    place.settled("sealed after kills");
    let done = job.commit();
    assert_eq!(done.says(), (0, "Committed"), "seed {seed}: {}", done.log);
    let winner = place.drive(2);
    assert_eq!(winner, 1, "seed {seed}");
    place.clear();
    format!("{} workers killed", ended.log.matches("starting it again").count())
}

fn sidecar_killed(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let mut job = place.attempt(1);
    claimed(&place, &job);
    let gate = behind(&mut job);
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    gate.kill_after(dice.roll(place.bytes() * 11 / 10), processes(sidecar.child.id()));
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    place.settled("the sidecar is dead");
    // The commit that waited for the seal, and comes to what it finds.
    let done = if dice.roll(2) == 0 { Some(job.run(&["commit", "--outcome", "Succeeded", "--wait", "0"])) } else { None };
    if let Some(done) = &done {
        assert!(matches!(done.says(), (0, "Committed") | (1, "NotSealed")), "seed {seed}: {}", done.log);
    }
    let winner = place.drive(2);
    assert_eq!(winner == 1, done.is_some_and(|done| done.code == Some(0)), "seed {seed}");
    let late = job.commit();
    assert!(matches!(late.says(), (0, "Committed") | (2, "Revoked")), "seed {seed}: {}", late.log);
    place.settled("after a late commit");
    place.clear();
    format!("sidecar ended with {:?}, attempt {winner} won", ended.code)
}

fn commit_killed(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let mut job = place.attempt(1);
    job.seal();
    let gate = behind(&mut job);
    let commit = job.start(&COMMIT);
    gate.kill_after(dice.roll(24_000), vec![commit.child.id()]);
    let ended = commit.end();
    place.settled("the commit is dead");
    let by = match dice.roll(3) {
        0 => "the next attempt",
        1 => {
            let resolved = place.attempt(2).run(&["resolve"]);
            assert!(matches!(resolved.code, Some(0 | 93)), "seed {seed}: {}", resolved.log);
            "a resolve"
        }
        _ => {
            let again = job.commit();
            assert_eq!(again.says(), (0, "Committed"), "seed {seed}: {}", again.log);
            "another commit"
        }
    };
    let winner = place.drive(2);
    place.clear();
    format!("killed: {}, met by {by}, attempt {winner} won", ended.code.is_none())
}

fn fetch_killed(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let mut job = place.attempt(1);
    let gate = behind(&mut job);
    let fetch = job.start(&["fetch"]);
    gate.kill_after(dice.roll(4_000), vec![fetch.child.id()]);
    let ended = fetch.end();
    place.settled("the fetch is dead");
    // Its container is started again, or its pod was lost.
    let winner = place.drive(1 + u32::try_from(dice.roll(2)).unwrap());
    place.clear();
    format!("killed: {}, attempt {winner} won", ended.code.is_none())
}

/// Ends the watch however its story ends: a watcher that goes on would keep a failure from being told.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A whole attempt, as far as it comes.
fn whole(job: &Attempt) -> Option<Ended> {
    let fetched = job.run(&["fetch"]);
    if fetched.code != Some(0) {
        return Some(fetched);
    }
    let staged = job.stage();
    if staged.code != Some(0) {
        return Some(staged);
    }
    Some(job.run(&COMMIT))
}

fn race(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let jobs: Vec<_> = (1..=3).map(|n| (n, place.attempt(n), dice.roll(600))).collect();
    let done = AtomicBool::new(false);
    let ends = thread::scope(|scope| {
        let _over = Over(&done);
        scope.spawn(|| place.watch(&done));
        let runs: Vec<_> = (jobs.iter())
            .map(|(n, job, late)| {
                scope.spawn(move || {
                    thread::sleep(Duration::from_millis(*late));
                    (*n, whole(job))
                })
            })
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect::<Vec<_>>()
    });
    place.settled("after the race");
    let won: Vec<u32> =
        (ends.iter()).filter_map(|(n, end)| end.as_ref().filter(|end| end.says() == (0, "Committed")).map(|_| *n)).collect();
    assert!(won.len() <= 1, "seed {seed}: {won:?} all say that theirs is committed");
    for (n, end) in &ends {
        let end = end.as_ref().expect("an end");
        let known = matches!(end.says(), (0, "Committed") | (2, "Revoked") | (93, "AlreadyCommitted"));
        assert!(known, "seed {seed}: attempt {n}: {}", end.log);
    }
    let winner = place.drive(4);
    assert!(won.iter().all(|w| *w == winner), "seed {seed}: {won:?} said so, {winner} is there");
    place.clear();
    format!("attempt {winner} won")
}

fn partition(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let place = Place::new(bucket, seed, &mut dice);
    let mut old = place.attempt(1);
    let commits = dice.roll(2) == 0;
    if commits {
        old.seal();
    } else {
        claimed(&place, &old);
    }
    let gate = behind(&mut old);
    let running = if commits {
        gate.freeze_after(dice.roll(24_000));
        old.start(&COMMIT)
    } else {
        let sidecar = old.start(&["stage"]);
        sidecar.says("will be staged");
        gate.freeze_after(dice.roll(place.bytes()));
        sidecar.signal(Signal::TERM);
        sidecar
    };
    let began = Instant::now();
    while !gate.hit() && began.elapsed() < Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(2));
    }
    let (back, done) = (dice.roll(1500), AtomicBool::new(false));
    let winner = thread::scope(|scope| {
        // It returns at any moment of the next attempt, with all that was under way.
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(back));
            gate.freeze(false);
        });
        let over = Over(&done);
        scope.spawn(|| place.watch(&done));
        let next = place.attempt(2);
        let end = whole(&next).expect("an end");
        let known = matches!(end.says(), (0, "Committed") | (93, "AlreadyCommitted"));
        assert!(known, "seed {seed}: {}", end.log);
        let ended = running.end();
        drop(over);
        let known = matches!(ended.says(), (0, "Committed" | "Sealed") | (2, "Revoked"));
        assert!(known, "seed {seed}: the old one: {}", ended.log);
        place.settled("the old node is back");
        let late = old.commit();
        assert!(matches!(late.says(), (0, "Committed") | (2, "Revoked")), "seed {seed}: {}", late.log);
        place.drive(3)
    });
    place.clear();
    format!("cut off while it {}: {}, attempt {winner} won", if commits { "committed" } else { "staged" }, gate.hit())
}
