//! Keeping the cache within its bound: what was used least lately goes.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::{Cache, Key, entry, open_lock};

/// A process looks how full the cache is when it has added this part of its bound: so that ten thousand small files do not mean ten
/// thousand looks. The cache may exceed its bound by that much for each job that is fetching.
const PART: u64 = 64;
/// What nobody fills any more is removed after that time, if it has no lock to tell.
const OLD: Duration = Duration::from_secs(3600);

/// Half of what the disk of `root` would have free without the cache.
pub(super) fn half(root: &Path) -> io::Result<u64> {
    let disk = rustix::fs::statvfs(root)?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let held: u64 = entries(root).iter().map(|entry| entry.size).sum();
    Ok((free.saturating_add(held)) / 2)
}

/// Where it is written how large a file that is being filled will be.
pub(super) fn size_of(filling: &Path) -> PathBuf {
    filling.with_extension("size")
}

pub(super) struct Held {
    pub(super) folder: PathBuf,
    size: u64,
    used: SystemTime,
}

fn names(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Everything in the cache.
pub(super) fn entries(root: &Path) -> Vec<Held> {
    let folders = names(&root.join("entries")).into_iter().flat_map(|shard| names(&shard));
    // One that is removed meanwhile holds nothing.
    let held = |folder: PathBuf| {
        let about = fs::metadata(folder.join("data")).ok()?;
        Some(Held { size: about.len(), used: about.modified().unwrap_or(SystemTime::UNIX_EPOCH), folder })
    };
    folders.filter_map(held).collect()
}

impl Cache {
    /// Makes room for `size` bytes of `key` and notes that they are coming. The caller holds the lock of `key`.
    pub(super) fn make_room(&self, key: &Key, size: u64) -> io::Result<()> {
        let filling = self.root.join("filling").join(&key.0);
        fs::write(size_of(&filling), size.to_string())?;
        let mut added = self.added.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(before) = *added
            && before + size <= self.limit / PART
        {
            *added = Some(before + size);
            return Ok(());
        }
        let lock = open_lock(&self.root.join("locks/room"))?;
        lock.lock()?;
        let coming = self.coming();
        let mut held = entries(&self.root);
        let mut total: u64 = held.iter().map(|entry| entry.size).sum::<u64>().saturating_add(coming);
        held.sort_by_key(|entry| entry.used);
        for oldest in held {
            if total <= self.limit {
                break;
            }
            entry::take_away(&self.root, &oldest.folder);
            total -= oldest.size;
        }
        *added = Some(0);
        Ok(())
    }

    /// What is being filled, by this job and others. What a killed one has left is removed.
    fn coming(&self) -> u64 {
        let mut coming = 0u64;
        for path in names(&self.root.join("filling")) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some(key) = name.strip_suffix(".size") else {
                let old = fs::metadata(&path).and_then(|about| about.modified()).is_ok_and(|at| at.elapsed().is_ok_and(|age| age > OLD));
                if old && (name.starts_with("gone-") || name.starts_with("new-")) {
                    let _ = fs::remove_dir_all(&path);
                }
                continue;
            };
            let shard = self.root.join("locks").join(key.get(..2).unwrap_or("00"));
            // The lock of our own key is held by this process, through another file: that counts as held.
            let free: Option<File> = open_lock(&shard).ok().filter(|lock| lock.try_lock().is_ok());
            if free.is_some() {
                let _ = fs::remove_file(path.with_extension(""));
                let _ = fs::remove_file(&path);
            } else {
                coming = coming.saturating_add(fs::read_to_string(&path).ok().and_then(|size| size.trim().parse().ok()).unwrap_or(0));
            }
        }
        coming
    }
}
