//! Downloading inputs: names are kept, bytes are checked against what the store keeps with them, or what the job says of them.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::cache::{Cache, Key, Served};
use crate::checksum::nonce;
use crate::progress::Meter;
use crate::receipt::reason;
use crate::store::Class;

use super::Fault;

mod chunks;
mod listing;
mod source;

pub(super) use listing::{list, of_url};
pub(super) use source::RANGE as LARGE;
use source::{Bad, Content, Source, Task};

/// Where a file is written until it is whole, below the input's folder.
const PARTIAL: &str = ".gpujob-partial";

/// How often it is tried to have a file whole, and as one version.
const TRIES: usize = 3;
/// Reason of a download that would be of another version than it must be.
const REPLACED: &str = "InputReplaced";

/// One file to download.
pub(super) struct Wanted {
    source: Source,
    /// Size by the listing; 0 of a URL, which is not listed.
    pub(super) size: u64,
    root: PathBuf,
    name: String,
    /// The SHA-256 that the job says it has.
    pin: Option<[u8; 32]>,
    /// The node keeps it for its next job.
    kept: bool,
}

/// A file that is in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fetched {
    /// Its bytes.
    pub(super) size: u64,
    /// There was something to check them by.
    pub(super) checked: bool,
    /// They came from the node's cache.
    pub(super) cached: bool,
}

/// The node's cache, as one job sees it.
pub(super) struct Shelf {
    pub(super) cache: Cache,
    /// Whom it shares it with: jobs of another namespace may be told other things by the same endpoint's name.
    pub(super) scope: Vec<String>,
}

impl Shelf {
    fn key(&self, words: &[String]) -> Key {
        let all: Vec<&str> = self.scope.iter().chain(words).map(String::as_str).collect();
        Key::of(&all)
    }
}

/// The path of a name below `root`, or why there is none.
fn below(root: &Path, name: &str) -> Result<PathBuf, String> {
    for part in name.trim_end_matches('/').split('/') {
        if part.is_empty() || part == "." || part == ".." || part.contains('\0') {
            return Err(format!("{name:?} is no path of a file system: it has an empty, . or .. part"));
        }
        if part.len() > 255 {
            return Err(format!("{name:?} has a part of more than 255 bytes"));
        }
    }
    Ok(root.join(name.trim_end_matches('/')))
}

impl Wanted {
    fn path(&self) -> Result<PathBuf, Fault> {
        // A URL's name is one part, whatever its escapes say.
        let slash = matches!(self.source, Source::Url(_)) && self.name.contains('/');
        let path = if slash { Err(format!("{:?} has a slash in its name", self.name)) } else { below(&self.root, &self.name) };
        path.map_err(|e| Fault::permanent("InvalidInputName", format!("{}: {e}", self.source.name())))
    }

    /// Reads its first bytes, as far as they are wanted: is it there, and may it be read? Returns its size.
    pub(super) fn begin(&self) -> Result<u64, Fault> {
        self.path()?;
        match &self.source {
            Source::Url(https) => Ok(https.size()?.unwrap_or(0)),
            Source::Object { store, key } => match store.get(key, &mut |_| ControlFlow::Break(())) {
                Err(e) if e.class == Class::NotFound => {
                    let message = format!("{} was deleted after it was listed", store.name(key));
                    Err(Fault::permanent(reason::INPUT_NOT_FOUND, message))
                }
                Err(e) if e.class != Class::Stopped => Err(e.into()),
                _ => Ok(self.size),
            },
        }
    }

    /// Downloads it, whole and checked, under its final name; with up to `writers` connections at once.
    pub(super) fn fetch(&self, meter: &Meter, writers: usize, shelf: Option<&Shelf>) -> Result<Fetched, Fault> {
        let path = self.path()?;
        let local = |e: io::Error| Fault::disk(&path.display().to_string(), &e);
        if self.name.ends_with('/') {
            folders(&self.root, &path).map_err(local)?;
            return Ok(Fetched { size: 0, checked: true, cached: false });
        }
        folders(&self.root, path.parent().unwrap_or(&self.root)).map_err(local)?;
        let partial = self.root.join(PARTIAL).join(nonce());
        let fetched = match shelf.filter(|_| self.kept) {
            Some(shelf) => self.shelved(shelf, &partial, meter, writers)?,
            None => self.download(&partial, None, meter, writers)?,
        };
        fs::set_permissions(&partial, fs::Permissions::from_mode(0o666)).map_err(local)?;
        fs::rename(&partial, &path).map_err(local)?;
        meter.add(1, 0);
        Ok(fetched)
    }

    /// From the node's cache, or downloaded into it. An object that is replaced between the question what it is and its download is asked
    /// anew: under the key of one version no bytes of the next may lie, for the node's next jobs believe the key.
    fn shelved(&self, shelf: &Shelf, partial: &Path, meter: &Meter, writers: usize) -> Result<Fetched, Fault> {
        for _ in 1..TRIES {
            match self.shelved_once(shelf, partial, meter, writers) {
                Err(fault) if fault.reason == REPLACED => {}
                other => return other,
            }
        }
        self.shelved_once(shelf, partial, meter, writers)
    }

    fn shelved_once(&self, shelf: &Shelf, partial: &Path, meter: &Meter, writers: usize) -> Result<Fetched, Fault> {
        let Content { words, mut size, checked, version } = self.source.content(self.pin)?;
        let key = shelf.key(&words);
        if let Source::Url(https) = &self.source
            && !shelf.cache.has(&key)
        {
            size = https.size()?.unwrap_or(0);
        }
        let mut fetched = None;
        let served = shelf.cache.place(&key, size, partial, |into| {
            fetched = Some(self.download(into, version.as_deref(), meter, writers)?);
            Ok(())
        })?;
        match fetched {
            Some(fetched) if served != Served::Hit => Ok(fetched),
            _ => {
                let size = fs::metadata(partial).map_err(|e| Fault::disk(&partial.display().to_string(), &e))?.len();
                meter.add(0, size);
                Ok(Fetched { size, checked, cached: true })
            }
        }
    }

    /// Downloads it to `into`, whole and checked; only as that version, if one is named.
    fn download(&self, into: &Path, version: Option<&str>, meter: &Meter, writers: usize) -> Result<Fetched, Fault> {
        let local = |e: io::Error| Fault::disk(&self.root.join(&self.name).display().to_string(), &e);
        let mut mismatch = String::new();
        for _ in 0..TRIES {
            let file = create(into).map_err(local)?;
            let task = Task { file: &file, size: self.size, pin: self.pin, version, writers, meter };
            match self.source.download(&task) {
                Ok(got) => return Ok(Fetched { size: got.size, checked: got.checked, cached: false }),
                Err(Bad::Damaged(why)) => mismatch = why,
                Err(Bad::Replaced) => {
                    let message = format!("{} was replaced while it was fetched; let its writer end first", self.source.name());
                    return Err(Fault::passing(REPLACED, message));
                }
                Err(Bad::Disk(e)) => return Err(local(e)),
                Err(Bad::Fault(fault)) => return Err(fault),
            }
        }
        let message = format!("{}: {mismatch}, {TRIES} times", self.source.name());
        // The same bytes every time: what the job says is wrong, or what the server has.
        let permanent = self.pin.is_some() && mismatch.contains("inputs[].checksum");
        Err(if permanent {
            Fault::permanent(reason::CHECKSUM_MISMATCH, message)
        } else {
            Fault::passing(reason::CHECKSUM_MISMATCH, message)
        })
    }
}

/// Makes folders below `root` that main can write in, whatever its user.
fn folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent()
        && folder != root
    {
        folders(root, parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o777)),
        // Another thread was quicker.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn create(partial: &Path) -> io::Result<File> {
    if let Some(folder) = partial.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create(true).truncate(true).open(partial)
}

/// Removes what unfinished downloads have left in an input's folder.
pub(super) fn tidy(root: &Path) {
    let _ = fs::remove_dir_all(root.join(PARTIAL));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        let root = Path::new("/data");
        assert_eq!(below(root, "a b/ü.csv"), Ok(PathBuf::from("/data/a b/ü.csv")));
        assert_eq!(below(root, "folder/"), Ok(PathBuf::from("/data/folder")));
        for bad in ["../x", "a/../../x", "/etc/passwd", "a//b", "./x", "", &"n".repeat(300)] {
            assert!(below(root, bad).is_err(), "{bad}");
        }
    }
}
