//! Inputs with `cache: true`: the node's next job of that namespace copies them from the node's disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use gpujob_transfer::checksum::sha256_hex;
use gpujob_transfer::store::ObjectStore;
use serde_json::{Value, json};

use crate::attempt::{Attempt, noise};
use crate::double::{Double, Manners};
use crate::faulty::{Fault, Faulty};
use crate::web::{Habits, Web};
use crate::weed::weed;

const SIZE: usize = 300_000;

/// A job on the node whose cache is `cache`, with this input.
fn job(cache: &Path, endpoint: String, input: &Value) -> Attempt {
    let mut job = Attempt::new("cached", 1, "no-bucket");
    job.spec["results"] = Value::Null;
    let mut input = input.clone();
    input["path"] = json!(job.folder.path().join("data"));
    input["cache"] = json!(true);
    job.spec["inputs"] = json!([input]);
    job.env.insert("AWS_ENDPOINT_URL_S3", endpoint);
    job.env.insert("GPUJOB_CACHE_DIR", cache.display().to_string());
    job
}

/// Its message and what lies at `name`.
fn fetched(job: &Attempt, name: &str) -> (String, Vec<u8>) {
    let ended = job.run(&["fetch"]);
    assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
    (ended.receipt().message.clone(), fs::read(job.folder.path().join("data").join(name)).unwrap())
}

fn entries(cache: &Path) -> Vec<PathBuf> {
    let names = |folder: &Path| -> Vec<PathBuf> { fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect() };
    names(&cache.join("entries")).iter().flat_map(|shard| names(shard)).collect()
}

#[test]
fn objects_are_copied_until_they_change() {
    let bucket = weed().bucket("cached");
    let store = weed().store(&bucket);
    let node = tempfile::tempdir().unwrap();
    // It counts data by breaking nothing: a second job must not move any.
    let proxy = Faulty::new(Fault::None);
    let input = json!({"from": format!("s3://{bucket}/in/")});
    let first = noise(SIZE, 1);
    store.put("in/a/x.bin", &first).unwrap();
    store.put("in/small", b"small").unwrap();
    let (message, bytes) = fetched(&job(node.path(), proxy.endpoint(), &input), "a/x.bin");
    assert!(bytes == first && !message.contains("cache"), "{message}");
    let moved = proxy.moved();
    let next = job(node.path(), proxy.endpoint(), &input);
    let (message, bytes) = fetched(&next, "a/x.bin");
    assert!(bytes == first && message.contains("2 files from the node's cache"), "{message}");
    assert_eq!(proxy.moved(), moved, "data was moved again");
    // Main writes to its input: nobody else sees it.
    fs::write(next.folder.path().join("data/a/x.bin"), b"mine").unwrap();
    // A disk that lies is found out.
    for entry in entries(node.path()) {
        let path = entry.join("data");
        let mut bytes = fs::read(&path).unwrap();
        bytes[0] ^= 1;
        fs::write(path, bytes).unwrap();
    }
    let (message, bytes) = fetched(&job(node.path(), proxy.endpoint(), &input), "a/x.bin");
    assert!(bytes == first && !message.contains("cache"), "{message}");
    // Another version is another content.
    let second = noise(SIZE, 2);
    store.put("in/a/x.bin", &second).unwrap();
    let (message, bytes) = fetched(&job(node.path(), proxy.endpoint(), &input), "a/x.bin");
    assert!(bytes == second && message.contains("1 file from the node's cache"), "{message}");
}

#[test]
fn an_object_that_is_replaced_while_it_is_fetched_is_kept_as_what_it_is() {
    // Of one size, so that nothing but the version tells them apart: read by one request, and by several.
    for size in [100_000, 600_000] {
        let (first, second) = (noise(size, 8), noise(size, 9));
        let double = Double::new(Manners { keeps: true, replaces: Some(second.clone()), ..Manners::default() });
        let store = double.store(&[]);
        store.put("in/x.bin", &first).unwrap();
        let node = tempfile::tempdir().unwrap();
        let input = json!({"from": "s3://bucket/in/x.bin"});
        let (message, bytes) = fetched(&job(node.path(), double.endpoint(), &input), "x.bin");
        assert!(bytes == second, "{size}: {message}");
        // Somebody puts the first one back: it has the version that it had, and its bytes must not be the second one's.
        store.put("in/x.bin", &first).unwrap();
        assert!(fetched(&job(node.path(), double.endpoint(), &input), "x.bin").1 == first, "{size}");
        store.put("in/x.bin", &second).unwrap();
        let (message, bytes) = fetched(&job(node.path(), double.endpoint(), &input), "x.bin");
        assert!(bytes == second && message.contains("1 file from the node's cache"), "{size}: {message}");
    }
}

#[test]
fn an_object_in_an_archive_is_told_at_once_with_what_to_do() {
    let double = Double::new(Manners { archived: true, ..Manners::default() });
    double.store(&[]).put("in/x.bin", &noise(600_000, 1)).unwrap();
    let node = tempfile::tempdir().unwrap();
    let input = json!({"from": "s3://bucket/in/x.bin"});
    for role in ["check", "fetch"] {
        let ended = job(node.path(), double.endpoint(), &input).run(&[role]);
        assert_eq!(ended.says(), (2, "ObjectArchived"), "{role}: {}", ended.log);
        assert!(ended.receipt().message.contains("restore the object first"), "{}", ended.receipt().message);
    }
}

#[test]
fn another_namespace_and_whoever_may_not_read_get_nothing_from_it() {
    let bucket = weed().bucket("cached-rights");
    weed().store(&bucket).put("in/x.bin", &noise(SIZE, 3)).unwrap();
    let node = tempfile::tempdir().unwrap();
    let input = json!({"from": format!("s3://{bucket}/in/x.bin")});
    fetched(&job(node.path(), weed().endpoint(), &input), "x.bin");
    let mut other = job(node.path(), weed().endpoint(), &input);
    other.spec["job"]["namespace"] = json!("another");
    assert!(!fetched(&other, "x.bin").0.contains("cache"));
    let mut denied = job(node.path(), weed().endpoint(), &input);
    denied.env.insert("AWS_SECRET_ACCESS_KEY", "wrong".into());
    let ended = denied.run(&["fetch"]);
    assert_eq!(ended.says(), (2, "InvalidCredentials"), "{}", ended.log);
}

/// As the init container of a template with `runAsUser: 1000`, in the folder that the node's user data makes. Needs root.
#[test]
fn every_user_has_a_cache_of_its_own() {
    if !rustix::process::geteuid().is_root() {
        return eprintln!("not root: cannot be another user");
    }
    let bucket = weed().bucket("cached-users");
    let bytes = noise(SIZE, 7);
    weed().store(&bucket).put("in/x.bin", &bytes).unwrap();
    let node = tempfile::tempdir().unwrap();
    let open = |path: &Path| fs::set_permissions(path, fs::Permissions::from_mode(0o1777)).unwrap();
    open(node.path());
    let input = json!({"from": format!("s3://{bucket}/in/x.bin")});
    let by = |user: Option<&'static str>| {
        let mut job = job(node.path(), weed().endpoint(), &input);
        if let Some(user) = user {
            job.by = vec!["setpriv", "--reuid", user, "--regid", "3000", "--clear-groups"];
            for path in [job.folder.path().to_owned(), job.folder.path().join("state")] {
                open(&path);
            }
        }
        let (message, found) = fetched(&job, "x.bin");
        assert!(found == bytes);
        message
    };
    for user in [Some("1000"), None, Some("1001")] {
        assert!(!by(user).contains("cache"), "{user:?}: of somebody else's");
        assert!(by(user).contains("1 file from the node's cache"), "{user:?}");
    }
}

#[test]
fn a_url_is_asked_once() {
    let body = noise(SIZE, 4);
    let web = Web::new(Habits { body: body.clone(), ..Habits::default() });
    let node = tempfile::tempdir().unwrap();
    let input = json!({"from": web.url("/weights.bin"), "checksum": format!("sha256:{}", sha256_hex(&body))});
    assert!(fetched(&job(node.path(), weed().endpoint(), &input), "weights.bin").1 == body);
    let asked = web.asked().len();
    let (message, bytes) = fetched(&job(node.path(), weed().endpoint(), &input), "weights.bin");
    assert!(bytes == body && message.contains("cache"), "{message}");
    assert_eq!(web.asked().len(), asked);
}

#[test]
fn two_jobs_at_once_fetch_it_once_and_a_cache_that_is_no_folder_harms_nobody() {
    let bucket = weed().bucket("cached-race");
    let bytes = noise(4_000_000, 5);
    weed().store(&bucket).put("in/x.bin", &bytes).unwrap();
    let node = tempfile::tempdir().unwrap();
    let proxy = Faulty::new(Fault::None);
    let input = json!({"from": format!("s3://{bucket}/in/x.bin")});
    let jobs: Vec<_> = (0..4).map(|_| job(node.path(), proxy.endpoint(), &input)).collect();
    let running: Vec<_> = jobs.iter().map(|job| job.start(&["fetch"])).collect();
    for (running, job) in running.into_iter().zip(&jobs) {
        let ended = running.end();
        assert_eq!(ended.says(), (0, "Done"), "{}", ended.log);
        assert!(fs::read(job.folder.path().join("data/x.bin")).unwrap() == bytes);
    }
    assert_eq!(proxy.moved(), 1);
    let file = node.path().join("a-file");
    fs::write(&file, b"").unwrap();
    let (message, got) = fetched(&job(&file, proxy.endpoint(), &input), "x.bin");
    assert!(got == bytes && !message.contains("cache"), "{message}");
}
