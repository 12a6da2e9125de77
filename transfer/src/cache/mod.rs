//! The node's cache of inputs: what one job has fetched, the next one copies from the node's disk.
//!
//! ```text
//! <root>/entries/<2 hex>/<key>/data      the bytes; its modification time is when it was last used
//! <root>/entries/<2 hex>/<key>/sum       their CRC-64/NVME, in base64
//! <root>/filling/<key>                   what is being downloaded, and `<key>.size`, how large it will be
//! <root>/locks/<2 hex>, locks/room       who downloads keys that begin so, and who makes room
//! ```
//!
//! The root is the node's folder for jobs whose inputs root fetches, and `uid-<number>` in it for those of another user: nobody can
//! write to what another made. The folder is made by the node's user data, open to all users; programs never see it.
//!
//! An entry is named by its content: a given checksum, or the very version of the object. It appears by a rename and is never changed,
//! so a reader needs no lock: an entry that is removed meanwhile stays readable to whoever has it open. Its bytes are checked at
//! each use, for a disk may lie and a node may have lost power; what is damaged is removed and fetched again. Jobs get a copy (a
//! reflink where the disk can), because their programs may write to their inputs.
//!
//! Two jobs that want one thing at the same time fetch it once: the second waits for the first, as long as that gets on. Whatever
//! is wrong with the cache itself only costs its use: then the input is fetched as if there were none.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::checksum::sha256_hex;
use crate::progress::say;
use crate::receipt::reason;
use crate::role::Fault;
use crate::spec::CACHE_DIR;

mod copy;
mod entry;
mod lock;
mod room;

/// Name of the environment variable that says another folder than [`CACHE_DIR`](crate::spec::CACHE_DIR).
pub const FOLDER_ENV: &str = "GPUJOB_CACHE_DIR";
/// Name of the environment variable with the most bytes that the cache takes on its node; half of its disk when it is not set.
pub const LIMIT_ENV: &str = "GPUJOB_CACHE_BYTES";

/// Names a content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// Of what tells it from every other content, as bucket, key, version and size.
    pub fn of(parts: &[&str]) -> Key {
        // Each with its length: no two lists of parts are one text.
        let text: String = parts.iter().map(|part| format!("{}:{part};", part.len())).collect();
        Key(sha256_hex(text.as_bytes()))
    }

    fn shard(&self) -> &str {
        &self.0[..2]
    }
}

/// Where the bytes came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// From the cache.
    Hit,
    /// They were downloaded, and the next job finds them.
    Filled,
    /// They were downloaded past the cache: too large for it, or it cannot be used.
    Around,
}

/// The cache of this node.
#[derive(Debug)]
pub struct Cache {
    root: PathBuf,
    limit: u64,
    /// Bytes that this process has added since it last looked how full it is; `None`: it has not looked.
    added: Mutex<Option<u64>>,
}

impl Cache {
    /// The cache that the environment names, see [`FOLDER_ENV`] and [`LIMIT_ENV`]. `None` when it cannot be used; that is said.
    pub fn from_env() -> Option<Cache> {
        let mut root = std::env::var_os(FOLDER_ENV).map_or_else(|| CACHE_DIR.into(), PathBuf::from);
        let user = rustix::process::geteuid();
        if !user.is_root() {
            root.push(format!("uid-{}", user.as_raw()));
        }
        Cache::open(&root, std::env::var(LIMIT_ENV).ok().and_then(|bytes| bytes.trim().parse().ok()))
    }

    /// The cache at `root`, of at most `limit` bytes (half of its disk when `None`). `None` when it cannot be used; that is said.
    pub fn open(root: &Path, limit: Option<u64>) -> Option<Cache> {
        let made = ["entries", "filling", "locks"].iter().try_for_each(|name| fs::create_dir_all(root.join(name)));
        let limit = made.and_then(|()| limit.map_or_else(|| room::half(root), Ok));
        match limit {
            Ok(limit) => Some(Cache { root: root.into(), limit, added: Mutex::new(None) }),
            Err(e) => {
                say(&format!("the node's cache at {} cannot be used: {e}", root.display()));
                None
            }
        }
    }

    /// Whether it holds that content now.
    pub fn has(&self, key: &Key) -> bool {
        entry::open(&self.root, key).is_some()
    }

    /// Puts the content of `key` at `into`, which does not exist yet. `download` writes it, whole and checked, to the path that it is
    /// given; it is called again with another path when the cache turns out to be of no use.
    ///
    /// # Errors
    /// Those of `download`, and of writing `into`.
    pub fn place(&self, key: &Key, size: u64, into: &Path, mut download: impl FnMut(&Path) -> Result<(), Fault>) -> Result<Served, Fault> {
        let filling = self.root.join("filling").join(&key.0);
        match self.look(key, into)? {
            Look::Hit => return Ok(Served::Hit),
            Look::Missing if size <= self.limit => {}
            Look::Missing | Look::NoRoom => return around(into, &mut download),
        }
        let Some(lock) = lock::wait(&self.root.join("locks").join(key.shard()), &filling) else {
            return around(into, &mut download);
        };
        // Somebody may have fetched it while we waited.
        match self.look(key, into)? {
            Look::Hit => return Ok(Served::Hit),
            Look::Missing => {}
            Look::NoRoom => return around(into, &mut download),
        }
        let filled = self.make_room(key, size).map_err(|e| Fault::disk("the node's cache", &e)).and_then(|()| download(&filling));
        let copied = match filled {
            Ok(()) => copy::checked(&filling, into),
            // The cache's disk is full or broken; the job's own may not be.
            Err(fault) if of_the_disk(&fault) => Ok(Err(fault.to_string())),
            Err(fault) => {
                self.forget(key);
                return Err(fault);
            }
        };
        if let Ok(Ok(sum)) = &copied
            && let Err(e) = entry::publish(&self.root, key, &filling, sum)
        {
            say(&format!("an input is not kept in the node's cache: {e}"));
        }
        self.forget(key);
        drop(lock);
        match copied {
            Ok(Ok(_)) => Ok(Served::Filled),
            Ok(Err(why)) => {
                say(&format!("past the cache: {why}"));
                around(into, &mut download)
            }
            Err(e) if full(&e) => {
                self.give_way(into);
                around(into, &mut download)
            }
            Err(e) => Err(Fault::disk(&into.display().to_string(), &e)),
        }
    }

    /// Serves it from the cache, if it is there and sound.
    fn look(&self, key: &Key, into: &Path) -> Result<Look, Fault> {
        let Some(entry) = entry::open(&self.root, key) else { return Ok(Look::Missing) };
        match copy::from(&entry.data, into) {
            Ok(Ok(sum)) if sum == entry.sum => {
                entry.used();
                return Ok(Look::Hit);
            }
            Ok(Ok(_)) => say("an input in the node's cache is damaged: it is fetched again"),
            Ok(Err(why)) => say(&format!("an input in the node's cache cannot be read: {why}; it is fetched again")),
            Err(e) if full(&e) => {
                self.give_way(into);
                return Ok(Look::NoRoom);
            }
            Err(e) => return Err(Fault::disk(&into.display().to_string(), &e)),
        }
        entry::remove(&self.root, key);
        Ok(Look::Missing)
    }

    /// Gives its room to the job, where both are on one disk: two copies of an input need not fit where one does.
    fn give_way(&self, into: &Path) {
        let disk = |path: &Path| fs::metadata(path).map(|about| about.dev()).ok();
        if disk(&self.root) == into.parent().and_then(disk) {
            say("no room for an input beside the node's cache: the cache is emptied");
            room::entries(&self.root).iter().for_each(|held| entry::take_away(&self.root, &held.folder));
        }
    }

    /// Removes what this process was filling.
    fn forget(&self, key: &Key) {
        let filling = self.root.join("filling").join(&key.0);
        let _ = fs::remove_file(room::size_of(&filling));
        let _ = fs::remove_file(filling);
    }
}

/// What is in the cache of one content.
enum Look {
    /// It was served.
    Hit,
    Missing,
    /// The job's disk is full with the cache on it, which is empty now.
    NoRoom,
}

fn around(into: &Path, download: &mut impl FnMut(&Path) -> Result<(), Fault>) -> Result<Served, Fault> {
    download(into)?;
    Ok(Served::Around)
}

fn full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Whether a download failed for what it was written to.
fn of_the_disk(fault: &Fault) -> bool {
    [reason::DISK_FULL, "InputPathUnusable"].contains(&fault.reason)
}

/// Opens for reading and writing, and makes it if it is not there.
fn open_lock(path: &Path) -> io::Result<File> {
    File::options().read(true).write(true).create(true).truncate(false).open(path)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
