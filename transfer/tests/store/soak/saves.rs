//! Checkpoints under kill -9: what is restored is always whole, and never older than what was said to be saved.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::Dice;
use super::oracle::processes;
use crate::attempt::{Attempt, noise, objects};
use crate::checkpoints::{ask, files, folder, job};
use crate::gate::Gate;
use crate::weed::weed;
use gpujob_transfer::checkpoint::head::Head;
use gpujob_transfer::checkpoint::set::Set;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use gpujob_transfer::store::{ObjectStore, read};

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

/// Every checkpoint that the head names is whole.
fn whole(bucket: &str, uid: &str, what: &str) {
    let prefix = format!("ck/.gpujob/checkpoints/{uid}-0/");
    let store = weed().store(bucket);
    let get = |below: &str| read(&store, &format!("{prefix}{below}"), 64 << 20).unwrap().map(|found| found.0);
    for _ in 0..50 {
        let Some(text) = get("head") else { return };
        let head: Head = serde_json::from_slice(&text).unwrap();
        let broken = head.kept.iter().find_map(|kept| {
            let Some(text) = get(&kept.manifest) else { return Some(kept.manifest.clone()) };
            let set = Set::decode(&text, &kept.sha256).unwrap();
            let lost = set.files().find(|file| get(&file.object).is_none_or(|bytes| crc64nvme_text(crc64nvme(&bytes)) != file.crc64nvme));
            lost.map(|file| file.object.clone())
        });
        match broken {
            None => return,
            // It was collected while it was looked at, by who may: then the head says so.
            Some(what_is) => assert!(get("head") != Some(text), "{uid}: {what}: {what_is} is not whole, and the head names it"),
        }
    }
}

/// An attempt is cut off in the middle of a save, the next one restores and saves, and the first one returns with all that was under way.
pub(crate) fn zombie(bucket: &str, seed: u64) -> String {
    let mut dice = Dice::new(seed);
    let uid = format!("zombie-{seed}");
    let count = if dice.roll(4) == 0 { 3 } else { 2 };
    let mut old = job(&uid, 1, bucket, false);
    old.spec["checkpoints"]["keep"] = json!(1);
    assert_eq!(old.run(&["fetch"]).says(), (0, "Done"));
    let gate = Gate::new();
    old.env.insert("AWS_ENDPOINT_URL_S3", gate.endpoint());
    let first = old.start(&["stage"]);
    write(&old, seed, 1, count);
    ask(&old, &first, "1", "saved checkpoint 1 ");
    let bytes: u64 = SIZES.iter().take(count).map(|s| *s as u64).sum();
    gate.freeze_after(dice.roll(bytes * 11 / 10 + 6_000));
    write(&old, seed, 2, count);
    fs::write(old.folder.path().join("pod/checkpoint"), "2").unwrap();
    let began = Instant::now();
    while !gate.hit() && began.elapsed() < Duration::from_secs(3) {
        thread::sleep(Duration::from_millis(2));
    }
    let (back, watching) = (dice.roll(4000), AtomicBool::new(true));
    let (from, mut next) = (AtomicU64::new(0), job(&uid, 2, bucket, false));
    next.spec["checkpoints"]["keep"] = json!(1);
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(back));
            gate.freeze(false);
        });
        scope.spawn(|| {
            while watching.load(Ordering::SeqCst) {
                whole(bucket, &uid, "meanwhile");
                thread::sleep(Duration::from_millis(10));
            }
        });
        let fetched = next.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "seed {seed}: {}", fetched.log);
        from.store(restored(&next, seed, count), Ordering::SeqCst);
        let second = next.start(&["stage"]);
        for version in 10..12 {
            // What was restored stays beside what is new: its objects are named again.
            write(&next, seed, version, count);
            ask(&next, &second, &version.to_string(), "saved checkpoint");
            let began = Instant::now();
            while second.log().matches("saved checkpoint").count() as u64 <= version - 10 {
                assert!(began.elapsed() < Duration::from_secs(30), "seed {seed}: {}", second.log());
                thread::sleep(Duration::from_millis(5));
            }
        }
        thread::sleep(Duration::from_millis(back.saturating_sub(2000)));
        for sidecar in [first, second] {
            sidecar.signal(Signal::TERM);
            assert_eq!(sidecar.end().code, Some(0), "seed {seed}");
        }
        watching.store(false, Ordering::SeqCst);
    });
    whole(bucket, &uid, "at the end");
    let last = job(&uid, 3, bucket, false);
    assert_eq!(last.run(&["fetch"]).says(), (0, "Done"));
    assert_eq!(restored(&last, seed, count), 11, "seed {seed}: the next attempt's last one");
    let from = from.into_inner();
    assert!(matches!(from, 1 | 2), "seed {seed}: {from}");
    clear(bucket, &uid);
    format!("cut off: {}, version {from} was restored beside it", gate.hit())
}

fn clear(bucket: &str, uid: &str) {
    let store = weed().store(bucket);
    for key in objects(bucket, &format!("ck/.gpujob/checkpoints/{uid}-0/")).into_keys() {
        store.delete(&key).unwrap();
    }
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
    clear(bucket, &uid);
    format!("{kills} of {} sidecars killed, version {sure} of {version} was sure", attempts.len())
}
