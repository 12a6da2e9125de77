//! `keepOnFailure`: results wait on their node for what people can mend.

use std::io::Write;

use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use rustix::process::Signal;
use serde_json::json;

use crate::attempt::{Attempt, noise, visible};
use crate::gate::Gate;
use crate::weed::weed;

fn denied(seconds: u64, bucket: &str) -> (Attempt, Gate) {
    let mut job = Attempt::new("kept", 1, bucket);
    job.spec["results"]["keepOnFailureSeconds"] = json!(seconds);
    job.write("small", b"1");
    job.write("large", &noise(PART as usize + 7, 1));
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let gate = Gate::new();
    job.env.insert("AWS_ENDPOINT_URL_S3", gate.endpoint());
    (job, gate)
}

#[test]
fn what_is_denied_is_tried_again_until_it_is_allowed() {
    let bucket = weed().bucket("kept");
    let (job, gate) = denied(600, &bucket);
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    gate.refuse(true);
    sidecar.signal(Signal::TERM);
    sidecar.says("nothing is lost yet: AccessDenied");
    gate.refuse(false);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Sealed"), "{}", ended.log);
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert!(visible(&bucket)["out/large"] == noise(PART as usize + 7, 1));
}

#[test]
fn it_waits_no_longer_than_it_may_and_says_why() {
    let bucket = weed().bucket("kept-no-longer");
    let (job, gate) = denied(1, &bucket);
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    gate.refuse(true);
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (2, "AccessDenied"), "{}", ended.log);
    assert!(ended.log.contains("not mended in 1 s"), "{}", ended.log);
}

#[test]
fn a_bucket_that_is_made_meanwhile_is_used() {
    let bucket = weed().bucket("kept-gone");
    let (job, gate) = denied(600, &bucket);
    let store = weed().store(&bucket);
    let epoch = gpujob_transfer::store::read(&store, "out/.gpujob/epoch", 10_000).unwrap().unwrap().0;
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    // DELETE of the empty key is DeleteBucket, which takes an empty one only.
    store.delete("out/.gpujob/epoch").unwrap();
    store.delete("").unwrap();
    sidecar.signal(Signal::TERM);
    sidecar.says("nothing is lost yet: BucketNotFound");
    // A bucket without the epoch is one whose owner took the claim away: nobody may look in between.
    gate.freeze(true);
    store.put("", b"").unwrap();
    store.put("out/.gpujob/epoch", &epoch).unwrap();
    gate.freeze(false);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Sealed"), "{}", ended.log);
}

#[test]
fn a_store_without_an_address_is_waited_for() {
    let bucket = weed().bucket("kept-unknown");
    let (mut job, _gate) = denied(1, &bucket);
    job.env.insert("AWS_ENDPOINT_URL_S3", "http://store.invalid".into());
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    sidecar.signal(Signal::TERM);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (2, "StoreUnreachable"), "{}", ended.log);
    assert!(ended.log.contains("nothing is lost yet") && ended.log.contains("not mended in 1 s"), "{}", ended.log);
}

#[test]
fn a_file_that_never_rests_is_not_waited_for_until_the_deadline() {
    let bucket = weed().bucket("kept-changing");
    let mut job = Attempt::new("changing", 1, &bucket);
    job.spec["results"]["keepOnFailureSeconds"] = json!(600);
    // So large that it is written to while it is read, however busy the machine is.
    job.write("log", &vec![b'.'; 48 << 20]);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut log = std::fs::File::options().append(true).open(job.results().join("log")).unwrap();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                log.write_all(b"more").unwrap();
                std::thread::sleep(std::time::Duration::from_micros(200));
            }
        });
        let ended = job.stage();
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        assert_eq!(ended.says(), (2, "FileChanging"), "{}", ended.log);
        assert!(ended.receipt().message.contains("end its writer with main"), "{}", ended.log);
    });
}
