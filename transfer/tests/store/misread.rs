//! A checkpoint whose manifest comes damaged once is no damaged checkpoint: it is read again, and nothing of it is removed.

use std::fs;

use gpujob_transfer::store::ObjectStore;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;

use crate::attempt::{Attempt, noise, objects};
use crate::checkpoints::{ask, files, folder, job, write};
use crate::faulty::{Fault, Faulty};
use crate::weed::weed;

/// An attempt that has saved one checkpoint, of so many files that its manifest is data to the proxy.
fn saved(uid: &str, bucket: &str) -> Attempt {
    let first = job(uid, 1, bucket, false);
    assert_eq!(first.run(&["fetch"]).says(), (0, "Done"));
    for n in 0..150 {
        write(&first, &format!("part-{n:03}"), &noise(10, n));
    }
    let sidecar = first.start(&["stage"]);
    ask(&first, &sidecar, "1", "saved checkpoint 1 ");
    sidecar.signal(Signal::TERM);
    sidecar.end();
    first
}

#[test]
fn it_is_restored_when_its_manifest_is_misread_once_or_twice() {
    for times in [1, 2] {
        let bucket = weed().bucket("misread");
        let first = saved("misread", &bucket);
        let proxy = Faulty::new(Fault::FlipDown(times));
        let mut second = job("misread", 2, &bucket, false);
        second.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
        let fetched = second.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
        assert_eq!(proxy.struck(), times, "the manifest is what is damaged");
        assert!(files(&folder(&second)) == files(&folder(&first)), "{}", fetched.log);
    }
}

#[test]
fn one_that_cannot_be_read_now_stays_for_who_can() {
    let bucket = weed().bucket("unread");
    let first = saved("unread", &bucket);
    let want = files(&folder(&first));
    let proxy = Faulty::new(Fault::FlipDown(u32::MAX));
    let mut second = job("unread", 2, &bucket, false);
    second.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
    let fetched = second.run(&["fetch"]);
    // Bytes that come differently wrong each time say nothing of the checkpoint: the attempt is not begun without it.
    assert_eq!(fetched.says(), (1, "ChecksumMismatch"), "{}", fetched.log);
    proxy.now(Fault::None);
    let fetched = second.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(files(&folder(&second)) == want, "{}", fetched.log);
}

#[test]
fn what_cannot_be_saved_is_told_by_the_receipt() {
    let bucket = weed().bucket("unsaved");
    let job = job("unsaved", 1, &bucket, false);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    write(&job, "model", b"1");
    ask(&job, &sidecar, "1", "saved checkpoint 1 ");
    // Deeper than any path that the system takes.
    let mut at = rustix::fs::open(folder(&job), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..25 {
        rustix::fs::mkdirat(&at, "d".repeat(200), Mode::from_raw_mode(0o755)).unwrap();
        at = rustix::fs::openat(&at, "d".repeat(200), OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    let receipt = ended.receipt();
    assert!(receipt.message.contains("its last checkpoint is checkpoint 1 of attempt 1"), "{receipt:?}");
    assert!(receipt.warnings.iter().any(|warning| warning.contains("checkpoints could not be saved")), "{receipt:?}");
}

#[test]
fn a_sidecar_that_cannot_read_it_removes_nothing_of_it() {
    let bucket = weed().bucket("unknown");
    let first = saved("unknown", &bucket);
    let before = objects(&bucket, "ck/");
    // Of the same pod, with another manifest than the head says: what its objects are cannot be known.
    let manifest = before.keys().find(|key| key.contains("/m/")).unwrap();
    weed().store(&bucket).put(manifest, b"{}").unwrap();
    let sidecar = first.start(&["stage"]);
    sidecar.says("checkpoint 1 of attempt 1 cannot be read");
    for entry in fs::read_dir(folder(&first)).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    write(&first, "new", b"new");
    ask(&first, &sidecar, "2", "saved checkpoint 2 ");
    sidecar.signal(Signal::TERM);
    sidecar.end();
    let after = objects(&bucket, "ck/");
    assert!(before.keys().all(|key| after.contains_key(key)), "the head still names it");
}
