//! Uploading the files of a checkpoint, each under a key of its own, whole or not at all.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::checksum::{crc64nvme, crc64nvme_join, crc64nvme_text};
use crate::crew;
use crate::plan::{PART, part_size};
use crate::role::Fault;

use super::budget::{Budget, Short};
use super::folder::{NoSnapshot, unchanged};
use super::repository::Repository;
use super::set::Content;
use super::time;

/// Files of at most a part at a time, and parts of a larger one: so many buffers of 8 MiB.
const THREADS: usize = 4;

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
    let message = format!("{}: {e}; let the pod's runAsUser be the user that writes checkpoints", path.display());
    Fault::permanent(crate::receipt::reason::UNREADABLE_FILE, message)
}

/// What is written down before an upload is first used: only what is in a journal is ever aborted.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Journal {
    /// Key below the repository.
    pub(super) key: String,
    pub(super) upload_id: String,
}

/// What a save asks now and then while it uploads.
pub(super) struct Limits<'a> {
    /// The time that is left, as it is known now.
    pub(super) budget: &'a (dyn Fn() -> Budget + Sync),
    /// Set when the save is not wanted any more.
    pub(super) obsolete: &'a AtomicBool,
}

/// Uploads files for one save.
pub(super) struct Uploader<'a> {
    pub(super) repository: &'a Repository,
    pub(super) limits: &'a Limits<'a>,
    /// Number of the next object of this process.
    pub(super) next: &'a AtomicU64,
    /// Bytes that this save still has to send.
    pub(super) left: AtomicU64,
}

/// A file to upload.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) file: Option<File>,
    pub(super) about: &'a Metadata,
}

impl Uploader<'_> {
    /// All of them; contents in the sources' order. `each` is told of every file that is in the store, also when a later one fails.
    pub(super) fn all(&self, sources: Vec<Source<'_>>, each: &(dyn Fn(&Metadata, &Content) + Sync)) -> Result<Vec<Content>, Stop> {
        let (small, large): (Vec<_>, Vec<_>) = sources.into_iter().enumerate().partition(|(_, s)| s.about.len() <= PART);
        let one = |(n, source): (usize, Source<'_>)| {
            let content = self.one(&source)?;
            each(source.about, &content);
            Ok::<_, Stop>((n, content))
        };
        let mut done = crew::run(THREADS, small, one)?;
        for source in large {
            done.push(one(source)?);
        }
        done.sort_by_key(|(n, _)| *n);
        Ok(done.into_iter().map(|(_, content)| content).collect())
    }

    /// Asked before each request: whether the rest can still be finished.
    fn go_on(&self) -> Result<(), Stop> {
        if self.limits.obsolete.load(Ordering::Relaxed) {
            return Err(Stop::Obsolete);
        }
        (self.limits.budget)().allows(self.left.load(Ordering::Relaxed), time::now()).map_err(Stop::Short)
    }

    fn one(&self, source: &Source<'_>) -> Result<Content, Stop> {
        self.go_on()?;
        let late;
        let file = match &source.file {
            Some(file) => file,
            None => {
                late = super::folder::open(source.path, source.about)?;
                &late
            }
        };
        let size = source.about.len();
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        let object = format!("{}{n}", self.repository.own("o"));
        let crc = if size <= PART { self.small(source, file, &object)? } else { self.large(source, file, &object, n)? };
        Ok(Content { size, crc64nvme: crc64nvme_text(crc), object })
    }

    fn small(&self, source: &Source<'_>, file: &File, object: &str) -> Result<u64, Stop> {
        let bytes = piece(source.path, file, 0, source.about.len())?;
        still(source, file)?;
        self.repository.store.put(&self.repository.key(object), &bytes)?;
        self.left.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
        Ok(crc64nvme(&bytes))
    }

    fn large(&self, source: &Source<'_>, file: &File, object: &str, n: u64) -> Result<u64, Stop> {
        let (store, size) = (&self.repository.store, source.about.len());
        let key = self.repository.key(object);
        let upload = store.create_upload(&key)?;
        let entry = Journal { key: object.into(), upload_id: upload.clone() };
        let journal = self.repository.key(&format!("{}{n}", self.repository.own("u")));
        store.put(&journal, &serde_json::to_vec(&entry).expect("a journal entry has only string keys"))?;
        let step = part_size(size);
        let offsets: Vec<u64> = (0..size.div_ceil(step)).map(|i| i * step).collect();
        let sent = crew::run(THREADS, offsets, |offset| {
            self.go_on()?;
            let bytes = piece(source.path, file, offset, step.min(size - offset))?;
            let number = u32::try_from(offset / step + 1).expect("at most 10,000 parts");
            let etag = store.upload_part(&key, &upload, number, &bytes)?;
            self.left.fetch_sub(bytes.len() as u64, Ordering::Relaxed);
            Ok::<_, Stop>((etag, crc64nvme(&bytes), bytes.len() as u64))
        });
        let done = sent.and_then(|parts| still(source, file).map(|()| parts)).and_then(|parts| {
            let crc = parts.iter().skip(1).fold(parts[0].1, |crc, part| crc64nvme_join(crc, part.1, part.2));
            let tags: Vec<String> = parts.into_iter().map(|part| part.0).collect();
            store.complete_upload(&key, &upload, &tags, &crc64nvme_text(crc))?;
            Ok(crc)
        });
        if done.is_err() {
            // What cannot be aborted now is in the journal.
            store.abort_upload(&key, &upload)?;
        }
        store.delete(&journal)?;
        done
    }
}

/// Whether nobody wrote to the open file since it was seen.
fn still(source: &Source<'_>, file: &File) -> Result<(), Stop> {
    let now = file.metadata().map_err(|e| Stop::Failed(unreadable(source.path, &e)))?;
    if unchanged(source.about, &now) {
        return Ok(());
    }
    Err(Stop::Changing(format!("{} was written to while it was read", source.path.display())))
}

/// Exactly so many bytes at an offset; a file that has fewer has changed.
fn piece(path: &Path, file: &File, offset: u64, length: u64) -> Result<Vec<u8>, Stop> {
    let mut bytes = vec![0; usize::try_from(length).expect("a part fits into memory")];
    match file.read_exact_at(&mut bytes, offset) {
        Ok(()) => Ok(bytes),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Err(Stop::Changing(format!("{} became shorter", path.display()))),
        Err(e) => Err(Stop::Failed(unreadable(path, &e))),
    }
}

/// How long an upload took, for the rate.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = std::time::Instant::now();
    let done = work();
    (done, began.elapsed())
}
