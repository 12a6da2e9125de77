//! Inputs by URL and by checksum: they arrive whole, or the job is told why they cannot.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use gpujob_transfer::checksum::sha256_hex;
use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use serde_json::{Value, json};

use crate::attempt::{Attempt, Ended, noise};
use crate::web::{Habits, Web};
use crate::weed::weed;

/// Attempt 1 of a job without results.
fn job(inputs: &[Value]) -> Attempt {
    let mut job = Attempt::new("inputs", 1, "no-bucket");
    job.spec["results"] = Value::Null;
    let at = |name: &str| job.folder.path().join(name);
    let inputs: Vec<_> = inputs
        .iter()
        .map(|input| {
            let mut input = input.clone();
            input["path"] = json!(at("data"));
            input
        })
        .collect();
    job.spec["inputs"] = json!(inputs);
    job
}

fn pin(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(bytes))
}

fn fetched(job: &Attempt) -> Ended {
    let ended = job.run(&["fetch"]);
    // Whatever came of it: no half a file, under no name.
    let partial = job.folder.path().join("data/.gpujob-partial");
    assert!(!partial.exists(), "{}", ended.log);
    ended
}

fn file(job: &Attempt, name: &str) -> PathBuf {
    job.folder.path().join("data").join(name)
}

#[test]
fn a_url_is_followed_and_resumed_and_arrives_whole() {
    let body = noise(3_000_000, 9);
    let usual = Habits { body: body.clone(), ranges: true, etag: Some("\"v1\""), ..Habits::default() };
    for (case, habits, requests) in [
        ("plain", usual.clone(), 1),
        ("no length", Habits { chunked: true, ..usual.clone() }, 1),
        ("redirected", Habits { status: Some((302, "/elsewhere?sig=1")), ..usual.clone() }, 2),
        ("broken 12 times", Habits { breaks: 12, ..usual.clone() }, 13),
        ("broken without ranges", Habits { breaks: 2, ranges: false, ..usual.clone() }, 3),
        ("broken without a version", Habits { breaks: 2, etag: None, ..usual.clone() }, 3),
        ("broken chunks", Habits { breaks: 2, chunked: true, ..usual.clone() }, 3),
        ("damaged twice", Habits { flips: 2, ..usual.clone() }, 3),
        ("busy", Habits { status: Some((503, "")), times: Some(3), ..usual.clone() }, 4),
        ("replaced on the way", Habits { breaks: 1, replaced: Some(body.clone()), body: noise(2_000_000, 1), ..usual.clone() }, 2),
        (
            "replaced, no ranges",
            Habits { breaks: 1, replaced: Some(body.clone()), body: noise(2_000_000, 1), ranges: false, ..usual.clone() },
            2,
        ),
    ] {
        let web = Web::new(habits);
        let job = job(&[json!({"from": web.url("/models/a%20b.bin?token=secret"), "checksum": pin(&body)})]);
        let ended = fetched(&job);
        assert_eq!(ended.says(), (0, "Done"), "{case}: {}", ended.log);
        assert!(!ended.log.contains("secret"), "{}", ended.log);
        assert!(fs::read(file(&job, "a b.bin")).unwrap() == body, "{case}");
        assert_eq!(fs::metadata(file(&job, "a b.bin")).unwrap().permissions().mode() & 0o777, 0o666);
        assert_eq!(web.asked().len(), requests, "{case}: {}", ended.log);
        assert_eq!(ended.receipt().bytes, body.len() as u64);
    }
}

#[test]
fn a_url_that_cannot_be_had_says_why() {
    let body = noise(100_000, 4);
    let right = pin(&body);
    let wrong = pin(b"other bytes");
    let answers = |status: u16| Web::new(Habits { body: body.clone(), status: Some((status, "/loop")), ..Habits::default() });
    let (gone, closed, looping, fine) =
        (answers(404), answers(403), answers(302), Web::new(Habits { body: body.clone(), ..Habits::default() }));
    for (from, checksum, says, word) in [
        (gone.url("/x"), Some(&right), (2, "InputNotFound"), "inputs[].from"),
        (closed.url("/x?sig=secret"), Some(&right), (2, "AccessDenied"), "signed URL"),
        (looping.url("/x"), Some(&right), (2, "StoreRefused"), "redirects"),
        (fine.url("/x"), Some(&wrong), (2, "ChecksumMismatch"), "inputs[].checksum says"),
        (fine.url("/x"), None, (2, "InvalidSpec"), "add inputs[].checksum"),
        (fine.url("/"), Some(&right), (2, "InvalidInputName"), "no path"),
        (fine.url("/..%2f..%2fetc"), Some(&right), (2, "InvalidInputName"), "slash"),
        ("http://example.com/x".into(), Some(&right), (2, "InvalidSpec"), "use https://"),
        (fine.url("/x"), Some(&"sha256:12".to_string()), (2, "InvalidSpec"), "64 hex digits"),
    ] {
        let mut input = json!({ "from": from });
        if let Some(checksum) = checksum {
            input["checksum"] = json!(checksum);
        }
        let job = job(&[input]);
        let ended = fetched(&job);
        assert_eq!(ended.says(), says, "{from}: {}", ended.log);
        assert!(ended.receipt().message.contains(word) && !ended.log.contains("secret"), "{}", ended.log);
        assert!(!file(&job, "x").exists());
        // The wrong checksum is seen only by who reads all of it.
        let checked = job.run(&["check"]);
        let want = if says.1 == "ChecksumMismatch" { (0, "Done") } else { says };
        assert_eq!(checked.says(), want, "check {from}: {}", checked.log);
    }
}

#[test]
fn check_says_how_much_a_url_holds() {
    let web = Web::new(Habits { body: noise(70_000, 4), ..Habits::default() });
    let ended = job(&[json!({"from": web.url("/x"), "checksum": pin(b"")})]).run(&["check"]);
    assert_eq!((ended.says(), ended.receipt().files, ended.receipt().bytes), ((0, "Done"), 1, 70_000), "{}", ended.log);
}

#[test]
fn an_object_is_checked_by_what_the_job_says_of_it() {
    let bucket = weed().bucket("pinned");
    let store = weed().store(&bucket);
    for (name, size) in [("small", 1000), ("middle", PART as usize + 1)] {
        let body = noise(size, 2);
        store.put(&format!("in/{name}"), &body).unwrap();
        let from = format!("s3://{bucket}/in/{name}");
        let good = job(&[json!({"from": from, "checksum": pin(&body)})]);
        assert_eq!(fetched(&good).says(), (0, "Done"));
        assert!(fs::read(file(&good, name)).unwrap() == body);
        let bad = job(&[json!({"from": from, "checksum": pin(b"")})]);
        let ended = fetched(&bad);
        assert_eq!(ended.says(), (2, "ChecksumMismatch"), "{}", ended.log);
        assert!(!file(&bad, name).exists());
    }
    let ended = job(&[json!({"from": format!("s3://{bucket}/in/"), "checksum": pin(b"")})]).run(&["fetch"]);
    assert_eq!(ended.says(), (2, "InvalidSpec"), "{}", ended.log);
}

#[test]
fn a_large_object_comes_in_ranges_and_many_small_ones_in_one_request_each() {
    let bucket = weed().bucket("ranges");
    let store = weed().store(&bucket);
    let body = noise((70 << 20) + 12_345, 6);
    store.put("in/large", &body).unwrap();
    for n in 0..200 {
        store.put(&format!("in/s/{n}"), &noise(n * 37, n as u64)).unwrap();
    }
    let proxy = crate::proxy::Proxy::new(0, false);
    let mut job = job(&[json!({"from": format!("s3://{bucket}/in/")})]);
    job.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
    let ended = fetched(&job);
    assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    assert!(fs::read(file(&job, "large")).unwrap() == body);
    for n in 0..200 {
        assert!(fs::read(file(&job, &format!("s/{n}"))).unwrap() == noise(n * 37, n as u64), "{n}");
    }
    // A listing, the large one's head and its three ranges, and one for each small one.
    assert_eq!(proxy.requests(), 205);
    assert!(!ended.receipt().message.contains("could not be checked"), "{}", ended.receipt().message);
}
