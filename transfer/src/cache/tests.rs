#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use super::*;

struct Node {
    folder: tempfile::TempDir,
    downloads: AtomicU32,
}

impl Node {
    fn new() -> Node {
        Node { folder: tempfile::tempdir().unwrap(), downloads: AtomicU32::new(0) }
    }

    fn cache(&self, limit: u64) -> Cache {
        Cache::open(&self.folder.path().join("cache"), Some(limit)).unwrap()
    }

    /// One job's use of the cache: what it got, and from where.
    fn job(&self, cache: &Cache, name: &str, bytes: &[u8]) -> (Served, PathBuf) {
        let into = self.folder.path().join(format!("job-{}", crate::checksum::nonce()));
        let served = cache.place(&Key::of(&[name]), bytes.len() as u64, &into, |path| {
            self.downloads.fetch_add(1, Ordering::Relaxed);
            fs::write(path, bytes).map_err(|e| Fault::disk("x", &e))
        });
        assert_eq!(fs::read(&into).unwrap(), bytes, "{name}");
        (served.unwrap(), into)
    }

    fn downloads(&self) -> u32 {
        self.downloads.load(Ordering::Relaxed)
    }

    fn left(&self) -> Vec<PathBuf> {
        fs::read_dir(self.folder.path().join("cache/filling")).unwrap().map(|e| e.unwrap().path()).collect()
    }
}

#[test]
fn the_next_job_copies_and_may_write_to_its_copy() {
    let node = Node::new();
    let bytes = vec![7u8; 3 << 20];
    let (served, into) = node.job(&node.cache(1 << 30), "a", &bytes);
    assert_eq!(served, Served::Filled);
    fs::write(into, b"main wrote here").unwrap();
    for _ in 0..2 {
        assert_eq!(node.job(&node.cache(1 << 30), "a", &bytes).0, Served::Hit);
    }
    assert_eq!(node.downloads(), 1);
    assert_eq!(node.job(&node.cache(1 << 30), "empty", b"").0, Served::Filled);
    assert_eq!(node.job(&node.cache(1 << 30), "empty", b"").0, Served::Hit);
    assert!(node.left().is_empty(), "{:?}", node.left());
}

#[test]
fn what_is_damaged_is_fetched_again() {
    let node = Node::new();
    let cache = node.cache(1 << 30);
    let bytes = vec![7u8; 200_000];
    let key = Key::of(&["a"]);
    let folder = cache.root.join("entries").join(key.shard()).join(&key.0);
    let damages: [&dyn Fn(); 4] = [
        &|| {
            let mut damaged = bytes.clone();
            damaged[100_000] ^= 1;
            fs::write(folder.join("data"), damaged).unwrap();
        },
        &|| fs::write(folder.join("data"), &bytes[..1000]).unwrap(),
        &|| fs::write(folder.join("sum"), b"").unwrap(),
        &|| fs::remove_file(folder.join("sum")).unwrap(),
    ];
    for damage in damages {
        node.job(&cache, "a", &bytes);
        let before = node.downloads();
        damage();
        assert_eq!(node.job(&cache, "a", &bytes).0, Served::Filled);
        assert_eq!(node.downloads(), before + 1);
        assert_eq!(node.job(&cache, "a", &bytes).0, Served::Hit);
    }
}

#[test]
fn jobs_that_want_the_same_at_once_fetch_it_once() {
    let node = Node::new();
    let bytes = vec![9u8; 500_000];
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Each with its own open files, as processes have.
                let into = node.folder.path().join(format!("job-{}", crate::checksum::nonce()));
                let key = Key::of(&["shared"]);
                let placed = node.cache(1 << 30).place(&key, bytes.len() as u64, &into, |path| {
                    node.downloads.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(100));
                    fs::write(path, &bytes).map_err(|e| Fault::disk("x", &e))
                });
                placed.unwrap();
                assert!(fs::read(into).unwrap() == bytes);
            });
        }
    });
    assert_eq!(node.downloads(), 1);
}

#[test]
fn it_stays_within_its_bound_and_keeps_what_was_used_lately() {
    let node = Node::new();
    let cache = || node.cache(1000);
    let bytes = vec![1u8; 400];
    node.job(&cache(), "old", &bytes);
    node.job(&cache(), "used", &bytes);
    let ago = |name: &str, seconds: u64| {
        let entry = entry::open(&cache().root, &Key::of(&[name])).unwrap();
        entry.data.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
    };
    ago("old", 50);
    ago("used", 100);
    assert_eq!(node.job(&cache(), "used", &bytes).0, Served::Hit);
    node.job(&cache(), "new", &bytes);
    assert!(entry::open(&cache().root, &Key::of(&["old"])).is_none(), "used least lately");
    assert_eq!(node.job(&cache(), "used", &bytes).0, Served::Hit);
    assert_eq!(node.job(&cache(), "new", &bytes).0, Served::Hit);
    // What does not fit at all goes past it, and pushes nothing out.
    assert_eq!(node.job(&cache(), "huge", &vec![2u8; 1001]).0, Served::Around);
    assert_eq!(node.job(&cache(), "used", &bytes).0, Served::Hit);
}

#[test]
fn what_a_killed_job_has_left_is_taken_over_and_counted_no_more() {
    let node = Node::new();
    let cache = node.cache(1000);
    let (a, b) = (Key::of(&["a"]), Key::of(&["b"]));
    for key in [&a, &b] {
        let filling = cache.root.join("filling").join(&key.0);
        fs::write(&filling, b"half of it").unwrap();
        fs::write(room::size_of(&filling), b"900").unwrap();
    }
    assert_eq!(node.job(&cache, "a", &[3u8; 500]).0, Served::Filled);
    assert_eq!(node.job(&cache, "a", &[3u8; 500]).0, Served::Hit);
    assert!(node.left().is_empty(), "{:?}", node.left());
}

#[test]
fn a_failed_download_leaves_nothing_and_a_broken_cache_costs_only_its_use() {
    let node = Node::new();
    let cache = node.cache(1 << 20);
    let into = node.folder.path().join("into");
    let denied = cache.place(&Key::of(&["a"]), 10, &into, |_| Err(Fault::permanent(reason::ACCESS_DENIED, "no".into())));
    assert_eq!(denied.unwrap_err().reason, reason::ACCESS_DENIED);
    assert!(node.left().is_empty() && !into.exists());
    // The cache's disk is full, the job's is not.
    let placed = cache.place(&Key::of(&["a"]), 10, &into, |path| {
        if path != into {
            return Err(Fault::disk("the cache", &io::Error::from_raw_os_error(28)));
        }
        fs::write(path, b"0123456789").map_err(|e| Fault::disk("x", &e))
    });
    assert_eq!(placed.unwrap(), Served::Around);
    assert_eq!(fs::read(&into).unwrap(), b"0123456789");
    let file = node.folder.path().join("a-file");
    fs::write(&file, b"").unwrap();
    assert!(Cache::open(&file, None).is_none());
    let usual = Cache::open(&node.folder.path().join("another"), None).unwrap();
    assert!(usual.limit > 0);
}

#[test]
fn keys_of_other_parts_are_other_keys() {
    assert_ne!(Key::of(&["ab", "c"]), Key::of(&["a", "bc"]));
    assert_ne!(Key::of(&["a"]), Key::of(&["a", ""]));
}
