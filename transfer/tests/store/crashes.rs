//! kill -9 at every request, and what is found afterwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use gpujob_transfer::epoch::{Epoch, State};
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::{ObjectStore, read};
use rustix::process::{Signal, kill_process};

use crate::attempt::{Attempt, noise, objects, pid, visible};
use crate::proxy::Proxy;
use crate::weed::weed;

fn sealed(bucket: &str, name: &str) -> (Attempt, BTreeMap<String, Vec<u8>>) {
    let job = Attempt::new(name, 1, bucket);
    let mut want = BTreeMap::new();
    for (file, bytes) in [
        ("a.txt", b"a".to_vec()),
        ("b/c.txt", b"c".to_vec()),
        ("metrics.json", b"{}".to_vec()),
        ("large.bin", noise(PART as usize + 99, 5)),
    ] {
        job.write(file, &bytes);
        want.insert(format!("out/{file}"), bytes);
    }
    job.seal();
    (job, want)
}

fn state(bucket: &str) -> State {
    let (bytes, _) = read(&weed().store(bucket), "out/.gpujob/epoch", 10_000).unwrap().unwrap();
    serde_json::from_slice::<Epoch>(&bytes).unwrap().state
}

#[test]
fn a_commit_that_is_killed_at_any_request_is_untouched_or_rolled_forward() {
    // How many requests a commit makes when nobody kills it.
    let bucket = weed().bucket("commit-whole");
    let (mut job, want) = sealed(&bucket, "crash");
    let counter = Proxy::new(0, false);
    job.env.insert("AWS_ENDPOINT_URL_S3", counter.endpoint());
    let ended = job.commit();
    assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
    let requests = counter.requests();
    assert!(requests > 12 && visible(&bucket) == want);
    let (mut untouched, mut begun, mut done) = (0, 0, 0);
    for (round, kill_at) in (1..=requests).enumerate() {
        let bucket = weed().bucket("commit-killed");
        let (mut job, want) = sealed(&bucket, "crash");
        let proxy = Proxy::new(kill_at, round % 2 == 1);
        job.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
        let commit = job.start(&["commit", "--outcome", "Succeeded", "--exit-code", "0"]);
        proxy.victim(commit.child.id());
        let killed = commit.end();
        job.env.insert("AWS_ENDPOINT_URL_S3", weed().endpoint());
        let what = format!("killed at request {kill_at} of {requests}: {:?}", killed.log);
        match state(&bucket) {
            State::Sealed => {
                untouched += 1;
                assert!(visible(&bucket).is_empty(), "{what}");
            }
            State::Committing => {
                begun += 1;
                assert!(visible(&bucket).iter().all(|(k, v)| want.get(k) == Some(v)), "{what}");
            }
            State::Committed => {
                done += 1;
                assert!(visible(&bucket) == want, "{what}");
            }
            other => panic!("{what}: {other:?}"),
        }
        // Whoever comes first finds what is left: the operator's second commit, a resolve, or the next attempt's fetch.
        let next = Attempt::new("crash", 2, &bucket);
        match (round % 3, state(&bucket)) {
            (0, _) | (_, State::Sealed) => {
                let again = job.commit();
                assert_eq!(again.says(), (0, "Committed"), "{what} {}", again.log);
            }
            (1, found) => {
                let resolved = next.run(&["resolve"]);
                let word = if found == State::Committing { (0, "RolledForward") } else { (93, "AlreadyCommitted") };
                assert_eq!(resolved.says(), word, "{what} {}", resolved.log);
            }
            _ => {
                let fetched = next.run(&["fetch"]);
                assert_eq!(fetched.says(), (93, "AlreadyCommitted"), "{what} {}", fetched.log);
            }
        }
        assert!(visible(&bucket) == want, "{what}");
        assert_eq!(state(&bucket), State::Committed);
        let last = job.commit();
        assert_eq!(last.says(), (0, "Committed"), "{what} {}", last.log);
        assert!(objects(&bucket, "out/.gpujob/staging/").is_empty(), "{what}");
        assert!(objects(&bucket, "out/.gpujob/").contains_key("out/.gpujob/manifest.json"), "{what}");
    }
    assert!(untouched > 0 && begun > 3 && done > 0, "{untouched} {begun} {done}");
}

#[test]
fn two_commits_at_once_are_one() {
    let bucket = weed().bucket("twins");
    let (job, want) = sealed(&bucket, "twins");
    let twin =
        Attempt { folder: tempfile::tempdir().unwrap(), spec: job.spec.clone(), pod: job.pod.clone(), env: job.env.clone(), by: vec![] };
    let arguments = ["commit", "--outcome", "Succeeded", "--exit-code", "0"];
    let both = [job.start(&arguments), twin.start(&arguments)];
    for ended in both.map(|r| r.end()) {
        assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
    }
    assert!(visible(&bucket) == want);
    assert_eq!(state(&bucket), State::Committed);
}

#[test]
fn a_staging_worker_that_is_killed_is_started_again_and_seals() {
    let bucket = weed().bucket("worker");
    let job = Attempt::new("worker", 1, &bucket);
    let mut want = BTreeMap::new();
    for n in 0..300 {
        let bytes = noise(1000 + n, n as u64);
        job.write(&format!("f{n}"), &bytes);
        want.insert(format!("out/f{n}"), bytes);
    }
    let large = noise(4 * PART as usize, 77);
    job.write("large", &large);
    want.insert("out/large".into(), large);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    // Once while main runs, and twice while results are staged.
    let kill = |last: u32| {
        let began = Instant::now();
        loop {
            assert!(began.elapsed() < Duration::from_secs(20), "no new worker");
            match sidecar.worker() {
                Some(worker) if worker != last => {
                    kill_process(pid(worker), Signal::KILL).unwrap();
                    return worker;
                }
                _ => std::thread::sleep(Duration::from_millis(2)),
            }
        }
    };
    let first = kill(0);
    sidecar.signal(Signal::TERM);
    let second = kill(first);
    sidecar.says("staging 301 files");
    std::thread::sleep(Duration::from_millis(100));
    kill(second);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (0, "Sealed"), "{}", ended.log);
    assert!(ended.log.matches("starting it again").count() >= 2, "{}", ended.log);
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert!(visible(&bucket) == want);
    assert!(objects(&bucket, "out/.gpujob/staging/").is_empty());
}

#[test]
fn a_claim_over_another_jobs_results_removes_what_its_dead_commit_left_staged() {
    let bucket = weed().bucket("left-staged");
    let (job, _) = sealed(&bucket, "first");
    let ended = job.commit();
    assert_eq!(ended.says(), (0, "Committed"), "{}", ended.log);
    // What a commit leaves that died between `committed` and its sweep, and what a zombie of it would copy from.
    let left = format!("out/.gpujob/staging/1-{}/files/a.txt", job.pod);
    weed().store(&bucket).put(&left, b"a").unwrap();
    let mut later = Attempt::new("later", 1, &bucket);
    later.spec["results"]["onExisting"] = serde_json::json!("Overwrite");
    let claimed = later.run(&["fetch"]);
    assert_eq!(claimed.code, Some(0), "{}", claimed.log);
    assert!(read(&weed().store(&bucket), &left, 10).unwrap().is_none(), "{}", claimed.log);
}
