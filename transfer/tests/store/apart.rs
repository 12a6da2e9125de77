//! Checkpoints in stores that refuse conditional writes, or accept and ignore them: each attempt saves in a folder of its own.

use gpujob_transfer::plan::PART;
use rustix::process::Signal;
use serde_json::json;

use crate::attempt::{Attempt, noise};
use crate::checkpoints::{ask, files, folder, job, write};
use crate::double::{Conditions, Double, Manners};

fn attempt(number: u32, double: &Double) -> Attempt {
    let mut job = job("apart", number, "bucket", false);
    job.spec["checkpoints"]["keep"] = json!(1);
    job.env.insert("AWS_ENDPOINT_URL_S3", double.endpoint());
    job
}

#[test]
fn a_checkpoint_that_is_answered_as_absent_and_listed_is_not_given_up() {
    let double = Double::new(Manners { keeps: true, ..Manners::default() });
    let first = attempt(1, &double);
    fetched(&first, "fetched 0 files");
    let sidecar = first.start(&["stage"]);
    write(&first, "model", b"1");
    ask(&first, &sidecar, "1", "saved checkpoint 1 of attempt 1");
    sidecar.signal(Signal::TERM);
    sidecar.end();
    double.change(|manners| manners.misses = 1);
    let second = attempt(2, &double);
    let missed = second.run(&["fetch"]);
    assert_eq!(missed.says(), (1, "StoreUnavailable"), "{}", missed.log);
    fetched(&second, "restored checkpoint 1 of attempt 1");
}

fn fetched(job: &Attempt, says: &str) {
    let fetched = job.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert!(fetched.receipt().message.contains(says), "{:?}", fetched.receipt());
}

#[test]
fn the_next_attempt_restores_the_newest_and_a_zombie_saves_for_nobody() {
    for conditions in [Conditions::Refuses, Conditions::Ignores] {
        let double = Double::new(Manners { conditions, checks: &["content-md5"], ..Manners::default() });
        let first = attempt(1, &double);
        fetched(&first, "fetched 0 files");
        let old = first.start(&["stage"]);
        write(&first, "large", &noise(PART as usize + 1, 1));
        write(&first, "model", b"1");
        ask(&first, &old, "1", "saved checkpoint 1 of attempt 1");
        write(&first, "model", b"2");
        ask(&first, &old, "2", "saved checkpoint 2 of attempt 1");
        // The large one, in two pieces, was sent once.
        let bytes = |part: &str| double.keys().iter().filter(|key| key.contains(part)).count();
        assert_eq!((bytes("apart/00000001/o/"), bytes("apart/00000001/m/")), (3, 1));

        let second = attempt(2, &double);
        fetched(&second, "restored checkpoint 2 of attempt 1");
        assert_eq!(files(&folder(&second))["model"], b"2");
        write(&first, "model", b"zombie");
        ask(&first, &old, "3", "saved checkpoint 3 of attempt 1");
        let new = second.start(&["stage"]);
        write(&second, "model", b"3");
        ask(&second, &new, "1", "saved checkpoint 1 of attempt 2");
        // It names nothing in the other's folder, which it has removed.
        new.signal(Signal::TERM);
        assert_eq!(new.end().says(), (0, "Done"));
        assert_eq!((bytes("apart/00000002/o/"), bytes("apart/00000001/")), (3, 0));

        write(&first, "model", b"zombie again");
        ask(&first, &old, "4", "revoked");
        old.signal(Signal::TERM);
        old.end();
        let third = attempt(3, &double);
        fetched(&third, "restored checkpoint 1 of attempt 2");
        assert_eq!(files(&folder(&third))["model"], b"3");
        assert!(files(&folder(&third))["large"] == noise(PART as usize + 1, 1));
        assert_eq!(third.run(&["discard", "--release", "--forget"]).says(), (0, "Done"));
        assert!(double.keys().is_empty(), "{:?}", double.keys());
    }
}
