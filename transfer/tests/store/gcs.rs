//! Google Cloud Storage: checks on CRC-32C and MD5, conditions on generations, uploads composed of parts.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::sync::Barrier;

use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use gpujob_transfer::spec::Integrity;
use gpujob_transfer::store::conditional::{self, Conditional};
use gpujob_transfer::store::gcs::Gcs;
use gpujob_transfer::store::{Class, Condition, ObjectStore, Stretch, read};
use serde_json::json;

use crate::attempt::{Attempt, noise};
use crate::emulator::{Meddle, emulator};

fn text(body: &[u8]) -> String {
    crc64nvme_text(crc64nvme(body))
}

fn objects(store: &Gcs) -> BTreeMap<String, Vec<u8>> {
    let listed = store.list("", None).unwrap().objects;
    listed.into_iter().map(|(key, _)| (key.clone(), read(store, &key, 1 << 30).unwrap().unwrap().0)).collect()
}

#[test]
fn objects_keep_checksums_also_when_copied() {
    let store = emulator().store(&emulator().bucket("sums"));
    for (name, body) in [("empty", vec![]), ("a b/ü+%20&?#", noise(1000, 1)), ("large", noise(3 << 20, 2))] {
        let version = store.put(name, &body).unwrap();
        store.copy(name, &format!("copy of {name}")).unwrap();
        for key in [name, &format!("copy of {name}")] {
            let info = store.head(key).unwrap().unwrap();
            assert_eq!((info.size, info.sums.crc64nvme), (body.len() as u64, Some(text(&body))), "{key}");
            assert!(info.sums.crc32c.is_some() && info.sums.md5.is_some());
            assert!(read(&store, key, 1 << 30).unwrap().unwrap().0 == body, "{key}");
        }
        assert_eq!(store.head(name).unwrap().unwrap().version, version);
    }
    assert_eq!(store.read_range("large", 1000, 1005).unwrap(), noise(3 << 20, 2)[1000..1005]);
    assert_eq!(store.read_range("large", 5, 5).unwrap(), b"");
    assert_eq!(store.read_range("nothing", 0, 1).unwrap_err().class, Class::NotFound);
    let listed: Vec<_> = store.list("a b/", None).unwrap().objects;
    assert_eq!(listed, [("a b/ü+%20&?#".to_string(), 1000)]);
    assert_eq!(store.head("nothing").unwrap(), None);
    assert_eq!(store.copy("nothing", "x").unwrap_err().class, Class::NotFound);
    assert!(read(&store, "nothing", 10).unwrap().is_none());
    store.delete("nothing").unwrap();
    assert_eq!(emulator().store("no-such-bucket").list("", None).unwrap_err().class, Class::BucketNotFound);
}

#[test]
fn writes_are_conditional_on_generations() {
    let store = emulator().store(&emulator().bucket("conditions"));
    assert_eq!(conditional::probe(&store, "out/").unwrap(), Conditional::Honoured);
    assert!(objects(&store).is_empty());
    let mut version: Option<String> = None;
    for round in 0..20 {
        let start = Barrier::new(8);
        let put = &|racer: usize| {
            let body = format!("round {round} racer {racer}");
            start.wait();
            store.put_if("epoch", body.as_bytes(), version.as_deref().map_or(Condition::Absent, Condition::Version))
        };
        let outcomes: Vec<_> = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8).map(|racer| scope.spawn(move || put(racer))).collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        let won: Vec<_> = outcomes.iter().filter_map(|o| o.as_ref().ok()).collect();
        assert_eq!(won.len(), 1, "round {round}: {outcomes:?}");
        for lost in outcomes.iter().filter_map(|o| o.as_ref().err()) {
            assert_eq!(lost.class, Class::PreconditionFailed, "{lost}");
        }
        version = Some(won[0].clone());
    }
}

#[test]
fn an_upload_is_composed_and_completing_twice_is_told() {
    let store = emulator().store(&emulator().bucket("upload"));
    // More parts than one composition takes, and a last one that is shorter.
    let body = noise(70 * 1000 + 123, 3);
    let begin = || {
        let id = store.create_upload("out/big").unwrap();
        let parts: Vec<_> =
            body.chunks(1000).enumerate().map(|(n, piece)| store.upload_part("out/big", &id, n as u32 + 1, piece).unwrap()).collect();
        (id, parts)
    };
    let (id, parts) = begin();
    assert_eq!(parts.len(), 71);
    let listed = store.list_parts("out/big", &id).unwrap().unwrap();
    assert_eq!(listed.iter().map(|part| part.0).collect::<Vec<_>>(), (1..=71).collect::<Vec<_>>());
    assert_eq!(listed.into_iter().map(|part| part.1).collect::<Vec<_>>(), parts);
    assert!(objects(&store).keys().all(|key| key.starts_with("out/.gpujob/staging/")), "parts are out of sight");
    assert!(store.holds_upload("out/big", &id, &parts).unwrap());
    store.complete_upload("out/big", &id, &parts, &text(&body)).unwrap();
    let info = store.head("out/big").unwrap().unwrap();
    assert_eq!((info.size, info.sums.crc64nvme), (body.len() as u64, Some(text(&body))));
    let found = objects(&store);
    assert!(found.len() == 1 && found["out/big"] == body, "{:?}", found.keys());
    assert_eq!(store.complete_upload("out/big", &id, &parts, &text(&body)).unwrap_err().class, Class::NoSuchUpload);
    // A part that was sent again is not the one that was sealed.
    let (id, parts) = begin();
    store.upload_part("out/big", &id, 7, b"later").unwrap();
    assert!(!store.holds_upload("out/big", &id, &parts).unwrap());
    assert_eq!(store.complete_upload("out/big", &id, &parts, &text(&body)).unwrap_err().class, Class::NoSuchUpload);
    store.abort_upload("out/big", &id).unwrap();
    assert_eq!(objects(&store).len(), 1);
    assert_eq!(store.list_parts("out/big", &id).unwrap(), None);
}

#[test]
fn what_a_damaged_journal_names_is_not_removed() {
    let bucket = emulator().bucket("journal");
    let store = emulator().store(&bucket);
    let upload = store.create_upload("out/big").unwrap();
    store.upload_part("out/big", &upload, 1, b"a part of it").unwrap();
    let another = store.create_upload("out/other").unwrap();
    store.upload_part("out/other", &another, 1, b"a part").unwrap();
    store.put("precious", b"of somebody else").unwrap();
    store.put("out/result", b"committed").unwrap();
    let mut job = Attempt::new("journal", 1, &bucket);
    job.env.retain(|name, _| !name.starts_with("AWS_"));
    job.env.insert("STORAGE_EMULATOR_HOST", emulator().host());
    job.spec["results"]["to"] = json!(format!("gs://{bucket}/out/"));
    job.spec["results"]["onExisting"] = json!("Overwrite");
    assert_eq!(job.run(&["fetch"]).says(), (0, "Done"));
    let before = objects(&store);
    for (n, id) in ["", "out/", "out/.gpujob/staging/parts/", "out/re", &another[..another.len() - 3]].iter().enumerate() {
        let journal = json!({"key": "big", "uploadId": id}).to_string();
        store.put(&format!("out/.gpujob/staging/1-{}/x/u/{n:08}-0.json", job.pod), journal.as_bytes()).unwrap();
    }
    store
        .put(&format!("out/.gpujob/staging/1-{}/x/u/ok.json", job.pod), json!({"key": "big", "uploadId": upload}).to_string().as_bytes())
        .unwrap();
    let discarded = job.run(&["discard"]);
    assert_eq!(discarded.says(), (0, "Discarded"), "{}", discarded.log);
    let after = objects(&store);
    let gone: Vec<_> = before.keys().filter(|key| !after.contains_key(*key)).collect();
    assert_eq!(gone, [&format!("{upload}00001")], "only what a whole journal names");
}

#[test]
fn a_stretch_of_a_file_is_sent_as_it_was_summed_or_not_at_all() {
    let bucket = emulator().bucket("stretch");
    let body = noise((3 << 20) + 77, 9);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &body).unwrap();
    let opened = fs::File::open(file.path()).unwrap();
    for wanted in [None, Some(Integrity::Md5), Some(Integrity::None)] {
        let store = emulator().store(&bucket).checked_by(wanted, "out/");
        let stretch = || Stretch::read(&opened, 5, 2 << 20).unwrap().unwrap();
        store.put_stretch("one", &stretch()).unwrap();
        let info = store.head("one").unwrap().unwrap();
        assert_eq!((info.size, info.sums.crc64nvme), (2 << 20, Some(text(&body[5..5 + (2 << 20)]))), "{wanted:?}");
        assert!(read(&store, "one", 1 << 30).unwrap().unwrap().0 == body[5..5 + (2 << 20)]);
        let id = store.create_upload("whole").unwrap();
        let parts: Vec<_> = [(0, 1 << 20), (1 << 20, (2 << 20) + 77)]
            .iter()
            .zip(1..)
            .map(|((from, length), n)| {
                store.upload_stretch("whole", &id, n, &Stretch::read(&opened, *from, *length).unwrap().unwrap()).unwrap()
            })
            .collect();
        store.complete_upload("whole", &id, &parts, &text(&body)).unwrap();
        assert!(read(&store, "whole", 1 << 30).unwrap().unwrap().0 == body, "{wanted:?}");
        // Written to after it was summed.
        let before = stretch();
        fs::write(file.path(), [&body[..100], b"MAIN", &body[104..]].concat()).unwrap();
        assert_eq!(store.put_stretch("other", &before).unwrap_err().class, Class::BadDigest, "{wanted:?}");
        assert_eq!(store.head("other").unwrap(), None);
        fs::write(file.path(), &body).unwrap();
    }
    // What is damaged on its way is sent again.
    let stretch = Stretch::read(&opened, 0, body.len() as u64).unwrap().unwrap();
    emulator().behind(&bucket, Meddle::FlipsUpload).put_stretch("x", &stretch).unwrap();
    assert!(objects(&emulator().store(&bucket))["x"] == body);
}

#[test]
fn the_kind_of_check_is_the_jobs_to_choose() {
    let bucket = emulator().bucket("kinds");
    for (wanted, name) in [(None, "crc32c"), (Some(Integrity::Md5), "md5"), (Some(Integrity::None), "none")] {
        let store = emulator().store(&bucket).checked_by(wanted, "out/");
        assert_eq!(store.integrity().unwrap(), name);
        store.put(name, b"body").unwrap();
    }
    for kind in [Integrity::Crc64nvme, Integrity::Sha256] {
        let store = emulator().store(&bucket).checked_by(Some(kind), "out/");
        assert_eq!(store.put("x", b"x").unwrap_err().class, Class::NotHonoured);
    }
    let stopped = emulator().store(&bucket).get("md5", &mut |_| ControlFlow::Break(()));
    assert_eq!(stopped.unwrap_err().class, Class::Stopped);
}

#[test]
fn what_is_damaged_or_cut_off_on_its_way_arrives_whole() {
    let bucket = emulator().bucket("damage");
    let body = noise(1 << 20, 5);
    // The store refuses other bytes than those announced, and is sent them again.
    emulator().behind(&bucket, Meddle::FlipsUpload).put("x", &body).unwrap();
    assert!(objects(&emulator().store(&bucket))["x"] == body);
    // A download goes on where it was: the sink gets every byte once.
    let got = read(&emulator().behind(&bucket, Meddle::CutsDownload), "x", 1 << 30).unwrap().unwrap().0;
    assert!(got == body, "{} bytes", got.len());
}

#[test]
fn an_object_that_is_replaced_while_it_is_read_is_not_absent() {
    let bucket = emulator().bucket("replaced");
    emulator().store(&bucket).put("x", b"old").unwrap();
    let (bytes, info) = read(&emulator().behind(&bucket, Meddle::Replaces), "x", 100).unwrap().expect("it was there all the time");
    assert_eq!((bytes.as_slice(), info.sums.crc64nvme), (&b"new"[..], Some(text(b"new"))));
    assert_eq!(emulator().store(&bucket).head("x").unwrap().unwrap().version, info.version);
}

#[test]
fn a_job_is_delivered_whole() {
    let bucket = emulator().bucket("job");
    let mut job = Attempt::new("google", 1, &bucket);
    job.env.retain(|name, _| !name.starts_with("AWS_"));
    job.env.insert("STORAGE_EMULATOR_HOST", emulator().host());
    let store = emulator().store(&bucket);
    store.put("in/a b.csv", b"1,2,3").unwrap();
    let (small, large) = (noise(1234, 1), noise((17 << 20) + 5, 2));
    store.put("in/large.bin", &large).unwrap();
    let data = job.folder.path().join("data");
    job.spec["inputs"] = json!([{"from": format!("gs://{bucket}/in/"), "path": data}]);
    job.spec["results"]["to"] = json!(format!("gs://{bucket}/out/"));
    job.write("small.bin", &small);
    job.write("sub/large.bin", &large);
    job.write("metrics.json", b"{\"accuracy\":1}");
    job.seal();
    assert!(fs::read(data.join("large.bin")).unwrap() == large);
    assert_eq!(fs::read(data.join("a b.csv")).unwrap(), b"1,2,3");
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert_eq!((&committed.receipt().published_under, committed.receipt().files), (&None, 3));
    let mut found = objects(&store);
    found.retain(|key, _| !key.starts_with("in/"));
    let control: Vec<_> = found.keys().filter(|key| key.contains(".gpujob/")).cloned().collect();
    assert_eq!(control, ["out/.gpujob/epoch", "out/.gpujob/manifest.json", "out/.gpujob/receipt"]);
    assert!(found["out/small.bin"] == small && found["out/sub/large.bin"] == large);
    assert_eq!(job.run(&["resolve"]).says(), (93, "AlreadyCommitted"));
}
