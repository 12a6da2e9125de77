//! A snapshot of the folder: what was in it at one moment, with the files that are to be read held open.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Once;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use super::set::Content;
use crate::progress::say;
use crate::stamp::Stamp;

/// Names that end so are being written, or were left by a program that died.
const UNFINISHED: [&str; 2] = [".partial", ".tmp"];
/// Most files that are held open at once.
const OPEN: usize = 512;

/// One such name is said, not each one at every look.
static SAID: Once = Once::new();

/// Something in the folder.
#[derive(Debug)]
pub(super) struct Item {
    /// Below the folder.
    pub(super) path: String,
    pub(super) about: Metadata,
    pub(super) kind: Seen,
}

#[derive(Debug)]
pub(super) enum Seen {
    /// A file that is in the store already.
    Known(Content),
    /// A file to read. `None`: more than could be held open; it is opened when its turn comes.
    File(Option<File>),
    Folder,
    /// Where it leads, as it is written.
    Link(OsString),
}

/// Why there is no snapshot.
#[derive(Debug)]
pub(super) enum NoSnapshot {
    /// Something was being written.
    Changing(String),
    /// It cannot be read.
    Unreadable(PathBuf, io::Error),
}

/// What is in `root` now: sorted by path. `known` are files that need not be opened; nothing may be younger than `quiet`.
///
/// It is one moment's: what was found the first time was all there, and the same, the second time.
pub(super) fn snapshot(root: &Path, known: &HashMap<Stamp, Content>, quiet: Duration) -> Result<Vec<Item>, NoSnapshot> {
    let first = list(root)?;
    let now = SystemTime::now();
    let mut items = Vec::with_capacity(first.len());
    let mut held = 0;
    for (path, about) in &first {
        let full = root.join(path);
        let young = about.modified().ok().and_then(|t| now.duration_since(t).ok()).is_some_and(|age| age < quiet);
        if about.is_file() && young {
            return Err(NoSnapshot::Changing(format!("{path} was written just now")));
        }
        let kind = if about.is_dir() {
            Seen::Folder
        } else if about.is_symlink() {
            let target = fs::read_link(&full).map_err(|e| vanished(&full, e))?;
            Seen::Link(target.into_os_string())
        } else if let Some(content) = known.get(&Stamp::of(about)) {
            Seen::Known(content.clone())
        } else if held < OPEN {
            held += 1;
            Seen::File(Some(open(&full, about)?))
        } else {
            Seen::File(None)
        };
        items.push(Item { path: path.clone(), about: about.clone(), kind });
    }
    let second = list(root)?;
    let same = |(a, b): (&(String, Metadata), &(String, Metadata))| a.0 == b.0 && unchanged(&a.1, &b.1);
    if first.len() != second.len() || !first.iter().zip(&second).all(same) {
        return Err(NoSnapshot::Changing("the folder changed while it was looked at".into()));
    }
    Ok(items)
}

/// Opens the very file that was seen.
pub(super) fn open(path: &Path, seen: &Metadata) -> Result<File, NoSnapshot> {
    // A link or a pipe that took its place must neither be followed nor waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC).bits();
    let file = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(path).map_err(|e| vanished(path, e))?;
    let about = file.metadata().map_err(|e| vanished(path, e))?;
    if unchanged(seen, &about) { Ok(file) } else { Err(NoSnapshot::Changing(format!("{} was replaced", path.display()))) }
}

/// Whether nobody wrote to it in between. A folder's time changes with its names, which are compared themselves.
pub(super) fn unchanged(before: &Metadata, now: &Metadata) -> bool {
    before.file_type() == now.file_type()
        && (before.dev(), before.ino()) == (now.dev(), now.ino())
        && (before.is_dir() || Stamp::of(before) == Stamp::of(now))
}

/// Everything below the folder but what cannot be saved, sorted.
fn list(root: &Path) -> Result<Vec<(String, Metadata)>, NoSnapshot> {
    let mut found = vec![];
    // However deep: links are not followed, and the system's longest path ends it, as a failure and not in silence.
    let mut folders = vec![(root.to_path_buf(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(e) if prefix.is_empty() && e.kind() == io::ErrorKind::NotFound => return Ok(found),
            Err(e) => return Err(vanished(&folder, e)),
        };
        for entry in entries {
            let entry = entry.map_err(|e| vanished(&folder, e))?;
            // A name that is not UTF-8 is not saved: a manifest could not say it.
            let Ok(name) = entry.file_name().into_string() else {
                let say = || say(&format!("{:?} is not saved: its name is not UTF-8; rename it", entry.path()));
                SAID.call_once(say);
                continue;
            };
            if UNFINISHED.iter().any(|end| name.ends_with(end)) || (prefix.is_empty() && name.starts_with(".gpujob")) {
                continue;
            }
            let about = entry.metadata().map_err(|e| vanished(&entry.path(), e))?;
            let path = format!("{prefix}{name}");
            if about.is_dir() {
                folders.push((entry.path(), format!("{path}/")));
            }
            // Sockets, pipes and devices have no bytes to save.
            if about.is_dir() || about.is_symlink() || about.is_file() {
                found.push((path, about));
            }
        }
    }
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

/// What was there a moment ago and is not any more is being changed.
fn vanished(path: &Path, error: io::Error) -> NoSnapshot {
    // ELOOP: a link where a file was.
    if error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(40) {
        return NoSnapshot::Changing(format!("{} went away", path.display()));
    }
    NoSnapshot::Unreadable(path.into(), error)
}

#[cfg(test)]
#[path = "folder_tests.rs"]
mod tests;
