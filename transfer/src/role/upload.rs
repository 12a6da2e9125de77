//! Staging files: small ones as objects under the attempt's staging, large ones as multipart uploads against their final
//! keys, left uncompleted. Nothing of it is visible.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::checksum::{crc64nvme, crc64nvme_join, crc64nvme_text, hex, sha256, sha256_hex};
use crate::crew;
use crate::plan::{FileSum, Item, PART, Staged, Strong, part_size};
use crate::progress::{Meter, say, size};
use crate::receipt::reason;
use crate::stamp::Stamp;

use super::Fault;
use super::destination::Destination;
use super::resume::{Begun, Part, Upload};
use super::sweep::Journal;
use super::walk::{Found, unreadable};

/// Files up to this size go many at a time: their cost is the request.
const TINY: u64 = 256 << 10;
/// How many tiny files at a time.
const TINY_THREADS: usize = 16;
/// How many buffers of a part's size at a time: 32 MiB in all.
const THREADS: usize = 4;

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

impl Stager<'_> {
    /// Stages all files.
    pub(super) fn all(&self, files: Vec<Found>) -> Result<Vec<Item>, Fault> {
        let (mut tiny, mut small, mut large) = (vec![], vec![], vec![]);
        for numbered in files.into_iter().enumerate() {
            let list = match numbered.1.size {
                0..=TINY => &mut tiny,
                _ if numbered.1.size <= PART => &mut small,
                _ => &mut large,
            };
            list.push(numbered);
        }
        let mut items = crew::run(TINY_THREADS, tiny, |(n, found)| self.one(n, &found))?;
        items.extend(crew::run(THREADS, small, |(n, found)| self.one(n, &found))?);
        // One large file at a time, its parts in parallel.
        for (n, found) in large {
            items.push(self.one(n, &found)?);
        }
        Ok(items)
    }

    fn one(&self, n: usize, found: &Found) -> Result<Item, Fault> {
        for patience in [200, 1000, 3000] {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Fault::revoked("the claim was lost while results were staged".into()));
            }
            let file = File::open(&found.path).map_err(|e| unreadable(&found.path, &e))?;
            let about = file.metadata().map_err(|e| unreadable(&found.path, &e))?;
            let once = if about.len() <= PART { self.small(n, found, &file, &about)? } else { self.large(n, found, &file, &about)? };
            match once {
                Once::Staged(item) => {
                    self.meter.add(1, 0);
                    return Ok(item);
                }
                Once::Changed => std::thread::sleep(Duration::from_millis(patience)),
            }
        }
        let message = format!("{}: still being written after main has ended", found.path.display());
        Err(Fault::passing(reason::FILE_CHANGING, message))
    }

    fn small(&self, n: usize, found: &Found, file: &File, about: &Metadata) -> Result<Once, Fault> {
        // One byte more than expected would show a file that grew.
        let bytes = piece(file, 0, about.len() as usize + 1).map_err(|e| unreadable(&found.path, &e))?;
        if bytes.len() as u64 != about.len() || !same(found, about) {
            return Ok(Once::Changed);
        }
        let key = format!("{}o/{n:08}", self.base);
        self.to.store.put(&self.to.key(&key), &bytes)?;
        self.meter.add(0, about.len());
        let file = FileSum {
            path: found.name.clone(),
            size: about.len(),
            crc64nvme: crc64nvme_text(crc64nvme(&bytes)),
            strong: Strong::Whole(sha256_hex(&bytes)),
        };
        Ok(Once::Staged(Item { file, staged: Staged::Object { key } }))
    }

    fn large(&self, n: usize, found: &Found, file: &File, about: &Metadata) -> Result<Once, Fault> {
        let store = &self.to.store;
        let key = self.to.key(&found.name);
        let size = part_size(about.len());
        let upload =
            self.upload(n, found, Begun { key: key.clone(), upload_id: String::new(), stamp: Stamp::of(about), part_size: size })?;
        let upload_id = upload.begun.upload_id.clone();
        let offsets: Vec<u64> = (0..about.len().div_ceil(size)).map(|i| i * size).collect();
        let parts = crew::run(THREADS, offsets, |offset| {
            if self.stop.load(Ordering::Relaxed) {
                return Err(Fault::revoked("the claim was lost while results were staged".into()));
            }
            let length = size.min(about.len() - offset);
            let number = u32::try_from(offset / size + 1).expect("at most 10,000 parts");
            if let Some(part) = upload.part(number) {
                return Ok(Some((part.etag.clone(), part.crc64nvme, part.sha256, part.length)));
            }
            let bytes = piece(file, offset, length as usize).map_err(|e| unreadable(&found.path, &e))?;
            // Shorter than it was: cut off meanwhile.
            if bytes.len() as u64 != length {
                return Ok(None);
            }
            let etag = store.upload_part(&key, &upload_id, number, &bytes)?;
            self.meter.add(0, length);
            let part = Part { number, etag, crc64nvme: crc64nvme(&bytes), sha256: sha256(&bytes), length };
            upload.write(&part);
            Ok(Some((part.etag, part.crc64nvme, part.sha256, length)))
        })?;
        let parts: Option<Vec<_>> = parts.into_iter().collect();
        let Some(parts) = parts.filter(|_| same(found, about)) else {
            upload.forget();
            store.abort_upload(&key, &upload_id)?;
            return Ok(Once::Changed);
        };
        let crc = parts.iter().skip(1).fold(parts[0].1, |crc, part| crc64nvme_join(crc, part.1, part.3));
        let hashes: Vec<u8> = parts.iter().flat_map(|part| part.2).collect();
        let file = FileSum {
            path: found.name.clone(),
            size: about.len(),
            crc64nvme: crc64nvme_text(crc),
            strong: Strong::Tree { part_size: size, digest: hex(&sha256(&hashes)) },
        };
        let parts = parts.into_iter().map(|part| part.0).collect();
        Ok(Once::Staged(Item { file, staged: Staged::Upload { upload_id, parts } }))
    }
}

impl Stager<'_> {
    /// The upload of this file: the one that a worker before this one has begun, or a new one.
    fn upload(&self, n: usize, found: &Found, wanted: Begun) -> Result<Upload, Fault> {
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
        let journal = self.to.key(&format!("{}u/{n:08}-{}.json", self.base, crate::checksum::nonce()));
        store.put(&journal, &text)?;
        Ok(Upload::begin(self.state, Begun { upload_id, ..wanted }))
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
