//! `check`: a doomed job is told so before anything is bought, a good one is not disturbed, and nothing stays behind.

use std::time::{SystemTime, UNIX_EPOCH};

use gpujob_transfer::receipt::Outcome;
use gpujob_transfer::store::{Class, ObjectStore, probe_key, probe_time};
use serde_json::json;

use crate::attempt::{Attempt, objects};
use crate::double::{Conditions, Double, Manners};
use crate::proxy::Proxy;
use crate::weed::weed;

fn with_inputs(uid: &str, bucket: &str) -> Attempt {
    let mut job = Attempt::new(uid, 1, bucket);
    weed().store(bucket).put("in/a", b"12345").unwrap();
    weed().store(bucket).put("in/b", b"678").unwrap();
    job.spec["inputs"] = json!([{"from": format!("s3://{bucket}/in/"), "path": job.folder.path().join("data")}]);
    job
}

#[test]
fn a_job_that_can_work_is_told_what_it_will_fetch_and_nothing_is_claimed() {
    let bucket = weed().bucket("check-good");
    let job = with_inputs("good", &bucket);
    let ended = job.run(&["check"]);
    assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    let receipt = ended.receipt();
    assert_eq!((receipt.files, receipt.bytes, receipt.warnings.len()), (2, 8, 0), "{receipt:?}");
    assert!(objects(&bucket, "out/").is_empty() && !job.folder.path().join("data").exists());
    // While the attempt runs already, and after it has delivered.
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let mut pod = Attempt::new("good", 1, &bucket);
    pod.pod = "another-pod".into();
    assert_eq!(pod.run(&["check"]).says(), (0, "Done"));
    assert_eq!(job.stage().says(), (0, "Sealed"));
    assert_eq!(job.commit().says(), (0, "Committed"));
    let ended = pod.run(&["check"]);
    assert_eq!((ended.code, ended.receipt().outcome), (Some(93), Outcome::AlreadyCommitted), "{}", ended.log);
}

#[test]
fn a_job_that_cannot_work_is_told_why() {
    let bucket = weed().bucket("check-bad");
    let told = |change: &dyn Fn(&mut Attempt)| {
        let mut job = with_inputs("bad", &bucket);
        change(&mut job);
        let ended = job.run(&["check"]);
        assert!(objects(&bucket, "out/").is_empty(), "{}", ended.log);
        (ended.code.unwrap_or(-1), ended.receipt().reason.clone())
    };
    let data = "/tmp/never-written";
    for (reason, change) in [
        (
            "InvalidCredentials",
            &(|job: &mut Attempt| drop(job.env.insert("AWS_SECRET_ACCESS_KEY", "wrong".into()))) as &dyn Fn(&mut Attempt),
        ),
        ("BucketNotFound", &|job| job.spec["results"]["to"] = json!("s3://no-such-bucket/out/")),
        ("BucketNotFound", &|job| job.spec["inputs"] = json!([{"from": "s3://no-such-bucket/in/", "path": data}])),
        ("InputNotFound", &|job| job.spec["inputs"] = json!([{"from": format!("s3://{bucket}/none/"), "path": data}])),
        ("InvalidSpec", &|job| job.spec["inputs"] = json!([{"from": "ftp://host/x", "path": data}])),
        ("InvalidSpec", &|job| job.spec["results"]["include"] = json!(["out/{a"])),
        ("BucketNotFound", &|job| {
            job.spec["checkpoints"] = json!({"path": "/c", "to": "s3://no-such-bucket/c/", "intervalSeconds": 60, "keep": 1});
        }),
    ] {
        assert_eq!(told(change), (2, reason.to_string()));
    }
    weed().store(&bucket).put("out/precious.txt", b"mine").unwrap();
    let job = with_inputs("bad", &bucket);
    assert_eq!(job.run(&["check"]).says(), (2, "DestinationNotEmpty"));
    assert_eq!(objects(&bucket, "out/").len(), 1);
}

#[test]
fn a_destination_in_use_is_told_with_its_holder() {
    let bucket = weed().bucket("check-held");
    assert_eq!(Attempt::new("first", 1, &bucket).run(&["fetch"]).says(), (0, "Done"));
    let ended = Attempt::new("second", 1, &bucket).run(&["check"]);
    assert_eq!(ended.says(), (2, "DestinationInUse"), "{}", ended.log);
    assert_eq!(ended.receipt().holder.as_ref().unwrap().uid, "first");
}

#[test]
fn a_store_that_does_less_is_a_warning() {
    for (conditions, checks, warnings) in [
        (Conditions::Honours, &["x-amz-checksum-crc64nvme"][..], &[][..]),
        (Conditions::Ignores, &["content-md5"], &["no conditional writes"]),
        (Conditions::Refuses, &[], &["checks no checksums", "no conditional writes"]),
    ] {
        let double = Double::new(Manners { conditions, checks, ..Manners::default() });
        let mut job = Attempt::new("less", 1, "bucket");
        job.env.insert("AWS_ENDPOINT_URL_S3", double.endpoint());
        let ended = job.run(&["check"]);
        assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
        let receipt = ended.receipt();
        assert_eq!(receipt.warnings.len(), warnings.len(), "{:?}", receipt.warnings);
        assert!(receipt.warnings.iter().zip(warnings).all(|(said, want)| said.contains(want)), "{:?}", receipt.warnings);
        assert_eq!(receipt.published_under.is_some(), conditions != Conditions::Honours);
        assert!(double.keys().is_empty(), "{:?}", double.keys());
    }
}

#[test]
fn what_a_killed_check_leaves_is_known_by_its_name_and_swept_later() {
    let bucket = weed().bucket("check-killed");
    let mut killed = 0;
    for at in 1..40 {
        let proxy = Proxy::new(at, true);
        let mut job = Attempt::new("killed", 1, &bucket);
        job.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
        let check = job.start(&["check"]);
        proxy.victim(check.child.id());
        if check.end().code.is_some() {
            break;
        }
        killed += 1;
        // Only names: a request that the killed one has sent may still remove an object.
        for (key, _) in weed().store(&bucket).list("out/", None).unwrap().objects {
            assert!(probe_time(&key["out/".len()..]).is_some(), "{key} after request {at}");
        }
    }
    assert!(killed > 8, "{killed}");
    // An old one of a killed check, with an upload; and one that is in use.
    let store = weed().store(&bucket);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let old = format!(".gpujob/check-{}-ab", now - 4000);
    let upload = store.create_upload(&format!("out/{old}")).unwrap();
    store.upload_part(&format!("out/{old}"), &upload, 1, b"part").unwrap();
    store.put(&format!("out/{old}/u/upload.json"), json!({"key": old, "uploadId": upload}).to_string().as_bytes()).unwrap();
    let fresh = probe_key("out/");
    store.put(&fresh, b"in use").unwrap();
    assert_eq!(Attempt::new("killed", 1, &bucket).run(&["discard"]).says(), (0, "Discarded"));
    let left = objects(&bucket, "out/");
    assert!(left.contains_key(&fresh) && !left.keys().any(|key| key.contains(&old)), "{:?}", left.keys());
    let gone = store.upload_part(&format!("out/{old}"), &upload, 2, b"part").unwrap_err();
    assert_eq!(gone.class, Class::NoSuchUpload, "{gone}");
}
