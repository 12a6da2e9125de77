//! What cannot work says so: reason, exit code, and what to do, in time for a condition within 30 s.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use gpujob_transfer::store::ObjectStore;
use serde_json::json;

use crate::attempt::{Attempt, objects, visible};
use crate::weed::weed;

#[test]
fn bad_credentials_bucket_and_input() {
    let bucket = weed().bucket("bad");
    let begin = |change: &dyn Fn(&mut Attempt)| {
        let mut job = Attempt::new("bad", 1, &bucket);
        change(&mut job);
        let began = Instant::now();
        let ended = job.run(&["fetch"]);
        assert!(began.elapsed() < Duration::from_secs(5), "{}", ended.log);
        (ended.code.unwrap_or(-1), ended.receipt().reason.clone(), ended.receipt().message.clone())
    };
    let (code, reason, message) = begin(&|job| {
        job.env.insert("AWS_SECRET_ACCESS_KEY", "wrong".into());
    });
    assert_eq!((code, reason.as_str()), (2, "InvalidCredentials"), "{message}");
    let (code, reason, message) = begin(&|job| {
        job.env.insert("AWS_ACCESS_KEY_ID", "UNKNOWN".into());
    });
    assert_eq!((code, reason.as_str()), (2, "InvalidCredentials"), "{message}");
    let (code, reason, message) = begin(&|job| {
        job.env.remove("AWS_ACCESS_KEY_ID");
    });
    assert_eq!((code, reason.as_str()), (2, "InvalidCredentials"), "{message}");
    assert!(message.contains("AWS_ACCESS_KEY_ID is not set") && message.contains("Secret"), "{message}");
    let (code, reason, message) = begin(&|job| job.spec["results"]["to"] = json!("s3://no-such-bucket/out/"));
    assert_eq!((code, reason.as_str()), (2, "BucketNotFound"), "{message}");
    for from in ["s3://no-such-bucket/in/", &format!("s3://{bucket}/nothing/"), &format!("s3://{bucket}/nothing")] {
        let (code, reason, message) = begin(&|job| {
            job.spec["inputs"] = json!([{"from": from, "path": job.folder.path().join("data")}]);
        });
        let want = if from.contains("no-such") { "BucketNotFound" } else { "InputNotFound" };
        assert_eq!((code, reason.as_str()), (2, want), "{from}: {message}");
    }
    let (code, reason, message) = begin(&|job| job.spec["results"]["to"] = json!("https://example.com/"));
    assert_eq!((code, reason.as_str()), (2, "InvalidSpec"), "{message}");
    let (code, reason, message) = begin(&|job| {
        job.env.insert("AWS_ENDPOINT_URL_S3", "minio:9000".into());
    });
    assert_eq!(code, 2, "{reason}: {message}");
}

#[test]
fn a_store_that_does_not_answer_is_told_within_30_seconds() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = |l: &TcpListener| l.local_addr().unwrap().port();
    let ports = [port(&silent), port(&refused)];
    drop(refused);
    std::thread::scope(|scope| {
        for port in ports {
            scope.spawn(move || {
                let mut job = Attempt::new("silent", 1, "any-bucket");
                job.env.insert("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{port}"));
                let began = Instant::now();
                let ended = job.run(&["fetch"]);
                assert_eq!(ended.says(), (1, "StoreUnreachable"), "{}", ended.log);
                assert!(ended.receipt().retryable && ended.receipt().message.contains("AWS_ENDPOINT_URL_S3"));
                assert!(began.elapsed() < Duration::from_secs(26), "{:?}", began.elapsed());
            });
        }
    });
}

#[test]
fn a_role_that_is_told_to_end_ends_at_once() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut job = Attempt::new("told", 1, "any-bucket");
    job.env.insert("AWS_ENDPOINT_URL_S3", format!("http://{}", silent.local_addr().unwrap()));
    let fetch = job.start(&["fetch"]);
    // It is connected: its handlers are in place.
    let _kept = silent.accept().unwrap();
    let began = Instant::now();
    fetch.signal(rustix::process::Signal::TERM);
    // Without a handler it would have no exit code.
    assert_eq!(fetch.end().code, Some(143));
    assert!(began.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_destination_with_files_is_refused_and_left_alone() {
    let bucket = weed().bucket("full");
    weed().store(&bucket).put("out/precious.txt", b"mine").unwrap();
    for on_existing in ["Refuse", "Reuse"] {
        let mut job = Attempt::new("full", 1, &bucket);
        job.spec["results"]["onExisting"] = json!(on_existing);
        let ended = job.run(&["fetch"]);
        assert_eq!(ended.says(), (2, "DestinationNotEmpty"), "{}", ended.log);
        assert_eq!(job.run(&["resolve"]).says(), (2, "DestinationNotEmpty"));
    }
    assert_eq!(objects(&bucket, "out/").len(), 1, "not even an epoch is left");
    let mut job = Attempt::new("full", 1, &bucket);
    job.spec["results"]["onExisting"] = json!("Overwrite");
    job.write("new.txt", b"new");
    job.seal();
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert_eq!(visible(&bucket).len(), 2);
}

#[test]
fn two_jobs_one_destination() {
    let bucket = weed().bucket("two");
    let first = Attempt::new("first", 1, &bucket);
    assert_eq!(first.run(&["fetch"]).says(), (0, "Done"));
    let mut second = Attempt::new("second", 1, &bucket);
    let refused = second.run(&["fetch"]);
    assert_eq!(refused.says(), (2, "DestinationInUse"), "{}", refused.log);
    assert_eq!(refused.receipt().holder.as_ref().unwrap().uid, "first");
    // The operator has seen that the first job is gone.
    second.spec["abandoned"] = json!(["first"]);
    assert_eq!(second.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = first.start(&["stage"]);
    sidecar.says("nothing of this attempt will be delivered");
    sidecar.signal(rustix::process::Signal::TERM);
    assert_eq!(sidecar.end().says(), (2, "Revoked"));
    // The second gives the destination up.
    assert_eq!(second.run(&["discard", "--release"]).says(), (0, "Discarded"));
    let third = Attempt::new("third", 1, &bucket);
    assert_eq!(third.run(&["fetch"]).says(), (0, "Done"));
}

#[test]
fn a_destination_that_is_given_up_holds_nothing_of_any_attempt() {
    let bucket = weed().bucket("given-up");
    let first = Attempt::new("gives-up", 1, &bucket);
    first.write("a.txt", b"one");
    first.seal();
    // The second attempt ended before it had claimed anything: what is there is the first one's.
    let second = Attempt::new("gives-up", 2, &bucket);
    assert_eq!(second.run(&["discard", "--release"]).says(), (0, "Discarded"));
    assert_eq!(objects(&bucket, "out/.gpujob/staging/").len(), 0);
    assert_eq!(second.run(&["fetch"]).says(), (2, "Revoked"), "given up for good");
    assert_eq!(first.commit().says(), (2, "Revoked"));
    assert_eq!(Attempt::new("another", 1, &bucket).run(&["fetch"]).says(), (0, "Done"));
}

#[test]
fn an_equal_job_reuses_and_a_changed_one_is_refused() {
    let bucket = weed().bucket("reuse");
    let first = Attempt::new("original", 1, &bucket);
    first.write("metrics.json", b"{\"accuracy\":1}");
    first.seal();
    assert_eq!(first.commit().says(), (0, "Committed"));
    let mut again = Attempt::new("again", 1, &bucket);
    again.spec["job"]["name"] = json!("original");
    again.spec["results"]["onExisting"] = json!("Reuse");
    for role in ["fetch", "resolve"] {
        let ended = again.run(&[role]);
        assert_eq!(ended.says(), (93, "ResultsReused"), "{}", ended.log);
        assert_eq!(ended.receipt().summary, Some(json!({"accuracy": 1})));
    }
    again.spec["job"]["specHash"] = json!("changed");
    assert_eq!(again.run(&["fetch"]).says(), (2, "DestinationNotEmpty"));
}

#[test]
fn results_that_cannot_be_delivered_say_why() {
    let bucket = weed().bucket("undeliverable");
    let job = Attempt::new("undeliverable", 1, &bucket);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    fs::create_dir(job.results().join(".gpujob")).unwrap();
    let ended = job.stage();
    assert_eq!(ended.says(), (2, "ReservedName"), "{}", ended.log);
    let waited = job.run(&["commit", "--outcome", "Succeeded", "--wait", "1"]);
    assert_eq!(waited.says(), (1, "NotSealed"), "{}", waited.log);
    assert!(visible(&bucket).is_empty());
}
