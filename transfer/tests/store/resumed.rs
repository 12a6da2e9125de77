//! A staging worker that is killed goes on where it was: its parts are listed, not sent again.

use std::time::{Duration, Instant};

use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use rustix::process::{Signal, kill_process};

use crate::attempt::{Attempt, Running, noise, pid, visible};
use crate::gate::Gate;
use crate::soak::{Dice, processes};
use crate::weed::weed;

/// What a worker says of a store that answers late, as one on a busy machine does.
fn at_a_time(line: &str) -> Option<u64> {
    line.strip_suffix(" requests at a time")?.rsplit(' ').next()?.parse().ok()
}

/// How many parts its workers have sent at a time, at most.
fn threads(sidecar: &Running) -> u64 {
    sidecar.log().lines().filter_map(at_a_time).max().unwrap_or(4)
}

#[test]
fn parts_that_the_store_has_are_not_sent_again() {
    const PARTS: u64 = 24;
    let bucket = weed().bucket("resumed");
    let mut job = Attempt::new("resumed", 1, &bucket);
    let large = noise((PARTS * PART - 5) as usize, 3);
    job.write("large", &large);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let gate = Gate::new();
    job.env.insert("AWS_ENDPOINT_URL_S3", gate.endpoint());
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    let worker = processes(sidecar.child.id())[1];
    let mut dice = Dice::new(11);
    sidecar.signal(Signal::TERM);
    sidecar.says("staging 1 file");
    // Two kills, each some parts further on.
    let (mut last, mut kills, mut anew) = (worker, 0, PARTS * PART);
    while kills < 2 {
        let from = gate.sent();
        let more = (2 + dice.roll(2)) * PART + dice.roll(PART);
        let began = Instant::now();
        while gate.sent() < from + threads(&sidecar) * PART + more && began.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(1));
        }
        kill_process(pid(last), Signal::KILL).unwrap();
        kills += 1;
        anew += gate.sent() - from;
        last = loop {
            match processes(sidecar.child.id()).get(1) {
                Some(worker) if *worker != last => break *worker,
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        };
    }
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Sealed"), "{}", ended.log);
    assert_eq!(ended.log.matches("are there from the worker before").count(), 2, "{}", ended.log);
    // A kill costs at most what its threads were sending.
    let threads = ended.log.lines().filter_map(at_a_time).max().unwrap_or(4);
    let (sent, most) = (gate.sent(), PARTS * PART + 2 * threads * PART);
    println!("{sent} bytes were sent for {}; from nothing each time it would be {anew}", large.len());
    assert!(sent <= most + (1 << 20) && sent < anew - 2 * PART, "{sent} bytes, at most {most}, anew {anew}");
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert!(visible(&bucket)["out/large"] == large);
}

#[test]
fn a_test_that_fails_leaves_no_process_behind() {
    let bucket = weed().bucket("left-behind");
    let job = Attempt::new("left-behind", 1, &bucket);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    let both = processes(sidecar.child.id());
    assert_eq!(both.len(), 2);
    drop(sidecar);
    let ended = |id: &u32| match std::fs::read_to_string(format!("/proc/{id}/stat")) {
        // Whoever adopts the worker may not have waited for it yet.
        Ok(stat) => stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('Z')),
        Err(_) => true,
    };
    let began = Instant::now();
    while !both.iter().all(ended) {
        assert!(began.elapsed() < Duration::from_secs(5), "{both:?} go on");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_upload_that_somebody_aborted_is_begun_anew() {
    let bucket = weed().bucket("resumed-aborted");
    let job = Attempt::new("aborted", 1, &bucket);
    let large = noise(3 * PART as usize, 4);
    job.write("large", &large);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    assert_eq!(job.stage().says(), (0, "Sealed"));
    let record = std::fs::read_dir(job.folder.path().join("state/uploads")).unwrap().next().unwrap().unwrap();
    let text = std::fs::read_to_string(record.path()).unwrap();
    let begun: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let store = weed().store(&bucket);
    let (key, upload) = (begun["key"].as_str().unwrap(), begun["uploadId"].as_str().unwrap());
    let listed = store.list_parts(key, upload).unwrap().unwrap();
    assert_eq!(listed.iter().map(|part| part.0).collect::<Vec<_>>(), [1, 2, 3]);
    store.abort_upload(key, upload).unwrap();
    assert_eq!(store.list_parts(key, upload).unwrap(), None);
    // The container is started again, as before main's end.
    let again = job.stage();
    assert_eq!(again.says(), (0, "Sealed"), "{}", again.log);
    assert!(!again.log.contains("worker before"), "{}", again.log);
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert!(visible(&bucket)["out/large"] == large);
}
