//! Bytes of one source into one file, checked on their way.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::checksum::{Check, Sha256, crc64nvme, crc64nvme_join, crc64nvme_text, hex};
use crate::crew;
use crate::progress::Meter;
use crate::receipt::reason;
use crate::store::https::{Https, Piece};
use crate::store::{Class, Info, ObjectStore, StoreError};

use super::Fault;
use super::chunks::Chunks;

/// Up to this size an object is asked for at once, and checked in memory by the checksums that come with its bytes.
const SMALL: u64 = 512 << 10;
/// What one of several connections downloads at a time.
pub(in crate::role) const RANGE: u64 = 32 << 20;

/// Where the bytes come from.
pub(in crate::role) enum Source {
    /// An object of a bucket.
    Object { store: Arc<dyn ObjectStore>, key: String },
    /// A file of a web server.
    Url(Https),
}

/// One download that has ended well.
pub(super) struct Got {
    pub(super) size: u64,
    /// There was something to check the bytes by.
    pub(super) checked: bool,
}

/// Why a download is of no use.
pub(super) enum Bad {
    /// Its bytes are not those that were stored: another try may be whole.
    Damaged(String),
    /// It is another version than [`Task::version`]; no other try will be that one.
    Replaced,
    /// The disk's failure.
    Disk(io::Error),
    /// Any other.
    Fault(Fault),
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Bad {
        Bad::Disk(e)
    }
}

/// What an object is, as its store says now.
pub(super) struct Content {
    /// Words that no other content has.
    pub(super) words: Vec<String>,
    pub(super) size: u64,
    /// There is something to check it by.
    pub(super) checked: bool,
    /// The version that the words are of; none where they are of a checksum alone.
    pub(super) version: Option<String>,
}

/// What there is to do for one file.
pub(super) struct Task<'a> {
    pub(super) file: &'a File,
    /// By the listing.
    pub(super) size: u64,
    pub(super) pin: Option<[u8; 32]>,
    /// The version that it must be, where somebody is told that it is.
    pub(super) version: Option<&'a str>,
    /// Connections that may write it at the same time.
    pub(super) writers: usize,
    pub(super) meter: &'a Meter,
}

/// Carries a disk's failure out of a sink.
#[derive(Default)]
struct Disk(Option<io::Error>);

impl Disk {
    fn keep(&mut self, outcome: io::Result<()>) -> ControlFlow<()> {
        match outcome {
            Ok(()) => ControlFlow::Continue(()),
            Err(e) => {
                self.0 = Some(e);
                ControlFlow::Break(())
            }
        }
    }

    /// The disk's failure, else the store's.
    fn or<T>(self, outcome: Result<T, StoreError>, name: &str) -> Result<T, Bad> {
        if let Some(e) = self.0 {
            return Err(Bad::Disk(e));
        }
        outcome.map_err(|e| match e.class {
            Class::NotFound => Bad::Fault(Fault::permanent(reason::INPUT_NOT_FOUND, format!("{name} was deleted meanwhile"))),
            Class::PreconditionFailed => Bad::Damaged("it was replaced meanwhile".into()),
            _ => Bad::Fault(e.into()),
        })
    }
}

impl Source {
    /// For people.
    pub(super) fn name(&self) -> String {
        match self {
            Source::Object { store, key } => store.name(key),
            Source::Url(https) => https.url.shown(),
        }
    }

    /// What it holds. It is asked with the job's own rights: what somebody else may read is in nobody's cache.
    pub(super) fn content(&self, pin: Option<[u8; 32]>) -> Result<Content, Fault> {
        match self {
            Source::Url(https) => {
                let Some(pin) = pin else { return Err(Fault::invalid(format!("{} has no checksum", https.url.shown()))) };
                Ok(Content { words: vec!["sha256".into(), hex(&pin)], size: 0, checked: true, version: None })
            }
            Source::Object { store, key } => {
                let about = found(&**store, key)?;
                let words = vec!["object".into(), store.name(key), about.version.clone(), about.size.to_string()];
                // A version that two contents may have tells nothing.
                let checked = pin.is_some() || Check::against(&about.sums).is_some();
                let words = pin.map_or(words.clone(), |pin| [words, vec![hex(&pin)]].concat());
                Ok(Content { words, size: about.size, checked, version: Some(about.version) })
            }
        }
    }

    /// Downloads into an empty file.
    pub(super) fn download(&self, task: &Task<'_>) -> Result<Got, Bad> {
        match self {
            Source::Url(https) => from_url(https, task),
            Source::Object { store, key } if task.size <= SMALL => small(&**store, key, task),
            Source::Object { store, key } => {
                let about = found(&**store, key).map_err(Bad::Fault)?;
                is_version(&about, task)?;
                let crc = about.sums.crc64nvme.clone().filter(|crc| !crc.contains('-'));
                let check = Check::against(&about.sums);
                // The parts' CRCs can be joined; any other hash needs the bytes in their order.
                if task.pin.is_none() && about.size > RANGE && store.ranged() && (crc.is_some() || check.is_none()) {
                    return in_ranges(&**store, key, &about, crc.as_deref(), task);
                }
                in_order(&**store, key, &about, check, task)
            }
        }
    }
}

/// Every answer is held against it: a version that was asked for by a condition alone would be taken from whoever ignores conditions.
fn is_version(about: &Info, task: &Task<'_>) -> Result<(), Bad> {
    if task.version.is_none_or(|wanted| wanted == about.version) { Ok(()) } else { Err(Bad::Replaced) }
}

fn found(store: &dyn ObjectStore, key: &str) -> Result<Info, Fault> {
    let message = || format!("{} was deleted after it was listed", store.name(key));
    store.head(key)?.ok_or_else(|| Fault::permanent(reason::INPUT_NOT_FOUND, message()))
}

fn pinned(pin: Option<[u8; 32]>, got: impl FnOnce() -> [u8; 32]) -> Result<bool, Bad> {
    let Some(want) = pin else { return Ok(false) };
    let got = got();
    if got == want {
        return Ok(true);
    }
    Err(Bad::Damaged(format!("its SHA-256 is {}, inputs[].checksum says {}", hex(&got), hex(&want))))
}

fn stored(check: Option<Check>) -> Result<bool, Bad> {
    match check.map(Check::finish) {
        None => Ok(false),
        Some(Ok(())) => Ok(true),
        Some(Err((got, want))) => Err(Bad::Damaged(format!("its checksum is {got}, the store has {want}"))),
    }
}

/// One request: bytes and checksums come in one answer.
fn small(store: &dyn ObjectStore, key: &str, task: &Task<'_>) -> Result<Got, Bad> {
    let mut bytes = Vec::with_capacity(usize::try_from(task.size).unwrap_or(0));
    let answer = store.get(key, &mut |piece| {
        bytes.extend_from_slice(piece);
        // What has grown since it was listed is looked at again by whoever lists again.
        if bytes.len() as u64 > SMALL { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    if let Err(e) = &answer
        && e.class == Class::Stopped
    {
        return Err(Bad::Damaged("it was replaced by a larger one since it was listed".into()));
    }
    let about = Disk::default().or(answer, &store.name(key))?;
    is_version(&about, task)?;
    if bytes.len() as u64 != about.size {
        return Err(Bad::Damaged(format!("{} of {} bytes came", bytes.len(), about.size)));
    }
    let mut check = Check::against(&about.sums);
    if let Some(check) = &mut check {
        check.update(&bytes);
    }
    let by_store = stored(check)?;
    let by_pin = pinned(task.pin, || crate::checksum::sha256(&bytes))?;
    task.file.write_all_at(&bytes, 0)?;
    task.meter.add(0, about.size);
    Ok(Got { size: about.size, checked: by_store || by_pin })
}

/// One connection, from beginning to end.
fn in_order(store: &dyn ObjectStore, key: &str, about: &Info, mut check: Option<Check>, task: &Task<'_>) -> Result<Got, Bad> {
    let mut chunks = Chunks::new(task.file, 0);
    let mut sha = task.pin.map(|_| Sha256::new());
    let (mut size, mut disk) = (0u64, Disk::default());
    let answer = store.get(key, &mut |piece| {
        if let Some(check) = &mut check {
            check.update(piece);
        }
        if let Some(sha) = &mut sha {
            sha.update(piece);
        }
        size += piece.len() as u64;
        task.meter.add(0, piece.len() as u64);
        disk.keep(chunks.write(piece))
    });
    let got = disk.or(answer, &store.name(key))?;
    chunks.flush()?;
    if size != got.size || got.version != about.version {
        return Err(Bad::Damaged(format!("{size} of {} bytes came, or it was replaced meanwhile", got.size)));
    }
    let by_store = stored(check)?;
    let by_pin = pinned(task.pin, || sha.map_or([0; 32], Sha256::finish))?;
    Ok(Got { size, checked: by_store || by_pin })
}

/// Several connections at once, each a stretch at a time.
fn in_ranges(store: &dyn ObjectStore, key: &str, about: &Info, crc: Option<&str>, task: &Task<'_>) -> Result<Got, Bad> {
    task.file.set_len(about.size)?;
    let ranges: Vec<u64> = (0..about.size.div_ceil(RANGE)).map(|n| n * RANGE).collect();
    let sums = crew::run(task.writers, ranges, |from| {
        let length = RANGE.min(about.size - from);
        let mut chunks = Chunks::new(task.file, from);
        let (mut sum, mut disk) = (crate::checksum::Crc64::new(), Disk::default());
        let answer = store.get_range(key, &about.version, from, length, &mut |piece| {
            sum.update(piece);
            task.meter.add(0, piece.len() as u64);
            disk.keep(chunks.write(piece))
        });
        disk.or(answer, &store.name(key))?;
        chunks.flush()?;
        Ok::<_, Bad>((sum.finish(), length))
    })?;
    let got = crc64nvme_text(sums.into_iter().fold(crc64nvme(b""), |whole, (sum, length)| crc64nvme_join(whole, sum, length)));
    match crc {
        Some(want) if want != got => Err(Bad::Damaged(format!("its checksum is {got}, the store has {want}"))),
        _ => Ok(Got { size: about.size, checked: crc.is_some() }),
    }
}

fn from_url(https: &Https, task: &Task<'_>) -> Result<Got, Bad> {
    let mut chunks = Chunks::new(task.file, 0);
    let (mut sha, mut disk) = (Sha256::new(), Disk::default());
    let answer = https.get(&mut |piece| match piece {
        Piece::Again => {
            sha = Sha256::new();
            chunks.rewind(0);
            disk.keep(task.file.set_len(0))
        }
        Piece::Bytes(piece) => {
            sha.update(piece);
            task.meter.add(0, piece.len() as u64);
            disk.keep(chunks.write(piece))
        }
    });
    if let Some(e) = disk.0 {
        return Err(Bad::Disk(e));
    }
    let size = answer.map_err(|e| Bad::Fault(e.into()))?;
    chunks.flush()?;
    let checked = pinned(task.pin, || sha.finish())?;
    Ok(Got { size, checked })
}
