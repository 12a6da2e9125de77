//! Something staged is gone when the commit comes: the attempt is lost whole, and what was landed before a crash is not lost.

use gpujob_transfer::plan::{PART, Plan, Staged};
use gpujob_transfer::store::ObjectStore;

use crate::attempt::{Attempt, noise, objects, visible};
use crate::weed::weed;

const OBJECT: &str = "medium.bin";
const UPLOAD: &str = "large.bin";

/// A sealed attempt with packed files, a staged object and an upload, and its plan.
fn sealed(bucket: &str) -> (Attempt, Plan) {
    let job = Attempt::new("lost", 1, bucket);
    for n in 0..20 {
        job.write(&format!("small/{n}"), &noise(500, n));
    }
    job.write(OBJECT, &noise(1 << 20, 33));
    job.write(UPLOAD, &noise(PART as usize + 99, 34));
    job.seal();
    let staged = objects(bucket, "out/.gpujob/staging/");
    let plan = staged.iter().find(|(key, _)| key.ends_with("/plan.json")).expect("a plan").1;
    (job, serde_json::from_slice(plan).unwrap())
}

fn staged<'a>(plan: &'a Plan, path: &str) -> &'a Staged {
    &plan.items.iter().find(|item| item.file.path == path).expect("it is planned").staged
}

/// Takes away what holds that file's bytes.
fn lose(bucket: &str, plan: &Plan, path: &str) {
    let store = weed().store(bucket);
    match staged(plan, path) {
        Staged::Object { key } | Staged::Pack { key, .. } => store.delete(&format!("out/{key}")).unwrap(),
        Staged::Upload { upload_id, .. } => store.abort_upload(&format!("out/{path}"), upload_id).unwrap(),
    }
}

#[test]
fn nothing_is_visible_of_an_attempt_of_which_anything_is_gone() {
    for path in ["small/7", OBJECT, UPLOAD] {
        let bucket = weed().bucket("lost");
        let (job, plan) = sealed(&bucket);
        lose(&bucket, &plan, path);
        let committed = job.commit();
        assert_eq!(committed.says(), (1, "StagedFileLost"), "{path}: {}", committed.log);
        assert_eq!(visible(&bucket).into_keys().collect::<Vec<_>>(), Vec::<String>::new(), "{path}");
        // The attempt is run again and finds a clean place.
        let next = Attempt::new("lost", 2, &bucket);
        next.write("answer", b"42");
        next.seal();
        let committed = next.commit();
        assert_eq!(committed.says(), (0, "Committed"), "{path}: {}", committed.log);
        assert_eq!(visible(&bucket).into_keys().collect::<Vec<_>>(), ["out/answer"], "{path}");
    }
}

#[test]
fn what_was_landed_before_a_crash_counts_though_it_is_staged_no_more() {
    let bucket = weed().bucket("landed");
    let (job, plan) = sealed(&bucket);
    let store = weed().store(&bucket);
    let Staged::Upload { upload_id, parts } = staged(&plan, UPLOAD) else { panic!("it is an upload") };
    let sum = |path: &str| &plan.items.iter().find(|item| item.file.path == path).unwrap().file.crc64nvme;
    store.complete_upload(&format!("out/{UPLOAD}"), upload_id, parts, sum(UPLOAD)).unwrap();
    assert!(!store.holds_upload(&format!("out/{UPLOAD}"), upload_id, parts).unwrap());
    let Staged::Object { key } = staged(&plan, OBJECT) else { panic!("it is an object") };
    store.copy(&format!("out/{key}"), &format!("out/{OBJECT}")).unwrap();
    lose(&bucket, &plan, OBJECT);
    store.put("out/small/3", &noise(500, 3)).unwrap();
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert_eq!(visible(&bucket).len(), 22);
    assert!(visible(&bucket)["out/large.bin"] == noise(PART as usize + 99, 34));
}
