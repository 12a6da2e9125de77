//! What must hold at a destination, whoever did what: untouched, or exactly the winner's files.

use std::collections::BTreeMap;
use std::time::Duration;

use gpujob_transfer::epoch::{Epoch, State};
use gpujob_transfer::manifest::Manifest;
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::{ObjectStore, read};
use serde_json::json;

use super::Dice;
use crate::attempt::{Attempt, children, noise, objects};
use crate::weed::weed;

/// One story's destination and what its attempts leave there.
pub(crate) struct Place {
    pub(crate) bucket: String,
    pub(crate) seed: u64,
    /// A file of several parts is among the results.
    large: bool,
}

impl Place {
    pub(crate) fn new(bucket: &str, seed: u64, dice: &mut Dice) -> Place {
        Place { bucket: bucket.into(), seed, large: dice.roll(2) == 0 }
    }

    fn prefix(&self) -> String {
        format!("{}/", self.seed)
    }

    /// An attempt with its program's results. Every attempt writes other bytes under the same names, and one name of its own.
    pub(crate) fn attempt(&self, number: u32) -> Attempt {
        let mut job = Attempt::new(&format!("soak-{}", self.seed), number, &self.bucket);
        job.spec["results"]["to"] = json!(format!("s3://{}/{}", self.bucket, self.prefix()));
        for (name, bytes) in self.want(number) {
            job.write(&name, &bytes);
        }
        job
    }

    /// What that attempt delivers.
    pub(crate) fn want(&self, number: u32) -> BTreeMap<String, Vec<u8>> {
        let seed = self.seed * 100 + u64::from(number);
        let mut want: BTreeMap<String, Vec<u8>> =
            (0..4).map(|n| (format!("folder/{n}"), noise(20_000 * (n + 1), seed + n as u64 * 7))).collect();
        want.insert(format!("only-{number}"), b"1".to_vec());
        want.insert("empty".into(), vec![]);
        if self.large {
            want.insert("large".into(), noise(PART as usize + 300_000, seed));
        }
        want
    }

    /// Bytes that staging an attempt's results moves, about.
    pub(crate) fn bytes(&self) -> u64 {
        self.want(1).values().map(|bytes| bytes.len() as u64).sum::<u64>() + 8_000
    }

    pub(crate) fn epoch(&self) -> Option<Epoch> {
        let found = read(&weed().store(&self.bucket), &format!("{}.gpujob/epoch", self.prefix()), 10_000).unwrap();
        found.map(|(bytes, _)| serde_json::from_slice(&bytes).unwrap())
    }

    fn visible(&self) -> BTreeMap<String, Vec<u8>> {
        let prefix = self.prefix();
        // What lies under .gpujob/ is not read: staging may go meanwhile.
        let all = (objects(&self.bucket, &format!("{prefix}folder/")).into_iter())
            .chain(["only-", "empty", "large"].iter().flat_map(|name| objects(&self.bucket, &format!("{prefix}{name}"))));
        all.map(|(key, bytes)| (key[prefix.len()..].to_string(), bytes)).collect()
    }

    /// Looks once. False: the epoch moved meanwhile, and nothing can be said.
    pub(crate) fn holds(&self, what: &str) -> bool {
        let before = self.epoch();
        let visible = self.visible();
        let Some(epoch) = self.epoch().filter(|now| Some(now) == before.as_ref()) else {
            assert!(before.is_some() || visible.is_empty() || self.epoch().is_some(), "seed {}: {what}: no claim, but files", self.seed);
            return before == self.epoch();
        };
        let names = || visible.keys().collect::<Vec<_>>();
        let want = self.want(epoch.attempt);
        match epoch.state {
            State::Committed => {
                assert!(visible == want, "seed {}: {what}: committed, but {:?}", self.seed, names());
                let key = format!("{}.gpujob/manifest.json", self.prefix());
                let text = read(&weed().store(&self.bucket), &key, 1 << 20).unwrap().expect("a manifest").0;
                let manifest: Manifest = serde_json::from_slice(&text).unwrap();
                let listed: Vec<_> = manifest.files.iter().map(|f| (f.path.as_str(), f.size)).collect();
                let there: Vec<_> = want.iter().map(|(name, bytes)| (name.as_str(), bytes.len() as u64)).collect();
                assert_eq!((manifest.attempt, listed), (epoch.attempt, there), "seed {}: {what}", self.seed);
            }
            State::Committing => {
                let theirs = visible.iter().all(|(name, bytes)| want.get(name) == Some(bytes));
                assert!(theirs, "seed {}: {what}: attempt {} is committing, but {:?}", self.seed, epoch.attempt, names());
            }
            state => assert!(visible.is_empty(), "seed {}: {what}: {state:?}, but {:?}", self.seed, names()),
        }
        true
    }

    /// Nobody is at work any more: the oracle must have something to say, once what the dead had sent has arrived.
    pub(crate) fn settled(&self, what: &str) {
        for _ in 0..100 {
            if self.holds(what) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("seed {}: {what}: the epoch moves though nobody is at work", self.seed);
    }

    /// Looks again and again until `done`.
    pub(crate) fn watch(&self, done: &std::sync::atomic::AtomicBool) {
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            self.holds("meanwhile");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Runs attempts from `number` on until results are committed, as the operator would. Returns whose.
    pub(crate) fn drive(&self, mut number: u32) -> u32 {
        loop {
            self.settled("before another attempt");
            let job = self.attempt(number);
            let fetched = job.run(&["fetch"]);
            match fetched.says() {
                (0, _) => {
                    let staged = job.stage();
                    assert_eq!(staged.says(), (0, "Sealed"), "seed {}: {}", self.seed, staged.log);
                    self.settled("sealed");
                    let done = job.commit();
                    assert_eq!(done.says(), (0, "Committed"), "seed {}: {}", self.seed, done.log);
                }
                (93, "AlreadyCommitted") => {}
                // A higher attempt has it: the operator would know.
                (2, "Revoked") => {
                    number += 1;
                    continue;
                }
                other => panic!("seed {}: {other:?} {}", self.seed, fetched.log),
            }
            self.settled("at the end");
            let epoch = self.epoch().unwrap();
            assert_eq!(epoch.state, State::Committed, "seed {}", self.seed);
            return epoch.attempt;
        }
    }

    /// Makes room for the next story.
    pub(crate) fn clear(&self) {
        let store = weed().store(&self.bucket);
        for key in objects(&self.bucket, &self.prefix()).into_keys() {
            store.delete(&key).unwrap();
        }
    }
}

/// The processes of a sidecar: the supervisor, and its worker once there is one.
pub(crate) fn processes(supervisor: u32) -> Vec<u32> {
    [vec![supervisor], children(supervisor)].concat()
}
