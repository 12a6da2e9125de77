//! Checkpoints by the real binary: saved whole, restored whole, and only ever by the attempt that runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use gpujob_transfer::checkpoint::head::Head;
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use rustix::process::Signal;
use serde_json::json;

use crate::attempt::{Attempt, Running, noise, objects};
use crate::weed::weed;

/// A job with checkpoints and no results, unless `results`.
pub(crate) fn job(uid: &str, number: u32, bucket: &str, results: bool) -> Attempt {
    let mut job = Attempt::new(uid, number, bucket);
    let path = job.folder.path().join("checkpoints");
    job.spec["checkpoints"] = json!({"path": path, "to": format!("s3://{bucket}/ck/"), "intervalSeconds": 3600, "keep": 2});
    if !results {
        job.spec["results"] = json!(null);
    }
    job
}

pub(crate) fn folder(job: &Attempt) -> PathBuf {
    job.folder.path().join("checkpoints")
}

/// As a program should: under another name first.
pub(crate) fn write(job: &Attempt, name: &str, bytes: &[u8]) {
    let path = folder(job).join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let partial = path.with_extension("partial");
    fs::write(&partial, bytes).unwrap();
    fs::rename(partial, path).unwrap();
}

/// Has the sidecar save now, and waits until its log says `text`.
pub(crate) fn ask(job: &Attempt, sidecar: &Running, when: &str, text: &str) {
    fs::write(job.folder.path().join("pod/checkpoint"), when).unwrap();
    sidecar.says(text);
}

/// Every file below a folder.
pub(crate) fn files(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut found, mut folders) = (BTreeMap::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if entry.file_type().unwrap().is_file() {
                let name = entry.path().strip_prefix(root).unwrap().display().to_string();
                found.insert(name, fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

fn root(uid: &str) -> String {
    format!("ck/.gpujob/checkpoints/{uid}-0/")
}

fn head(bucket: &str, uid: &str) -> Head {
    serde_json::from_slice(&objects(bucket, &root(uid))[&format!("{}head", root(uid))]).unwrap()
}

fn keys(bucket: &str, uid: &str, kind: &str) -> Vec<String> {
    objects(bucket, &format!("{}{kind}/", root(uid))).into_keys().collect()
}

#[test]
fn what_was_saved_is_restored_as_it_was() {
    let bucket = weed().bucket("ck-whole");
    let first = job("whole", 1, &bucket, false);
    let fetched = first.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(fetched.log.contains("main starts from the beginning"), "{}", fetched.log);
    let sidecar = first.start(&["stage"]);
    let large = noise(2 * PART as usize + 5, 9);
    write(&first, "deep/large.bin", &large);
    write(&first, "small ü", b"1");
    fs::write(folder(&first).join("half.partial"), "not yet").unwrap();
    fs::create_dir(folder(&first).join("empty")).unwrap();
    symlink("deep/large.bin", folder(&first).join("latest")).unwrap();
    symlink(OsStr::from_bytes(b"older\xff"), folder(&first).join("odd")).unwrap();
    let deep = vec!["d"; 100].join("/");
    write(&first, &format!("{deep}/state"), b"deep");
    let at = |job: &Attempt, name: &str| folder(job).join(name);
    fs::set_permissions(at(&first, "small ü"), fs::Permissions::from_mode(0o640)).unwrap();
    let time = SystemTime::UNIX_EPOCH + Duration::new(1_234_567_890, 123_000_000);
    fs::File::open(at(&first, "small ü")).unwrap().set_modified(time).unwrap();
    ask(&first, &sidecar, "t1", "saved checkpoint 1 of attempt 1 (3 files");
    // A second one sends only what is new, whatever the others are called by now.
    let before = keys(&bucket, "whole", "o");
    assert_eq!(before.len(), 5, "three pieces, and two small ones");
    fs::rename(at(&first, "deep/large.bin"), at(&first, "deep/older.bin")).unwrap();
    write(&first, "deep/new.bin", b"2");
    ask(&first, &sidecar, "t2", "saved checkpoint 2 of attempt 1 (4 files");
    let after = keys(&bucket, "whole", "o");
    assert!(after.len() == 6 && before.iter().all(|key| after.contains(key)), "{before:?} {after:?}");
    // And once more at the end.
    write(&first, "last", b"3");
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    assert!(ended.receipt().message.contains("checkpoint 3 of attempt 1 (5 files"), "{:?}", ended.receipt());

    let second = job("whole", 2, &bucket, false);
    let fetched = second.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(fetched.receipt().message.contains("restored checkpoint 3 of attempt 1"), "{:?}", fetched.receipt());
    let mut want = files(&folder(&first));
    want.remove("half.partial");
    assert!(files(&folder(&second)) == want, "{:?}", files(&folder(&second)).keys());
    assert!(at(&second, "empty").is_dir());
    assert_eq!(fs::read_link(at(&second, "latest")).unwrap(), Path::new("deep/large.bin"));
    assert_eq!(fs::read_link(at(&second, "odd")).unwrap().as_os_str().as_bytes(), b"older\xff");
    let about = fs::metadata(at(&second, "small ü")).unwrap();
    assert_eq!(about.modified().unwrap(), time);
    assert_eq!(about.mode() & 0o777, 0o666, "whatever main's user is, it can write over it");
    assert_eq!(fs::metadata(at(&second, "deep")).unwrap().mode() & 0o777, 0o777);
    // What was restored is in the store already: only what main adds is sent. And of old ones as many stay as were asked for.
    let sidecar = second.start(&["stage"]);
    write(&second, "more", b"4");
    ask(&second, &sidecar, "t3", "saved checkpoint 4 of attempt 2 (6 files");
    let own: Vec<_> = keys(&bucket, "whole", "o").into_iter().filter(|k| k.contains("/o/00000002-")).collect();
    assert_eq!(own.len(), 1);
    assert_eq!(head(&bucket, "whole").kept.iter().map(|k| (k.attempt, k.number)).collect::<Vec<_>>(), [(1, 3), (2, 4)]);
    assert_eq!(keys(&bucket, "whole", "m").len(), 2);
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.end().says(), (0, "Done"));
}

#[test]
fn a_damaged_one_is_passed_over_and_said() {
    let bucket = weed().bucket("ck-damaged");
    let first = job("damaged", 1, &bucket, false);
    assert_eq!(first.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = first.start(&["stage"]);
    for n in 1..=2 {
        write(&first, "model", &noise(1000, n));
        write(&first, &format!("epoch-{n}"), b"e");
        ask(&first, &sidecar, &n.to_string(), &format!("saved checkpoint {n} "));
    }
    sidecar.signal(Signal::TERM);
    sidecar.end();
    // Somebody wrote over one of the newest one's objects.
    let store = weed().store(&bucket);
    let all = objects(&bucket, &format!("{}o/", root("damaged")));
    let newest = all.iter().find(|(_, bytes)| **bytes == noise(1000, 2)).unwrap().0;
    store.put(newest, &noise(1000, 3)).unwrap();
    let second = job("damaged", 2, &bucket, false);
    let fetched = second.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(fetched.log.contains("checkpoint 2 of attempt 1 is damaged"), "{}", fetched.log);
    assert!(fetched.receipt().message.contains("restored checkpoint 1 of"), "{:?}", fetched.receipt());
    assert!(fetched.receipt().message.contains("damaged: checkpoint 2 of attempt 1"), "{:?}", fetched.receipt());
    let want = BTreeMap::from([("model".to_string(), noise(1000, 1)), ("epoch-1".to_string(), b"e".to_vec())]);
    assert!(files(&folder(&second)) == want, "nothing of the damaged one is left");
    assert_eq!(head(&bucket, "damaged").kept.len(), 1, "it does not push a whole one out");
    // An object that is gone.
    for key in keys(&bucket, "damaged", "o") {
        store.delete(&key).unwrap();
    }
    let third = job("damaged", 3, &bucket, false);
    let fetched = third.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(fetched.log.contains("is gone") && fetched.log.contains("from the beginning"), "{}", fetched.log);
    assert!(fetched.receipt().message.contains("damaged: checkpoint 1 of attempt 1"), "{:?}", fetched.receipt());
    assert!(files(&folder(&third)).is_empty());
}

#[test]
fn an_attempt_that_was_revoked_neither_saves_nor_collects() {
    let bucket = weed().bucket("ck-zombie");
    let zombie = job("zombie", 1, &bucket, false);
    assert_eq!(zombie.run(&["fetch"]).says(), (0, "Done"));
    let old = zombie.start(&["stage"]);
    write(&zombie, "model", b"old");
    ask(&zombie, &old, "1", "saved checkpoint 1 ");
    let winner = job("zombie", 2, &bucket, false);
    assert_eq!(winner.run(&["fetch"]).says(), (0, "Done"));
    assert_eq!(files(&folder(&winner))["model"], b"old");
    let new = winner.start(&["stage"]);
    write(&winner, "model", b"new");
    ask(&winner, &new, "1", "saved checkpoint 2 of attempt 2");
    let before = objects(&bucket, &root("zombie"));
    write(&zombie, "model", b"zombie");
    ask(&zombie, &old, "2", "revoked");
    assert!(objects(&bucket, &root("zombie")) == before, "it neither sends nor removes anything");
    write(&winner, "model", b"newer");
    ask(&winner, &new, "2", "saved checkpoint 3 of attempt 2");
    for sidecar in [old, new] {
        sidecar.signal(Signal::TERM);
        assert_eq!(sidecar.end().code, Some(0));
    }
    assert_eq!(zombie.run(&["fetch"]).says(), (2, "Revoked"));
    // Its sidecar, started again after all was removed, begins nothing anew.
    assert_eq!(winner.run(&["discard", "--release", "--forget"]).says(), (0, "Done"));
    let sidecar = zombie.start(&["stage"]);
    sidecar.says("revoked");
    sidecar.signal(Signal::TERM);
    sidecar.end();
    assert!(objects(&bucket, &root("zombie")).is_empty());
}

#[test]
fn they_go_with_the_commit_and_stay_with_a_failure() {
    for (outcome, left) in [("Succeeded", false), ("Failed", true)] {
        let bucket = weed().bucket("ck-commit");
        let job = job("commit", 1, &bucket, true);
        assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
        let sidecar = job.start(&["stage"]);
        sidecar.says("will be staged");
        write(&job, "model", b"1");
        job.write("answer", b"42");
        sidecar.signal(Signal::TERM);
        let staged = sidecar.end();
        assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
        assert!(staged.log.contains("saved checkpoint 1 "), "{}", staged.log);
        let done = job.run(&["commit", "--outcome", outcome, "--exit-code", "0"]);
        assert_eq!(done.says(), (0, "Committed"), "{}", done.log);
        assert_eq!(objects(&bucket, &root("commit")).is_empty(), !left, "{outcome}");
        if left {
            assert_eq!(job.run(&["discard", "--release"]).says(), (0, "Committed"));
            assert!(!objects(&bucket, &root("commit")).is_empty(), "somebody may look into them");
            assert_eq!(job.run(&["discard", "--release", "--forget"]).says(), (0, "Committed"));
            assert!(objects(&bucket, &root("commit")).is_empty());
        }
    }
}

#[test]
fn what_cannot_be_finished_before_the_node_goes_is_not_begun() {
    let bucket = weed().bucket("ck-budget");
    let job = job("budget", 1, &bucket, false);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    write(&job, "model", &noise(6 << 20, 1));
    ask(&job, &sidecar, "1", "saved checkpoint 1 ");
    // By now its rate is known. The node goes at once.
    fs::write(job.folder.path().join("pod/taken-at"), "2020-01-01T00:00:00Z").unwrap();
    write(&job, "model", &noise(6 << 20, 2));
    ask(&job, &sidecar, "2", "no checkpoint is saved: it needs");
    sidecar.says("the last complete one is checkpoint 1 of attempt 1");
    assert_eq!((keys(&bucket, "budget", "o").len(), keys(&bucket, "budget", "m").len()), (1, 1));
    // With time enough it is.
    fs::write(job.folder.path().join("pod/taken-at"), "2100-01-01T00:00:00Z").unwrap();
    ask(&job, &sidecar, "3", "saved checkpoint 2 ");
    sidecar.signal(Signal::TERM);
    sidecar.end();
}

#[test]
fn a_set_that_changes_while_it_is_read_is_taken_when_it_is_still() {
    let bucket = weed().bucket("ck-still");
    let mut job = job("still", 1, &bucket, false);
    job.spec["checkpoints"]["intervalSeconds"] = json!(1);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    // Written in place, piece by piece, for longer than the interval: every state between is no checkpoint.
    let path = folder(&job).join("in-place");
    let bytes = noise(40_000, 7);
    for n in 1..=12 {
        fs::write(&path, &bytes[..n * 3000]).unwrap();
        std::thread::sleep(Duration::from_millis(250));
    }
    fs::write(&path, &bytes).unwrap();
    sidecar.says("saved checkpoint 1 ");
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    assert_eq!(ended.log.matches("saved checkpoint").count(), 1, "{}", ended.log);
    let next = self::job("still", 2, &bucket, false);
    assert_eq!(next.run(&["fetch"]).says(), (0, "Done"));
    assert!(files(&folder(&next))["in-place"] == bytes);
}
