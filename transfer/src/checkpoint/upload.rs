//! Uploading the files of a checkpoint: in pieces, each an object of its own. So a large file goes up and comes back over several
//! connections, nothing is left half uploaded, and what was sent before a failure is not sent again.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::checksum::{crc64nvme, crc64nvme_text};
use crate::crew;
use crate::plan::part_size;
use crate::role::Fault;
use crate::stamp::Stamp;

use super::budget::{Budget, Short};
use super::folder::{NoSnapshot, unchanged};
use super::repository::Repository;
use super::set::{Content, Piece};
use super::time;

/// Pieces at a time, each in memory.
const THREADS: usize = 4;
/// Largest piece. They are objects of their own, of which a file may have any number: no need to grow with a file of a TiB, as the parts of
/// an upload do.
const PIECE: u64 = 32 << 20;

/// Why an upload ended.
#[derive(Debug)]
pub(super) enum Stop {
    /// A file was written to meanwhile.
    Changing(String),
    /// It cannot be finished in the time that is left.
    Short(Short),
    /// It is not wanted any more.
    Obsolete,
    /// The store, or a file that cannot be read.
    Failed(Fault),
}

impl From<NoSnapshot> for Stop {
    fn from(why: NoSnapshot) -> Stop {
        match why {
            NoSnapshot::Changing(what) => Stop::Changing(what),
            NoSnapshot::Unreadable(path, e) => Stop::Failed(unreadable(&path, &e)),
        }
    }
}

impl<E: Into<Fault>> From<E> for Stop {
    fn from(e: E) -> Stop {
        Stop::Failed(e.into())
    }
}

fn unreadable(path: &Path, e: &io::Error) -> Fault {
    let denied = e.kind() == io::ErrorKind::PermissionDenied;
    let advice = if denied { "; let the pod's runAsUser be the user that writes checkpoints" } else { "" };
    let message = format!("{}: {e}{advice}", path.display());
    Fault::permanent(crate::receipt::reason::UNREADABLE_FILE, message)
}

/// What a save asks before each piece.
pub(super) struct Limits<'a> {
    /// The time that is left, as it is known now.
    pub(super) budget: &'a (dyn Fn() -> Budget + Sync),
    /// Set when the save is not wanted any more.
    pub(super) obsolete: &'a AtomicBool,
}

/// A file to upload.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    /// `None`: it is opened when its turn comes.
    pub(super) file: Option<&'a File>,
    pub(super) about: &'a Metadata,
}

/// Pieces in the store that no checkpoint names yet, by file and offset.
pub(super) type Sent = HashMap<(Stamp, u64), Piece>;

/// Uploads files for one save.
pub(super) struct Uploader<'a> {
    pub(super) repository: &'a Repository,
    pub(super) limits: &'a Limits<'a>,
    /// Number of the next object of this process.
    pub(super) next: &'a AtomicU64,
    pub(super) sent: &'a Mutex<Sent>,
    /// Bytes that this save still has to send.
    pub(super) left: AtomicU64,
}

/// Where the pieces of a file of that size begin, and how long they are.
fn cut(size: u64) -> impl Iterator<Item = (u64, u64)> {
    let step = part_size(size).min(PIECE);
    (0..size.div_ceil(step)).map(move |n| (n * step, step.min(size - n * step)))
}

/// Bytes of these files that are not in the store yet.
pub(super) fn missing(sources: &[Source<'_>], sent: &Sent) -> u64 {
    let of = |source: &Source<'_>| {
        let stamp = Stamp::of(source.about);
        cut(source.about.len()).filter(|(offset, _)| !sent.contains_key(&(stamp, *offset))).map(|(_, length)| length).sum::<u64>()
    };
    sources.iter().map(of).sum()
}

impl Uploader<'_> {
    /// All of them; contents in the sources' order.
    pub(super) fn all(&self, sources: &[Source<'_>]) -> Result<Vec<Content>, Stop> {
        let work = sources.iter().enumerate().flat_map(|(n, source)| cut(source.about.len()).map(move |at| (n, at))).collect();
        let pieces = crew::run(THREADS, work, |(n, (offset, length))| Ok::<_, Stop>((n, self.piece(&sources[n], offset, length)?)))?;
        let mut contents = vec![vec![]; sources.len()];
        pieces.into_iter().for_each(|(n, piece)| contents[n].push(piece));
        Ok(contents.into_iter().map(Content::of).collect())
    }

    fn piece(&self, source: &Source<'_>, offset: u64, length: u64) -> Result<Piece, Stop> {
        if self.limits.obsolete.load(Ordering::Relaxed) {
            return Err(Stop::Obsolete);
        }
        let place = (Stamp::of(source.about), offset);
        if let Some(piece) = self.sent.lock().ok().and_then(|sent| sent.get(&place).cloned()) {
            return Ok(piece);
        }
        // Whether all that is left can still be finished.
        (self.limits.budget)().allows(self.left.load(Ordering::Relaxed), time::now()).map_err(Stop::Short)?;
        let bytes = read(source, offset, length)?;
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let object = format!("{}{n}", self.repository.own("o"));
        self.repository.store.put(&self.repository.key(&object), &bytes)?;
        self.left.fetch_sub(length, Ordering::Relaxed);
        let piece = Piece { object, size: length, crc64nvme: crc64nvme_text(crc64nvme(&bytes)) };
        if let Ok(mut sent) = self.sent.lock() {
            sent.insert(place, piece.clone());
        }
        Ok(piece)
    }
}

/// Bytes of the very file that was seen: nobody wrote to it since.
fn read(source: &Source<'_>, offset: u64, length: u64) -> Result<Vec<u8>, Stop> {
    let late;
    let file = match source.file {
        Some(file) => file,
        None => {
            late = super::folder::open(source.path, source.about)?;
            &late
        }
    };
    let mut bytes = vec![0; usize::try_from(length).expect("a piece fits into memory")];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            return Err(Stop::Changing(format!("{} became shorter", source.path.display())));
        }
        Err(e) => return Err(Stop::Failed(unreadable(source.path, &e))),
    }
    let now = file.metadata().map_err(|e| Stop::Failed(unreadable(source.path, &e)))?;
    if unchanged(source.about, &now) {
        return Ok(bytes);
    }
    Err(Stop::Changing(format!("{} was written to while it was read", source.path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_a_file() {
        assert_eq!(cut(0).count(), 0);
        for size in [1, 8 << 20, (8 << 20) + 1, 3 << 40] {
            let pieces: Vec<_> = cut(size).collect();
            assert_eq!(pieces.iter().map(|p| p.1).sum::<u64>(), size);
            assert!(pieces.windows(2).all(|w| w[0].0 + w[0].1 == w[1].0) && pieces.iter().all(|p| p.1 <= PIECE));
        }
    }
}
