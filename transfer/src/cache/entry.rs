//! One content in the cache: a folder that appears by a rename and is never changed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::checksum::nonce;

use super::Key;

/// An entry that is open: it stays readable when it is removed.
pub(super) struct Entry {
    pub(super) data: File,
    /// CRC-64/NVME of the bytes that were put there, in base64.
    pub(super) sum: String,
}

impl Entry {
    /// Notes that it was used now.
    pub(super) fn used(&self) {
        // At worst it is removed earlier.
        let _ = self.data.set_modified(SystemTime::now());
    }
}

fn folder(root: &Path, key: &Key) -> PathBuf {
    root.join("entries").join(key.shard()).join(&key.0)
}

/// The entry, if there is one.
pub(super) fn open(root: &Path, key: &Key) -> Option<Entry> {
    let folder = folder(root, key);
    let data = File::open(folder.join("data")).ok()?;
    // After a power cut it may be empty: then it is no checksum of anything.
    let sum = fs::read_to_string(folder.join("sum")).unwrap_or_default();
    Some(Entry { data, sum })
}

/// Makes the file at `filling` the content of `key`.
pub(super) fn publish(root: &Path, key: &Key, filling: &Path, sum: &str) -> io::Result<()> {
    let made = root.join("filling").join(format!("new-{}", nonce()));
    let place = folder(root, key);
    let published = fs::create_dir_all(place.parent().unwrap_or(root))
        .and_then(|()| fs::create_dir(&made))
        .and_then(|()| fs::write(made.join("sum"), sum))
        .and_then(|()| fs::rename(filling, made.join("data")))
        .and_then(|()| fs::rename(&made, &place));
    if published.is_err() {
        let _ = fs::remove_dir_all(&made);
    }
    match published {
        // Somebody who went past a lock of ours was quicker: theirs is as good.
        Err(e) if matches!(e.kind(), io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists) => Ok(()),
        other => other,
    }
}

/// Removes it in one step, whoever is reading it.
pub(super) fn remove(root: &Path, key: &Key) {
    take_away(root, &folder(root, key));
}

/// The same for an entry's folder.
pub(super) fn take_away(root: &Path, folder: &Path) {
    let gone = root.join("filling").join(format!("gone-{}", nonce()));
    if fs::rename(folder, &gone).is_ok() {
        let _ = fs::remove_dir_all(gone);
    }
}
