//! Large files: multipart uploads against their final keys, which a worker after this one goes on with.

use std::fs::{File, Metadata};
use std::io;

use super::super::Fault;
use super::super::resume::{Begun, Part, Upload};
use super::super::sweep::Journal;
use super::super::walk::{Found, unreadable};
use super::reading::{same, was_changed};
use super::{Once, Stager, serial};
use crate::checksum::{crc64nvme_join, crc64nvme_text, hex, nonce, sha256};
use crate::crew;
use crate::plan::{FileSum, Item, Staged, Strong, part_size};
use crate::progress::{say, size};
use crate::stamp::Stamp;
use crate::store::Stretch;

impl Stager<'_> {
    /// Sends a file's parts, by so many threads.
    pub(super) fn large(&self, found: &Found, file: &File, about: &Metadata, threads: usize) -> Result<Once, Fault> {
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
                    Err(e) if was_changed(&e, found, about, &stretch) => return Ok(None),
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

    /// The upload of this file: the one that a worker before this one has begun, or a new one.
    fn upload(&self, found: &Found, wanted: Begun) -> Result<Upload, Fault> {
        let store = &self.to.store;
        // Where times say nothing of a change, parts that were sent before may be of another file than the rest of it.
        let begun = if self.recheck { None } else { Upload::resume(self.state, &**store, &wanted)? };
        if let Some(upload) = begun {
            let (done, whole) = (size(upload.bytes()), size(found.size));
            say(&format!("{}: {done} of {whole} are there from the worker before", found.name));
            self.meter.add(0, upload.bytes());
            return Ok(upload);
        }
        let upload_id = store.create_upload(&wanted.key)?;
        // Written down before it is used: only what is in a journal is ever aborted.
        let entry = Journal { key: found.name.clone(), upload_id: upload_id.clone() };
        let text = serde_json::to_vec(&entry).expect("a journal entry has only string keys");
        let journal = self.to.key(&format!("{}u/{:08}-{}.json", self.base, serial(), nonce()));
        store.put(&journal, &text)?;
        Ok(Upload::begin(self.state, Begun { upload_id, ..wanted }))
    }
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
