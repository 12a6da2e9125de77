//! What networks, disks and busy stores do: everything arrives whole, byte by byte, or the reason is the right one and nothing is
//! visible.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpujob_transfer::plan::PART;
use gpujob_transfer::receipt::Receipt;
use gpujob_transfer::store::ObjectStore;
use serde_json::json;

use crate::attempt::{Attempt, noise, visible};
use crate::double::{Double, Manners};
use crate::faulty::{Fault, Faulty};
use crate::weed::weed;

/// Small files, one of several parts, and an empty one.
fn files() -> BTreeMap<String, Vec<u8>> {
    let mut files: BTreeMap<_, _> = (0..6u64).map(|n| (format!("part/{n}.bin"), noise(30_000, n + 1))).collect();
    files.insert("large.bin".into(), noise(2 * PART as usize + 12_345, 77));
    files.insert("empty".into(), vec![]);
    files
}

/// An attempt whose inputs lie in `bucket`, and which speaks to the store through `proxy`.
fn attempt(uid: &str, bucket: &str, proxy: &Faulty) -> Attempt {
    let store = weed().store(bucket);
    for (name, bytes) in files() {
        store.put(&format!("in/{name}"), &bytes).unwrap();
    }
    let mut job = Attempt::new(uid, 1, bucket);
    job.spec["inputs"] = json!([{"from": format!("s3://{bucket}/in/"), "path": job.folder.path().join("data")}]);
    job.env.insert("AWS_ENDPOINT_URL_S3", proxy.endpoint());
    job
}

fn fetched(job: &Attempt) -> BTreeMap<String, Vec<u8>> {
    fn walk(root: &Path, folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, into);
            } else {
                into.insert(path.strip_prefix(root).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    let (mut found, root) = (BTreeMap::new(), job.folder.path().join("data"));
    walk(&root, &root, &mut found);
    found
}

/// The whole life of an attempt while `fault` goes on.
fn survives(name: &str, fault: Fault) {
    let bucket = weed().bucket(name);
    let proxy = Faulty::new(fault);
    let job = attempt(name, &bucket, &proxy);
    for (name, bytes) in files() {
        job.write(&name, &bytes);
    }
    job.seal();
    assert!(fetched(&job) == files(), "inputs are not what was stored");
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    let delivered: BTreeMap<_, _> = visible(&bucket).into_iter().map(|(key, bytes)| (key.replacen("out/", "", 1), bytes)).collect();
    assert!(delivered == files(), "results are not what was written");
    assert!(proxy.struck() > 0, "nothing went wrong");
}

#[test]
fn bits_that_flip_on_the_way_up() {
    survives("flips-up", Fault::FlipUp(5));
}

#[test]
fn bits_that_flip_on_the_way_down() {
    survives("flips-down", Fault::FlipDown(2));
}

#[test]
fn a_store_that_answers_503_half_of_the_time() {
    survives("slow-down", Fault::SlowDown);
}

#[test]
fn connections_that_break_in_the_middle_of_data() {
    survives("drops", Fault::Drop);
}

#[test]
fn bytes_that_are_never_right_have_their_reason() {
    let bucket = weed().bucket("always-flips");
    let proxy = Faulty::new(Fault::FlipDown(u32::MAX));
    let job = attempt("always-flips", &bucket, &proxy);
    let ended = job.run(&["fetch"]);
    assert_eq!(ended.says(), (1, "ChecksumMismatch"), "{}", ended.log);
    assert!(fetched(&job).values().all(|bytes| files().values().any(|good| good == bytes)), "a damaged input has a name");
    // What is damaged on its way to the store is refused there.
    proxy.now(Fault::None);
    job.write("large.bin", &noise(40_000, 5));
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    proxy.now(Fault::FlipUp(u32::MAX));
    // The sidecar does not give up on what may pass: it is asked once, and then ended.
    let sidecar = job.start(&["stage-worker", "--ending"]);
    let ended = sidecar.end();
    assert_eq!(ended.says(), (1, "ChecksumMismatch"), "{}", ended.log);
    assert!(visible(&bucket).is_empty());
}

/// Runs `fetch` with a small disk at `folder`, in a mount namespace of its own.
fn with_disk(job: &Attempt, folder: &Path, size: &str) -> (Option<i32>, Receipt) {
    fs::create_dir_all(folder).unwrap();
    let termination = job.folder.path().join("small.termination");
    let script = r#"mount -t tmpfs -o size="$1" none "$0" && exec "$2" fetch"#;
    let status = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .arg(folder)
        .arg(size)
        .arg(env!("CARGO_BIN_EXE_gpujob-transfer"))
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .envs(&job.env)
        .env("GPUJOB_TRANSFER", job.spec.to_string())
        .env("GPUJOB_POD_UID", &job.pod)
        .env("GPUJOB_TERMINATION_LOG", &termination)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("unshare, of util-linux, is there");
    (status.code(), Receipt::parse(&fs::read_to_string(&termination).expect("a receipt")).unwrap())
}

#[test]
fn a_disk_that_is_full() {
    let bucket = weed().bucket("disk-full");
    let proxy = Faulty::new(Fault::None);
    let mut job = attempt("disk-full", &bucket, &proxy);
    let data = job.folder.path().join("data");
    for cache in [false, true] {
        job.spec["inputs"][0]["cache"] = json!(cache);
        job.env.insert("GPUJOB_CACHE_DIR", job.folder.path().join("cache").display().to_string());
        let (code, receipt) = with_disk(&job, &data, "1m");
        assert_eq!((code, receipt.reason.as_str()), (Some(2), "DiskFull"), "{}", receipt.message);
        assert!(receipt.message.contains("ephemeral-storage"), "{}", receipt.message);
    }
}

#[test]
fn a_disk_with_room_for_one_copy_is_the_jobs_and_not_the_caches() {
    let bucket = weed().bucket("disk-shared");
    let proxy = Faulty::new(Fault::None);
    let mut job = attempt("disk-shared", &bucket, &proxy);
    let disk = job.folder.path().join("disk");
    job.spec["inputs"][0]["path"] = json!(disk.join("data"));
    job.spec["inputs"][0]["cache"] = json!(true);
    job.env.insert("GPUJOB_CACHE_DIR", disk.join("cache").display().to_string());
    job.env.insert("GPUJOB_CACHE_BYTES", "1000000000".into());
    // 17 MB of inputs.
    let (code, receipt) = with_disk(&job, &disk, "24m");
    assert_eq!((code, receipt.reason.as_str()), (Some(0), "Done"), "{}", receipt.message);
}

#[test]
fn a_clock_that_is_wrong_is_corrected_by_the_stores() {
    for off in [-7200, 7200] {
        let double = Double::new(Manners { clock: off, ..Manners::default() });
        let mut job = Attempt::new("skewed", 1, "bucket");
        job.env.insert("AWS_ENDPOINT_URL_S3", double.endpoint());
        job.write("x.txt", b"x");
        job.seal();
        let committed = job.commit();
        assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
        assert!(committed.log.contains("clock"), "{}", committed.log);
    }
}

#[test]
fn a_mistyped_endpoint_is_told_in_seconds() {
    let mut job = Attempt::new("mistyped", 1, "any-bucket");
    job.env.insert("AWS_ENDPOINT_URL_S3", "http://no-such-host.invalid:9000".into());
    let began = Instant::now();
    let ended = job.run(&["fetch"]);
    let message = &ended.receipt().message;
    assert_eq!(ended.receipt().reason, "StoreUnreachable", "{message}");
    assert!(message.contains("no-such-host.invalid") && message.contains("AWS_ENDPOINT_URL_S3"), "{message}");
    // Where no name server answers at all, it may pass.
    let limit = if ended.code == Some(2) { 10 } else { 26 };
    assert!(began.elapsed() < Duration::from_secs(limit), "{:?}", began.elapsed());
}
