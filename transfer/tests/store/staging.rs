//! Small files in packs, files that are staged while main runs, and which files are results.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use rustix::process::{Signal, kill_process};
use serde_json::json;

use crate::attempt::{Attempt, noise, objects, pid, visible};
use crate::proxy::Proxy;
use crate::weed::weed;

/// Fills the results folder with small files; what is to be seen afterwards.
fn small_files(job: &Attempt, number: usize) -> BTreeMap<String, Vec<u8>> {
    let mut want = BTreeMap::new();
    for n in 0..number {
        let (name, bytes) = (format!("d{}/ü {n}", n % 7), noise(n % 9000, n as u64));
        job.write(&name, &bytes);
        want.insert(format!("out/{name}"), bytes);
    }
    want
}

fn packs(bucket: &str) -> Vec<String> {
    objects(bucket, "out/.gpujob/staging/").into_keys().filter(|key| key.contains("/p/")).collect()
}

#[test]
fn a_thousand_small_files_are_staged_with_few_requests_and_published_whole() {
    let bucket = weed().bucket("packs");
    let mut job = Attempt::new("packs", 1, &bucket);
    let want = small_files(&job, 1000);
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let counter = Proxy::new(0, false);
    job.env.insert("AWS_ENDPOINT_URL_S3", counter.endpoint());
    let staged = job.stage();
    assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
    assert!(counter.requests() < 30, "{} requests for 4.5 MB", counter.requests());
    assert!(visible(&bucket).is_empty());
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert!(visible(&bucket) == want);
    assert!(objects(&bucket, "out/.gpujob/staging/").is_empty());
}

#[test]
fn files_of_a_pack_that_is_gone_are_lost_unless_they_are_at_their_keys() {
    for landed in [true, false] {
        let bucket = weed().bucket("pack-gone");
        let job = Attempt::new("pack-gone", 1, &bucket);
        let want = small_files(&job, 20);
        job.seal();
        let store = weed().store(&bucket);
        for (n, (key, bytes)) in want.iter().enumerate() {
            // An old file of the same name is no delivery.
            store.put(key, if landed || n != 7 { bytes } else { b"old" }).unwrap();
        }
        packs(&bucket).iter().for_each(|key| store.delete(key).unwrap());
        let committed = job.commit();
        assert_eq!(committed.says(), if landed { (0, "Committed") } else { (1, "StagedFileLost") }, "{}", committed.log);
    }
}

#[test]
fn old_files_are_overwritten_where_that_is_asked_for() {
    let bucket = weed().bucket("over");
    let mut job = Attempt::new("over", 1, &bucket);
    job.spec["results"]["onExisting"] = json!("Overwrite");
    let want = small_files(&job, 12);
    want.keys().for_each(|key| drop(weed().store(&bucket).put(key, b"old").unwrap()));
    job.seal();
    assert!(visible(&bucket).values().all(|bytes| bytes == b"old"));
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert!(visible(&bucket) == want);
}

#[test]
fn include_and_exclude_say_what_is_delivered() {
    let bucket = weed().bucket("globs");
    let mut job = Attempt::new("globs", 1, &bucket);
    job.spec["results"]["include"] = json!(["**/*.bin", "logs/"]);
    job.spec["results"]["exclude"] = json!(["tmp/", "**/*.part.bin"]);
    for name in ["model.bin", "deep/er/w.bin", "logs/a/b.txt", "readme", "tmp/x.bin", "deep/y.part.bin"] {
        job.write(name, name.as_bytes());
    }
    job.seal();
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert_eq!(visible(&bucket).into_keys().collect::<Vec<_>>(), ["out/deep/er/w.bin", "out/logs/a/b.txt", "out/model.bin"]);
    let mut bad = Attempt::new("globs", 2, &bucket);
    bad.spec["results"]["include"] = json!(["a["]);
    let refused = bad.run(&["stage"]);
    assert_eq!(refused.says(), (2, "InvalidSpec"), "{}", refused.log);
}

/// Maps files and writes to a page of each, which changes their times; told to, writes there again, which in memory does not.
const MAPS: &str = "
import mmap, sys
files = [open(name, 'r+b') for name in sys.argv[1:]]
maps = [mmap.mmap(file.fileno(), 0) for file in files]
for m in maps: m[500] = m[500]
print('mapped', flush=True)
sys.stdin.readline()
for m in maps: m[500:504] = b'MAIN'
print('written', flush=True)
sys.stdin.readline()
";

#[test]
fn what_was_written_through_a_map_after_it_was_staged_is_what_is_delivered() {
    let bucket = weed().bucket("mapped");
    let mut job = Attempt::new("mapped", 1, &bucket);
    job.env.insert("GPUJOB_REST_MS", "300".into());
    let memory = tempfile::tempdir_in("/dev/shm").unwrap();
    job.spec["results"]["path"] = memory.path().display().to_string().into();
    let mut want = BTreeMap::new();
    for (name, size) in [("small", 1000), ("medium", 1 << 20), ("large", 2 * PART as usize + 5)] {
        let bytes = noise(size, size as u64);
        fs::write(memory.path().join(name), &bytes).unwrap();
        want.insert(format!("out/{name}"), bytes);
    }
    let paths: Vec<_> = want.keys().map(|name| memory.path().join(name.trim_start_matches("out/"))).collect();
    let mut main = Command::new("python3");
    let mut main = main.args(["-c", MAPS]).args(&paths).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut tell, mut said) = (main.stdin.take().unwrap(), BufReader::new(main.stdout.take().unwrap()).lines());
    assert_eq!(said.next().unwrap().unwrap(), "mapped");
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let sidecar = job.start(&["stage"]);
    sidecar.says("staged 3 files");
    let times = || paths.iter().map(|path| fs::metadata(path).unwrap().modified().unwrap()).collect::<Vec<_>>();
    let before = times();
    tell.write_all(b"\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "written");
    assert_eq!(times(), before, "this test is of files whose times do not change");
    want.values_mut().for_each(|bytes| bytes[500..504].copy_from_slice(b"MAIN"));
    drop(tell);
    assert!(main.wait().unwrap().success());
    sidecar.signal(Signal::TERM);
    let sealed = sidecar.end();
    assert_eq!(sealed.says(), (0, "Sealed"), "{}", sealed.log);
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    for (name, bytes) in &visible(&bucket) {
        assert!(want[name] == *bytes, "{name} is not what the program left");
    }
    assert_eq!(visible(&bucket).len(), 3);
}

#[test]
fn what_rests_is_staged_while_main_runs_and_not_again_by_a_restarted_worker() {
    let bucket = weed().bucket("stream");
    let mut job = Attempt::new("stream", 1, &bucket);
    job.env.insert("GPUJOB_REST_MS", "300".into());
    let mut want = small_files(&job, 50);
    for name in ["same.bin", "changed.bin"] {
        let bytes = noise(2 * PART as usize + 5, name.len() as u64);
        job.write(name, &bytes);
        want.insert(format!("out/{name}"), bytes);
    }
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let counter = Proxy::new(0, false);
    job.env.insert("AWS_ENDPOINT_URL_S3", counter.endpoint());
    let sidecar = job.start(&["stage"]);
    sidecar.says("staged 52 files");
    assert!(visible(&bucket).is_empty() && packs(&bucket).len() == 1);
    // What changes, comes and goes after it was staged; one of them leaves size and name.
    let changed = noise(2 * PART as usize + 5, 99);
    job.write("changed.bin", &changed);
    job.write("d1/ü 1", b"X");
    job.write("late", b"late");
    fs::remove_file(job.results().join("d2/ü 2")).unwrap();
    want.insert("out/changed.bin".into(), changed);
    want.insert("out/d1/ü 1".into(), b"X".to_vec());
    want.insert("out/late".into(), b"late".to_vec());
    want.remove("out/d2/ü 2");
    let worker = sidecar.worker().expect("a worker");
    kill_process(pid(worker), Signal::KILL).unwrap();
    let began = Instant::now();
    while sidecar.worker().is_none_or(|now| now == worker) {
        assert!(began.elapsed() < Duration::from_secs(20), "no new worker");
        std::thread::sleep(Duration::from_millis(5));
    }
    let before = counter.requests();
    sidecar.signal(Signal::TERM);
    let sealed = sidecar.end();
    assert_eq!(sealed.says(), (0, "Sealed"), "{}", sealed.log);
    assert!(counter.requests() - before < 25, "{} requests for a large file and two small ones", counter.requests() - before);
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert!(visible(&bucket) == want);
    assert!(objects(&bucket, "out/.gpujob/staging/").is_empty());
}
