//! `run -- command`: one process does what fetch, the sidecar and commit do in a pod.

use std::time::{Duration, Instant};

use gpujob_transfer::store::ObjectStore;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::attempt::{Attempt, Ended, children, objects, visible};
use crate::weed::weed;

fn attempt(uid: &str, number: u32, bucket: &str) -> Attempt {
    let mut job = Attempt::new(uid, number, bucket);
    weed().store(bucket).put("in/data.txt", b"input").unwrap();
    job.spec["inputs"] = json!([{"from": format!("s3://{bucket}/in/"), "path": job.folder.path().join("data")}]);
    job.env.insert("DATA", job.folder.path().join("data").display().to_string());
    job.env.insert("RESULTS", job.results().display().to_string());
    job.env.insert("PATH", "/usr/bin:/bin".into());
    job
}

fn sh(job: &Attempt, script: &str) -> Ended {
    job.run(&["run", "--", "sh", "-c", script])
}

#[test]
fn a_command_that_succeeds_is_delivered_once() {
    let bucket = weed().bucket("wrapped");
    let job = attempt("wrapped", 1, &bucket);
    let ended = sh(&job, r#"tr a-z A-Z < "$DATA/data.txt" > "$RESULTS/out.txt""#);
    assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
    assert_eq!(visible(&bucket)["out/out.txt"], b"INPUT");
    assert_eq!(objects(&bucket, "out/.gpujob/staging/").len(), 0);
    // Another one finds the results there, and runs nothing.
    let again = attempt("wrapped", 2, &bucket);
    let ended = sh(&again, r#"echo again > "$RESULTS/out.txt""#);
    assert_eq!(ended.says(), (0, "AlreadyCommitted"), "{}", ended.log);
    assert_eq!(visible(&bucket)["out/out.txt"], b"INPUT");
}

#[test]
fn a_command_that_fails_keeps_its_code_and_delivers_nothing() {
    let bucket = weed().bucket("wrapped-fails");
    let fails = attempt("wrapped-fails", 1, &bucket);
    let ended = sh(&fails, r#"echo half > "$RESULTS/out.txt"; exit 7"#);
    assert_eq!(ended.says(), (7, "Discarded"), "{}", ended.log);
    assert!(visible(&bucket).is_empty());
    assert_eq!(objects(&bucket, "out/.gpujob/staging/").len(), 0, "{}", ended.log);
    let missing = attempt("wrapped-fails", 2, &bucket).run(&["run", "--", "no-such-command"]);
    assert_eq!(missing.says(), (127, "Discarded"), "{}", missing.log);
    // Its attempts are over; the next one may deliver.
    let ended = sh(&attempt("wrapped-fails", 3, &bucket), r#"echo whole > "$RESULTS/out.txt""#);
    assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
}

#[test]
fn signals_reach_the_command_and_its_end_decides() {
    let bucket = weed().bucket("wrapped-told");
    // One that ends well when it is told.
    let job = attempt("wrapped-told", 1, &bucket);
    let script = r#"trap 'echo told > "$RESULTS/out.txt"; exit 0' TERM; echo ready > "$RESULTS/ready"; while :; do sleep 0.05; done"#;
    let running = job.start(&["run", "--", "sh", "-c", script]);
    ready(&job);
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
    assert_eq!(visible(&bucket)["out/out.txt"], b"told\n");
    // One that dies of it.
    let bucket = weed().bucket("wrapped-dies");
    let job = attempt("wrapped-dies", 1, &bucket);
    let running = job.start(&["run", "--", "sh", "-c", r#"echo ready > "$RESULTS/ready"; exec sleep 1000"#]);
    ready(&job);
    running.signal(Signal::INT);
    let ended = running.end();
    assert_eq!(ended.says(), (130, "Discarded"), "{}", ended.log);
    assert!(visible(&bucket).is_empty());
}

#[test]
fn what_cannot_be_fetched_or_delivered_is_no_success() {
    let bucket = weed().bucket("wrapped-not");
    let mut job = attempt("wrapped-not", 1, &bucket);
    job.spec["inputs"][0]["from"] = json!(format!("s3://{bucket}/nothing/"));
    let ended = sh(&job, r#"echo ran > "$RESULTS/out.txt""#);
    assert_eq!(ended.says(), (2, "InputNotFound"), "{}", ended.log);
    assert!(!job.results().join("out.txt").exists());
    let job = attempt("wrapped-not", 2, &bucket);
    let ended = sh(&job, r#"mkdir "$RESULTS/.gpujob""#);
    assert_eq!(ended.says(), (2, "ReservedName"), "{}", ended.log);
    assert!(visible(&bucket).is_empty());
}

fn ready(job: &Attempt) {
    let began = Instant::now();
    while !job.results().join("ready").exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "the command does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_command_that_is_over_at_once_is_delivered_all_the_same() {
    let bucket = weed().bucket("wrapped-quick");
    for number in 0..10 {
        let mut job = attempt(&format!("quick-{number}"), 1, &bucket);
        job.spec["results"]["onExisting"] = json!("Overwrite");
        job.write("left.txt", number.to_string().as_bytes());
        let ended = job.run(&["run", "--", "true"]);
        assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
        assert_eq!(visible(&bucket)["out/left.txt"], number.to_string().as_bytes());
    }
}

/// A container that is restarted in the middle of the delivery: every process of it is gone, its folders are not.
#[test]
fn one_that_dies_in_the_delivery_delivers_when_it_is_started_again() {
    let bucket = weed().bucket("wrapped-again");
    for number in 0..8_u64 {
        let mut job = attempt(&format!("again-{number}"), 1, &bucket);
        job.spec["results"]["onExisting"] = json!("Overwrite");
        let runs = job.folder.path().join("runs");
        let script = format!(r#"echo run >> "{}"; echo {number} > "$RESULTS/out.txt""#, runs.display());
        let running = job.start(&["run", "--", "sh", "-c", &script]);
        running.says("the command has ended");
        // From before the stage was told to after the commit has begun.
        std::thread::sleep(Duration::from_millis(number * 15));
        for pid in children(running.child.id()) {
            let _ = kill_process(crate::attempt::pid(pid), Signal::KILL);
        }
        let _ = kill_process(crate::attempt::pid(running.child.id()), Signal::KILL);
        running.end();
        let ended = sh(&job, &script);
        assert!(matches!(ended.says(), (0, "Committed")), "{number}: {:?} {}", ended.says(), ended.log);
        assert_eq!(visible(&bucket)["out/out.txt"], format!("{number}\n").as_bytes());
        assert_eq!(std::fs::read_to_string(&runs).unwrap(), "run\n", "{number}: it ran again");
        assert_eq!(objects(&bucket, "out/.gpujob/staging/").len(), 0, "{}", ended.log);
    }
    let fails = attempt("again-fails", 1, &weed().bucket("wrapped-again-fails"));
    std::fs::write(fails.folder.path().join("state/command-1-pod-again-fails-1.ended"), "7").unwrap();
    assert_eq!(sh(&fails, "exit 0").says(), (7, "Discarded"));
}
