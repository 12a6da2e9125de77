//! The ways that data takes: in, out, twice, and by the wrong attempt.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text, sha256_hex};
use gpujob_transfer::manifest::Manifest;
use gpujob_transfer::plan::{PART, Strong};
use gpujob_transfer::receipt::{Ended, Outcome};
use gpujob_transfer::store::ObjectStore;
use rustix::process::Signal;
use serde_json::json;

use crate::attempt::{Attempt, noise, objects, visible};
use crate::weed::weed;

#[test]
fn from_inputs_to_results_byte_for_byte() {
    let bucket = weed().bucket("whole");
    let store = weed().store(&bucket);
    store.put("in/digits.csv", b"1,2,3").unwrap();
    store.put("in/deep/a b+ü.bin", &noise(3 << 20, 1)).unwrap();
    store.put("in/deep/empty", b"").unwrap();
    store.put("single.txt", b"one object").unwrap();
    let mut job = Attempt::new("whole", 1, &bucket);
    let data = job.folder.path().join("data");
    let one = job.folder.path().join("one");
    job.spec["inputs"] = json!([
        {"from": format!("s3://{bucket}/in/"), "path": data},
        {"from": format!("s3://{bucket}/single.txt"), "path": one},
    ]);
    let fetched = job.run(&["fetch"]);
    assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
    assert_eq!((fetched.receipt().files, fetched.receipt().bytes), (4, 5 + (3 << 20) + 10));
    assert_eq!(fs::read(data.join("digits.csv")).unwrap(), b"1,2,3");
    assert!(fs::read(data.join("deep/a b+ü.bin")).unwrap() == noise(3 << 20, 1));
    assert_eq!(fs::read(data.join("deep/empty")).unwrap(), b"");
    assert_eq!(fs::read(one.join("single.txt")).unwrap(), b"one object");
    assert_eq!(fs::read_dir(&data).unwrap().count(), 2, "nothing partial is left");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(data.join("deep")), mode(data.join("digits.csv"))), (0o777, 0o666));

    let big = noise(2 * PART as usize + 4321, 2);
    let mut want = vec![
        ("big model.bin", big.as_slice()),
        ("deep/er/ünï code \"&<>+%41.txt", b"odd"),
        ("empty", b""),
        ("metrics.json", br#"{"accuracy": 0.97}"#),
    ];
    for (name, bytes) in &want {
        job.write(name, bytes);
    }
    fs::set_permissions(job.results().join("empty"), fs::Permissions::from_mode(0o600)).unwrap();
    symlink("big model.bin", job.results().join("latest")).unwrap();
    symlink("/etc/passwd", job.results().join("outside")).unwrap();
    fs::create_dir(job.results().join("empty folder")).unwrap();
    want.insert(3, ("latest", &big));

    let sidecar = job.start(&["stage"]);
    sidecar.says("will be staged");
    // The commit is started as soon as main's exit code is known, before the seal.
    let log = job.folder.path().join("main.log");
    fs::write(&log, "epoch 1\n").unwrap();
    let commit = job.start(&["commit", "--outcome", "Succeeded", "--exit-code", "0", "--log", log.to_str().unwrap()]);
    commit.says("not sealed");
    assert!(visible(&bucket).is_empty());
    sidecar.signal(Signal::TERM);
    let staged = sidecar.end();
    assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
    let committed = commit.end();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);

    let seen = visible(&bucket);
    assert_eq!(seen.len(), want.len());
    for (name, bytes) in &want {
        assert!(seen[&format!("out/{name}")] == *bytes, "{name}");
    }
    let control = objects(&bucket, "out/.gpujob/");
    let names: Vec<_> = control.keys().map(|k| &k["out/.gpujob/".len()..]).collect();
    assert_eq!(names, ["epoch", "logs/0-1.log", "manifest.json", "receipt"], "no staging is left");
    assert_eq!(control["out/.gpujob/logs/0-1.log"], b"epoch 1\n");

    let receipt = committed.receipt();
    assert_eq!(receipt.summary, Some(json!({"accuracy": 0.97})));
    assert_eq!(receipt.files, want.len() as u64);
    let text = &control["out/.gpujob/manifest.json"];
    assert_eq!(receipt.manifest.as_ref().unwrap().sha256, sha256_hex(text));
    let manifest: Manifest = serde_json::from_slice(text).unwrap();
    assert_eq!((manifest.attempt, manifest.outcome, manifest.exit_code), (1, Ended::Succeeded, Some(0)));
    assert_eq!(manifest.skipped.iter().map(|s| s.path.as_str()).collect::<Vec<_>>(), ["outside"]);
    for (file, (name, bytes)) in manifest.files.iter().zip(&want) {
        assert_eq!((file.path.as_str(), file.size), (*name, bytes.len() as u64));
        assert_eq!(file.crc64nvme, crc64nvme_text(crc64nvme(bytes)));
        match &file.strong {
            Strong::Whole(sha) => assert_eq!(*sha, sha256_hex(bytes)),
            Strong::Tree { part_size, .. } => assert!(*part_size == PART && bytes.len() as u64 > PART),
        }
    }

    // Twice is harmless, and a next attempt finds it done.
    let again = job.commit();
    assert_eq!(again.says(), (0, "Committed"), "{}", again.log);
    assert_eq!(again.receipt().summary, receipt.summary);
    let next = Attempt::new("whole", 2, &bucket);
    for role in ["fetch", "resolve"] {
        let late = next.run(&[role]);
        assert_eq!(late.says(), (93, "AlreadyCommitted"), "{}", late.log);
        assert_eq!(late.receipt().summary, receipt.summary);
        assert_eq!(late.receipt().committed.unwrap().outcome, Ended::Succeeded);
    }
    assert!(visible(&bucket) == seen);
}

#[test]
fn a_zombie_neither_seals_nor_commits_after_its_successor() {
    let bucket = weed().bucket("zombie");
    let [sealed, zombie, winner] = [1, 2, 3].map(|n| Attempt::new("zombie", n, &bucket));
    for (job, text) in [(&sealed, "first"), (&zombie, "second"), (&winner, "third")] {
        job.write("answer.txt", text.as_bytes());
        job.write("large.bin", &noise(PART as usize + 1, job.spec["attempt"].as_u64().unwrap()));
    }
    sealed.seal();
    assert_eq!(zombie.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = zombie.start(&["stage"]);
    sidecar.says("will be staged");
    assert_eq!(winner.run(&["fetch"]).says(), (0, "Done"));
    sidecar.signal(Signal::TERM);
    let late = sidecar.end();
    assert_eq!(late.says(), (2, "Revoked"), "{}", late.log);
    for job in [&sealed, &zombie] {
        assert_eq!(job.commit().says(), (2, "Revoked"));
        assert_eq!(job.run(&["fetch"]).says(), (2, "Revoked"));
        assert_eq!(job.run(&["resolve"]).says(), (2, "Revoked"));
        assert_eq!(job.run(&["discard"]).says(), (0, "Discarded"));
    }
    assert!(visible(&bucket).is_empty());
    let staged = winner.stage();
    assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
    assert_eq!(winner.commit().says(), (0, "Committed"));
    assert_eq!(sealed.commit().says(), (2, "Revoked"));
    assert_eq!(visible(&bucket)["out/answer.txt"], b"third");
    assert!(visible(&bucket)["out/large.bin"] == noise(PART as usize + 1, 3));
}

#[test]
fn discard_removes_staging_and_never_what_is_committed() {
    let bucket = weed().bucket("discard");
    let first = Attempt::new("discard", 1, &bucket);
    first.write("small", b"1");
    first.write("large", &noise(PART as usize + 1, 1));
    first.seal();
    assert!(!objects(&bucket, "out/.gpujob/staging/").is_empty());
    let gone = first.run(&["discard"]);
    assert_eq!(gone.says(), (0, "Discarded"), "{}", gone.log);
    assert!(objects(&bucket, "out/.gpujob/staging/").is_empty());
    assert_eq!(first.commit().says(), (2, "Revoked"));
    assert_eq!(first.run(&["resolve"]).says(), (0, "Free"));
    let second = Attempt::new("discard", 2, &bucket);
    second.write("small", b"2");
    second.seal();
    assert_eq!(second.commit().says(), (0, "Committed"));
    assert_eq!(second.run(&["discard"]).says(), (0, "Committed"));
    assert_eq!(visible(&bucket).into_iter().collect::<Vec<_>>(), [("out/small".to_string(), b"2".to_vec())]);
}

#[test]
fn a_failed_jobs_results_are_kept_and_said_to_be() {
    let bucket = weed().bucket("failed");
    let job = Attempt::new("failed", 1, &bucket);
    job.write("partial.txt", b"as far as it came");
    job.seal();
    let done = job.run(&["commit", "--outcome", "Failed", "--exit-code", "-9"]);
    assert_eq!(done.says(), (0, "Committed"), "{}", done.log);
    assert_eq!(done.receipt().summary_omitted, Some(true));
    let verdict = done.receipt().committed.unwrap();
    assert_eq!((verdict.outcome, verdict.exit_code), (Ended::Failed, Some(-9)));
    let later = Attempt::new("failed", 2, &bucket).run(&["resolve"]);
    assert_eq!(later.receipt().outcome, Outcome::AlreadyCommitted);
    assert_eq!(later.receipt().committed.unwrap().outcome, Ended::Failed);
}

#[test]
fn a_job_without_results_or_without_inputs_has_nothing_to_do() {
    let bucket = weed().bucket("nothing");
    let mut job = Attempt::new("nothing", 1, &bucket);
    job.spec["results"] = json!(null);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    sidecar.says("waiting for its end");
    sidecar.signal(Signal::TERM);
    assert_eq!(sidecar.end().says(), (0, "Done"));
    assert_eq!(job.commit().says(), (0, "Done"));
    assert_eq!(job.run(&["resolve"]).says(), (0, "Free"));
}
