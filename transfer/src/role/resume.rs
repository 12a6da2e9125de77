//! Uploads of large files, remembered on the node: a worker that is started again lists an upload's parts and sends only what is missing.
//!
//! One file an upload, in the pod's state folder: the upload, then a line for each part that the store has answered. A part that was
//! sent and not written down is sent again. The store is asked what it has: an upload that is gone, or a part with another ETag, counts
//! as not sent.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::checksum::sha256_hex;
use crate::progress::say;
use crate::stamp::Stamp;
use crate::store::{Class, ObjectStore, StoreError};

/// An upload that was begun.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Begun {
    /// Key in the bucket.
    pub(super) key: String,
    pub(super) upload_id: String,
    /// The file that is sent, as it was.
    pub(super) stamp: Stamp,
    pub(super) part_size: u64,
}

/// A part that the store has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) number: u32,
    pub(super) etag: String,
    pub(super) crc64nvme: u64,
    pub(super) sha256: [u8; 32],
    pub(super) length: u64,
}

/// One upload's memory.
pub(super) struct Upload {
    pub(super) begun: Begun,
    parts: HashMap<u32, Part>,
    /// None when it cannot be written: then a restart sends the file again, and that is all.
    log: Option<Mutex<File>>,
    path: PathBuf,
}

fn place(state: &Path, key: &str) -> PathBuf {
    state.join("uploads").join(format!("{}.jsonl", &sha256_hex(key.as_bytes())[..32]))
}

impl Upload {
    /// The upload of this very file that an earlier worker has begun, with the parts that the store still has.
    pub(super) fn resume(state: &Path, store: &dyn ObjectStore, wanted: &Begun) -> Result<Option<Upload>, StoreError> {
        let path = place(state, &wanted.key);
        let Some((begun, mut parts)) = read(&path) else { return Ok(None) };
        let same = (&begun.key, begun.stamp, begun.part_size) == (&wanted.key, wanted.stamp, wanted.part_size);
        let listed = match same.then(|| store.list_parts(&begun.key, &begun.upload_id)) {
            // Keys that may not ask: all of it is sent again.
            Some(Err(e)) if e.class == Class::AccessDenied => None,
            Some(listed) => listed?,
            None => None,
        };
        let Some(listed) = listed else { return Ok(None) };
        let there: HashMap<u32, String> = listed.into_iter().collect();
        // What a part's answer was kept as begins with its ETag; some stores list it without quotes.
        let same = |kept: &str, etag: &str| kept.replace('"', "").starts_with(&etag.replace('"', ""));
        parts.retain(|part| there.get(&part.number).is_some_and(|etag| !etag.is_empty() && same(&part.etag, etag)));
        let mut upload = Upload::new(path, begun);
        parts.iter().for_each(|part| upload.write(part));
        upload.parts = parts.into_iter().map(|part| (part.number, part)).collect();
        Ok(Some(upload))
    }

    /// Remembers an upload that was just begun.
    pub(super) fn begin(state: &Path, begun: Begun) -> Upload {
        Upload::new(place(state, &begun.key), begun)
    }

    fn new(path: PathBuf, begun: Begun) -> Upload {
        let log = create(&path, &begun);
        if let Err(e) = &log {
            say(&format!("{}: {e}; a restarted worker would send the file again", path.display()));
        }
        Upload { begun, parts: HashMap::new(), log: log.ok().map(Mutex::new), path }
    }

    /// A part that need not be sent.
    pub(super) fn part(&self, number: u32) -> Option<&Part> {
        self.parts.get(&number)
    }

    /// Bytes that need not be sent.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.values().map(|part| part.length).sum()
    }

    /// The store has answered for this part.
    pub(super) fn write(&self, part: &Part) {
        let mut line = serde_json::to_vec(part).expect("a part has only string keys");
        line.push(b'\n');
        if let Some(Ok(mut log)) = self.log.as_ref().map(Mutex::lock) {
            // One write for a line: a worker that is killed leaves a whole one or a torn last one.
            let _ = log.write_all(&line);
        }
    }

    /// The upload is not used any more.
    pub(super) fn forget(self) {
        let _ = fs::remove_file(self.path);
    }
}

fn create(path: &Path, begun: &Begun) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    // A new file that takes the old one's place whole.
    let partial = path.with_extension("partial");
    let mut file = OpenOptions::new().append(true).create_new(true).open(&partial).or_else(|_| {
        fs::remove_file(&partial)?;
        OpenOptions::new().append(true).create_new(true).open(&partial)
    })?;
    let mut line = serde_json::to_vec(begun)?;
    line.push(b'\n');
    file.write_all(&line)?;
    fs::rename(partial, path)?;
    Ok(file)
}

fn read(path: &Path) -> Option<(Begun, Vec<Part>)> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    let begun = serde_json::from_str(lines.next()?).ok()?;
    Some((begun, lines.filter_map(|line| serde_json::from_str(line).ok()).collect()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn begun(folder: &Path) -> Begun {
        fs::write(folder.join("file"), "x").unwrap();
        let stamp = Stamp::of(&fs::metadata(folder.join("file")).unwrap());
        Begun { key: "k".into(), upload_id: "id".into(), stamp, part_size: 8 }
    }

    fn part(number: u32) -> Part {
        Part { number, etag: format!("\"e{number}\""), crc64nvme: 5, sha256: [number as u8; 32], length: 8 }
    }

    #[test]
    fn a_torn_last_line_is_a_part_that_was_not_sent() {
        let folder = tempfile::tempdir().unwrap();
        let wanted = begun(folder.path());
        let upload = Upload::begin(folder.path(), wanted.clone());
        upload.write(&part(1));
        upload.write(&part(2));
        let path = place(folder.path(), "k");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, &text[..text.len() - 5]).unwrap();
        assert_eq!(read(&path), Some((wanted.clone(), vec![part(1)])));
        // Begun anew, nothing of the old one is left.
        Upload::begin(folder.path(), wanted.clone());
        assert_eq!(read(&path), Some((wanted, vec![])));
    }
}
