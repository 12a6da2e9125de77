//! Checkpoints under kill -9: what is restored is always whole, and never older than what was said to be saved.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::Dice;
use super::oracle::processes;
use crate::attempt::{Attempt, noise, objects};
use crate::checkpoints::{files, folder, job};
use crate::gate::Gate;
use crate::weed::weed;
use gpujob_transfer::store::ObjectStore;

/// The large one last: half of the stories go without it.
const SIZES: [usize; 3] = [70_000, 3, 9 << 20];

fn content(seed: u64, version: u64, n: usize) -> Vec<u8> {
    noise(SIZES[n], seed * 1000 + version * 10 + n as u64)
}

/// One checkpoint is a folder of three files, there at once; the one before goes.
fn write(job: &Attempt, seed: u64, version: u64, files: usize) {
    let at = |name: String| folder(job).join(name);
    let partial = at(format!("v{version}.partial"));
    fs::create_dir_all(&partial).unwrap();
    for n in 0..files {
        fs::write(partial.join(n.to_string()), content(seed, version, n)).unwrap();
    }
    fs::rename(&partial, at(format!("v{version}"))).unwrap();
    let _ = fs::remove_dir_all(at(format!("v{}", version - 1)));
}

/// The newest version in a folder in which every version must be whole.
fn restored(job: &Attempt, seed: u64, count: usize) -> u64 {
    let found = files(&folder(job));
    let versions: std::collections::BTreeSet<u64> = found.keys().map(|k| k[1..k.find('/').unwrap()].parse().unwrap()).collect();
    assert_eq!(found.len(), versions.len() * count, "seed {seed}: {:?}", found.keys());
    for version in &versions {
        for n in 0..count {
            assert!(found[&format!("v{version}/{n}")] == content(seed, *version, n), "seed {seed}: v{version}/{n}");
        }
    }
    versions.last().copied().unwrap_or(0)
}

pub(crate) fn killed(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let uid = format!("saves-{seed}");
    // Without the large one most kills are between requests.
    let large = dice.roll(2) == 0;
    let count = if large { 3 } else { 2 };
    let (mut version, mut sure, mut kills) = (0, 0, 0);
    let mut attempts: Vec<Attempt> = vec![];
    for number in 1..=4 {
        let mut job = job(&uid, number, bucket, false);
        job.spec["checkpoints"]["keep"] = json!(1 + dice.roll(2));
        let fetched = job.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "seed {seed}: {}", fetched.log);
        let newest = restored(&job, seed, count);
        assert!(newest >= sure, "seed {seed}: version {newest} was restored, {sure} was saved: {}", fetched.log);
        sure = newest;
        let gate = Gate::new();
        job.env.insert("AWS_ENDPOINT_URL_S3", gate.endpoint());
        let sidecar = job.start(&["stage"]);
        sidecar.says("are saved every");
        let bytes: u64 = SIZES.iter().take(count).map(|s| *s as u64).sum();
        gate.kill_after(dice.roll(bytes * 2), processes(sidecar.child.id()));
        for save in 0..2u64 {
            version += 1;
            write(&job, seed, version, count);
            fs::write(job.folder.path().join("pod/checkpoint"), format!("{number}-{save}")).unwrap();
            let began = Instant::now();
            let said = |log: &str| log.matches("saved checkpoint").count() as u64 > save;
            while !gate.hit() && !said(&sidecar.log()) && began.elapsed() < Duration::from_secs(30) {
                thread::sleep(Duration::from_millis(5));
            }
            if said(&sidecar.log()) {
                sure = version;
            }
        }
        if gate.hit() {
            kills += 1;
        } else {
            sidecar.signal(Signal::TERM);
        }
        sidecar.end();
        attempts.push(job);
    }
    let prefix = format!("ck/.gpujob/checkpoints/{uid}-0/");
    let store = weed().store(bucket);
    for key in objects(bucket, &prefix).into_keys() {
        store.delete(&key).unwrap();
    }
    format!("{kills} of {} sidecars killed, version {sure} of {version} was sure", attempts.len())
}
