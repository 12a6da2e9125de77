//! Files of any owner: delivered and saved whoever wrote them, and main can write over what was put back for it, whoever main is.
//!
//! Only root can make files of two users: run by anybody else these tests say so and are empty.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;

use rustix::process::{Signal, geteuid};

use crate::attempt::{Attempt, visible};
use crate::checkpoints::{ask, folder, job, write};
use crate::weed::weed;

/// Root as the pod has it: with the capabilities to read what main wrote and to give it back, and no other.
const SIDECAR: [&str; 5] = ["setpriv", "--bounding-set=-all,+dac_override,+chown,+fowner", "--inh-caps=-all", "--ambient-caps=-all", "--"];
/// `runAsUser: 1000`.
const USER: [&str; 5] = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups", "--"];

fn root() -> bool {
    let root = geteuid().is_root();
    if !root {
        println!("not run by root: files of two users cannot be made");
    }
    root
}

/// Its folders can be entered by any user, as a pod's volumes.
fn open(job: Attempt, by: &[&'static str]) -> Attempt {
    for name in ["", "results", "state", "pod"] {
        fs::set_permissions(job.folder.path().join(name), fs::Permissions::from_mode(0o777)).unwrap();
    }
    Attempt { by: by.to_vec(), ..job }
}

fn owned(path: &Path, uid: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    chown(path, Some(uid), Some(uid)).unwrap();
}

/// Whether main could write over a file, as that user.
fn writes_over(path: &Path, uid: u32) -> bool {
    let (uid, gid) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    let line = ["--clear-groups", "--", "sh", "-c", "echo more >> \"$0\""];
    Command::new("setpriv").args([&uid, &gid]).args(line).arg(path).status().unwrap().success()
}

#[test]
fn results_of_root_and_of_a_user_at_0600_are_delivered() {
    if !root() {
        return;
    }
    for by in [&SIDECAR[..], &[]] {
        let bucket = weed().bucket("owners");
        let job = open(Attempt::new("owners", 1, &bucket), by);
        for (name, uid) in [("by-root", 0), ("by-user", 1000), ("folder/by-user", 1000)] {
            job.write(name, name.as_bytes());
            owned(&job.results().join(name), uid);
        }
        chown(job.results().join("folder"), Some(1000), Some(1000)).unwrap();
        fs::set_permissions(job.results().join("folder"), fs::Permissions::from_mode(0o700)).unwrap();
        job.seal();
        assert_eq!(job.commit().says(), (0, "Committed"));
        let names: Vec<_> = visible(&bucket).into_keys().collect();
        assert_eq!(names, ["out/by-root", "out/by-user", "out/folder/by-user"]);
    }
}

#[test]
fn checkpoints_of_root_and_of_a_user_are_restored_for_any_user() {
    if !root() {
        return;
    }
    let bucket = weed().bucket("owners-checkpoints");
    let first = open(job("owners", 1, &bucket, false), &SIDECAR);
    assert_eq!(first.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = first.start(&["stage"]);
    for (name, uid) in [("by-root", 0), ("by-user", 1000), ("folder/by-user", 1000)] {
        write(&first, name, name.as_bytes());
        owned(&folder(&first).join(name), uid);
    }
    owned(&folder(&first).join("folder"), 1000);
    fs::set_permissions(folder(&first).join("folder"), fs::Permissions::from_mode(0o700)).unwrap();
    ask(&first, &sidecar, "1", "saved checkpoint 1 of attempt 1 (3 files");
    sidecar.signal(Signal::TERM);
    sidecar.end();
    // As root with few capabilities owners are as they were; as a user all is that user's. Both can be written over by anybody.
    for (number, by, owner) in [(2, SIDECAR, 0), (3, USER, 1000)] {
        let next = open(job("owners", number, &bucket, false), &by);
        let fetched = next.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
        let at = |name: &str| folder(&next).join(name);
        assert_eq!(fs::metadata(at("by-root")).unwrap().uid(), owner, "{by:?}");
        assert_eq!(fs::metadata(at("by-user")).unwrap().uid(), 1000, "{by:?}");
        for name in ["by-root", "by-user", "folder/by-user"] {
            assert_eq!(fs::read(at(name)).unwrap(), name.as_bytes());
            assert!(writes_over(&at(name), 1000) && writes_over(&at(name), 2000), "{by:?} {name}");
        }
        assert!(writes_over(&at("folder/new"), 2000) && writes_over(&at("new"), 2000), "{by:?}");
    }
}
