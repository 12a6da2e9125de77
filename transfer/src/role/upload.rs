//! Staging files: small ones in packs, medium ones as objects under the attempt's staging, large ones as multipart uploads against their final
//! keys, left uncompleted. Nothing of it is visible.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::checksum::{crc64nvme, crc64nvme_join, crc64nvme_text, hex, sha256, sha256_hex};
use crate::crew;
use crate::plan::{FileSum, Item, PART, Skipped, Staged, Strong, part_size};
use crate::progress::{Meter, say, size};
use crate::receipt::reason;
use crate::stamp::Stamp;
use crate::store::{Class, Stretch};

use super::destination::Destination;
use super::ledger::{Entry, Ledger};
use super::resume::{Begun, Part, Upload};
use super::sweep::Journal;
use super::walk::{Found, unreadable};
use super::{Fault, pack};

/// How many packs, files or parts at a time: a worker that is killed sends at most so many parts again.
pub(super) const THREADS: usize = 4;
/// How long a file that changes while it is read is waited for, each time.
const PATIENCE: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Stages the files of one attempt.
pub(super) struct Stager<'a> {
    pub(super) to: &'a Destination,
    /// This process's folder in the attempt's staging, below the destination: no two workers ever write one key.
    pub(super) base: String,
    /// Set when the attempt is revoked.
    pub(super) stop: &'a AtomicBool,
    pub(super) meter: Meter,
    /// Where uploads are remembered for the next worker.
    pub(super) state: &'a Path,
    /// What is staged already.
    pub(super) ledger: &'a Ledger,
    /// What is staged already is read again before it is believed.
    pub(super) recheck: bool,
    /// How many packs, files or parts at a time.
    pub(super) threads: usize,
}

/// Whether a staging key is the journal of an upload.
pub(super) fn is_journal(key: &str) -> bool {
    key.ends_with(".json") && key.rsplit('/').nth(1) == Some("u")
}

/// One try at a file.
enum Once {
    Staged(Item),
    /// It was written to meanwhile.
    Changed,
}

/// A file for a pack.
enum Small {
    Read(Vec<u8>, Stamp),
    Grown,
    Gone,
}

impl Staging {
    fn add(&mut self, name: String, item: Option<Item>) {
        match item {
            Some(item) => self.items.push(item),
            None => self.gone.push(Skipped { path: name, why: "deleted while results were staged".into() }),
        }
    }
}

/// What came of staging a list of files.
#[derive(Default)]
pub(super) struct Staging {
    pub(super) items: Vec<Item>,
    /// What was deleted meanwhile.
    pub(super) gone: Vec<Skipped>,
}

/// A number that no other object of this process has.
fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Stager<'_> {
    /// Stages all files that are not staged as they are.
    pub(super) fn all(&self, files: Vec<Found>) -> Result<Staging, Fault> {
        let mut staging = Staging::default();
        let (mut small, mut medium, mut large) = (vec![], vec![], vec![]);
        for found in files {
            let list = match found.size {
                _ if self.known(&found, &mut staging)? => continue,
                0..=pack::SMALL => &mut small,
                size if size <= PART => &mut medium,
                _ => &mut large,
            };
            list.push(found);
        }
        for part in crew::run(self.threads, pack::groups(small), |group| self.pack(group))? {
            staging.items.extend(part.items);
            staging.gone.extend(part.gone);
        }
        for (name, item) in crew::run(self.threads, medium, |found| self.one(&found, 1).map(|item| (found.name, item)))? {
            staging.add(name, item);
        }
        // Two large files at a time, the parts of each in parallel: while one begins or ends, the other one is sent.
        let files = large.len().clamp(1, 2);
        let threads = self.threads.div_ceil(files);
        for (name, item) in crew::run(files, large, |found| self.one(&found, threads).map(|item| (found.name, item)))? {
            staging.add(name, item);
        }
        Ok(staging)
    }

    /// Takes a file as it was staged before.
    fn known(&self, found: &Found, staging: &mut Staging) -> Result<bool, Fault> {
        let Some(item) = self.ledger.find(&found.name, &found.stamp) else { return Ok(false) };
        let holds = match &item.staged {
            // Only a listing tells whether the parts of an upload are still there.
            Staged::Upload { upload_id, parts } => {
                let listed = self.to.store.list_parts(&self.to.key(&item.file.path), upload_id)?;
                listed.is_some_and(|listed| listed.len() == parts.len())
            }
            Staged::Object { .. } | Staged::Pack { .. } => true,
        };
        if !holds || (self.recheck && !self.unchanged(found, &item)?) {
            return Ok(false);
        }
        self.meter.add(1, item.file.size);
        staging.items.push(item);
        Ok(true)
    }

    /// Reads a staged file again: where a write through a memory map leaves no trace in the file's times.
    fn unchanged(&self, found: &Found, item: &Item) -> Result<bool, Fault> {
        let Ok(file) = File::open(&found.path) else { return Ok(false) };
        let (mut crc, mut at) = (0, 0);
        while at < item.file.size {
            self.go_on()?;
            let bytes = piece(&file, at, PART.min(item.file.size - at) as usize).map_err(|e| unreadable(&found.path, &e))?;
            if bytes.is_empty() {
                return Ok(false);
            }
            crc = if at == 0 { crc64nvme(&bytes) } else { crc64nvme_join(crc, crc64nvme(&bytes), bytes.len() as u64) };
            at += bytes.len() as u64;
        }
        Ok(crc64nvme_text(crc) == item.file.crc64nvme)
    }

    fn go_on(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::revoked("the claim was lost while results were staged".into()));
        }
        Ok(())
    }

    /// Stages one file, its parts by so many threads; none when it was deleted meanwhile.
    fn one(&self, found: &Found, threads: usize) -> Result<Option<Item>, Fault> {
        for patience in PATIENCE {
            self.go_on()?;
            let Some((file, about)) = open(found)? else { return Ok(None) };
            let once = if about.len() <= PART { self.medium(found, &file, &about)? } else { self.large(found, &file, &about, threads)? };
            match once {
                Once::Staged(item) => {
                    self.note(vec![Entry { stamp: Stamp::of(&about), item: item.clone() }])?;
                    self.meter.add(1, 0);
                    return Ok(Some(item));
                }
                Once::Changed => std::thread::sleep(patience),
            }
        }
        Err(changing(found))
    }

    fn medium(&self, found: &Found, file: &File, about: &Metadata) -> Result<Once, Fault> {
        let read = Stretch::read(file, 0, about.len()).map_err(|e| unreadable(&found.path, &e))?;
        let Some(stretch) = read.filter(|_| same(found, about)) else { return Ok(Once::Changed) };
        let key = format!("{}o/{:08}", self.base, serial());
        match self.to.store.put_stretch(&self.to.key(&key), &stretch) {
            Err(e) if e.class == Class::BadDigest && !same(found, about) => return Ok(Once::Changed),
            other => other?,
        };
        self.meter.add(0, about.len());
        let file = FileSum {
            path: found.name.clone(),
            size: about.len(),
            crc64nvme: crc64nvme_text(stretch.crc64nvme),
            strong: Strong::Whole(hex(&stretch.sha256)),
        };
        Ok(Once::Staged(Item { file, staged: Staged::Object { key } }))
    }

    /// Stages small files with one request.
    fn pack(&self, group: Vec<Found>) -> Result<Staging, Fault> {
        let key = format!("{}p/{:08}", self.base, serial());
        let mut staging = Staging::default();
        let expected: u64 = group.iter().map(|found| found.size).sum();
        let (mut body, mut entries) = (Vec::with_capacity(usize::try_from(expected).unwrap_or(0)), vec![]);
        for found in group {
            match self.small(&found)? {
                Small::Read(bytes, stamp) => {
                    let item = Item { file: sum(&found, &bytes), staged: Staged::Pack { key: key.clone(), offset: body.len() as u64 } };
                    entries.push(Entry { stamp, item });
                    body.extend_from_slice(&bytes);
                }
                // It has grown since it was found.
                Small::Grown => {
                    let item = self.one(&found, 1)?;
                    staging.add(found.name, item);
                }
                Small::Gone => staging.add(found.name, None),
            }
        }
        if !entries.is_empty() {
            self.to.store.put(&self.to.key(&key), &body)?;
            self.meter.add(entries.len() as u64, body.len() as u64);
            staging.items.extend(entries.iter().map(|entry| entry.item.clone()));
            self.note(entries)?;
        }
        Ok(staging)
    }

    fn small(&self, found: &Found) -> Result<Small, Fault> {
        for patience in PATIENCE {
            self.go_on()?;
            let Some((file, about)) = open(found)? else { return Ok(Small::Gone) };
            if about.len() > pack::SMALL {
                return Ok(Small::Grown);
            }
            match whole(found, &file, &about)? {
                Some(bytes) => return Ok(Small::Read(bytes, Stamp::of(&about))),
                None => std::thread::sleep(patience),
            }
        }
        Err(changing(found))
    }

    /// Writes down what is staged, and forgets the uploads whose place it takes.
    fn note(&self, entries: Vec<Entry>) -> Result<(), Fault> {
        let kept: Vec<Staged> = entries.iter().map(|entry| entry.item.staged.clone()).collect();
        for old in self.ledger.add(entries) {
            if let Staged::Upload { upload_id, .. } = &old.staged
                && !kept.contains(&old.staged)
            {
                self.to.store.abort_upload(&self.to.key(&old.file.path), upload_id)?;
            }
        }
        Ok(())
    }

    fn large(&self, found: &Found, file: &File, about: &Metadata, threads: usize) -> Result<Once, Fault> {
        let store = &self.to.store;
        let key = self.to.key(&found.name);
        let size = part_size(about.len());
        let upload = self.upload(found, Begun { key: key.clone(), upload_id: String::new(), stamp: Stamp::of(about), part_size: size })?;
        let upload_id = upload.begun.upload_id.clone();
        let offsets: Vec<u64> = (0..about.len().div_ceil(size)).map(|i| i * size).collect();
        let pairs = offsets.chunks(2).map(<[u64]>::to_vec).collect();
        let parts = crew::run(threads, pairs, |pair: Vec<u64>| -> Result<_, Fault> {
            let missing: Vec<u64> = pair.iter().copied().filter(|offset| upload.part(number(*offset, size)).is_none()).collect();
            let Some(stretches) = stretches(file, &missing, size, about.len()).map_err(|e| unreadable(&found.path, &e))? else {
                return Ok(None);
            };
            let mut sent = vec![];
            for (offset, stretch) in missing.into_iter().zip(stretches) {
                self.go_on()?;
                let number = number(offset, size);
                let etag = match store.upload_stretch(&key, &upload_id, number, &stretch) {
                    Err(e) if e.class == Class::BadDigest && !same(found, about) => return Ok(None),
                    other => other?,
                };
                self.meter.add(0, stretch.length);
                let part = Part { number, etag, crc64nvme: stretch.crc64nvme, sha256: stretch.sha256, length: stretch.length };
                upload.write(&part);
                sent.push(part);
            }
            let kept = pair.iter().filter_map(|offset| upload.part(number(*offset, size)).cloned());
            Ok(Some(kept.chain(sent).collect::<Vec<Part>>()))
        })?;
        let parts: Option<Vec<Vec<Part>>> = parts.into_iter().collect();
        let Some(parts) = parts.filter(|_| same(found, about)) else {
            upload.forget();
            store.abort_upload(&key, &upload_id)?;
            return Ok(Once::Changed);
        };
        let mut parts = parts.concat();
        parts.sort_by_key(|part| part.number);
        let crc = parts.iter().skip(1).fold(parts[0].crc64nvme, |crc, part| crc64nvme_join(crc, part.crc64nvme, part.length));
        let hashes: Vec<u8> = parts.iter().flat_map(|part| part.sha256).collect();
        let file = FileSum {
            path: found.name.clone(),
            size: about.len(),
            crc64nvme: crc64nvme_text(crc),
            strong: Strong::Tree { part_size: size, digest: hex(&sha256(&hashes)) },
        };
        let parts = parts.into_iter().map(|part| part.etag).collect();
        Ok(Once::Staged(Item { file, staged: Staged::Upload { upload_id, parts } }))
    }
}

impl Stager<'_> {
    /// The upload of this file: the one that a worker before this one has begun, or a new one.
    fn upload(&self, found: &Found, wanted: Begun) -> Result<Upload, Fault> {
        let store = &self.to.store;
        if let Some(upload) = Upload::resume(self.state, &**store, &wanted)? {
            let (done, whole) = (size(upload.bytes()), size(found.size));
            say(&format!("{}: {done} of {whole} are there from the worker before", found.name));
            self.meter.add(0, upload.bytes());
            return Ok(upload);
        }
        let upload_id = store.create_upload(&wanted.key)?;
        // Written down before it is used: only what is in a journal is ever aborted.
        let entry = Journal { key: found.name.clone(), upload_id: upload_id.clone() };
        let text = serde_json::to_vec(&entry).expect("a journal entry has only string keys");
        let journal = self.to.key(&format!("{}u/{:08}-{}.json", self.base, serial(), crate::checksum::nonce()));
        store.put(&journal, &text)?;
        Ok(Upload::begin(self.state, Begun { upload_id, ..wanted }))
    }
}

/// The file and what it is now; none when it was deleted.
fn open(found: &Found) -> Result<Option<(File, Metadata)>, Fault> {
    let file = match File::open(&found.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| unreadable(&found.path, &e))?,
    };
    let about = file.metadata().map_err(|e| unreadable(&found.path, &e))?;
    Ok(Some((file, about)))
}

/// Its bytes; none when it changed meanwhile.
fn whole(found: &Found, file: &File, about: &Metadata) -> Result<Option<Vec<u8>>, Fault> {
    // One byte more than expected would show a file that grew.
    let bytes = piece(file, 0, about.len() as usize + 1).map_err(|e| unreadable(&found.path, &e))?;
    Ok((bytes.len() as u64 == about.len() && same(found, about)).then_some(bytes))
}

fn sum(found: &Found, bytes: &[u8]) -> FileSum {
    FileSum {
        path: found.name.clone(),
        size: bytes.len() as u64,
        crc64nvme: crc64nvme_text(crc64nvme(bytes)),
        strong: Strong::Whole(sha256_hex(bytes)),
    }
}

fn changing(found: &Found) -> Fault {
    let advice = "it is still being written after main has ended; end its writer with main";
    Fault::passing(reason::FILE_CHANGING, format!("{}: {advice}", found.path.display()))
}

/// The number of the part at `offset`.
fn number(offset: u64, size: u64) -> u32 {
    u32::try_from(offset / size + 1).expect("at most 10,000 parts")
}

/// The parts at `offsets` (two at most) of a file of `whole` bytes; none when it is shorter than it was.
fn stretches<'a>(file: &'a File, offsets: &[u64], size: u64, whole: u64) -> io::Result<Option<Vec<Stretch<'a>>>> {
    match offsets {
        [first, second] if second + size <= whole => Ok(Stretch::read_two(file, [*first, *second], size)?.map(Vec::from)),
        _ => offsets.iter().map(|offset| Stretch::read(file, *offset, size.min(whole - offset))).collect(),
    }
}

/// Whether the file at the path is still what was read.
fn same(found: &Found, before: &Metadata) -> bool {
    fs::metadata(&found.path).is_ok_and(|now| Stamp::of(&now) == Stamp::of(before))
}

/// Up to `length` bytes at an offset; shorter at the end of the file.
fn piece(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        match file.read_at(&mut bytes[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_are_told_from_objects() {
        assert!(is_journal(".gpujob/staging/1-p/n/u/00000001-ab.json"));
        assert!(!is_journal(".gpujob/staging/1-p/n/o/00000001"));
        assert!(!is_journal(".gpujob/staging/1-p/n/plan.json"));
    }
}
