//! What the sink remembers: control objects whole, results only by size and checksum, inputs by their pattern.

use crate::shape::{PATTERN, Shape, pattern};
use anyhow::Result;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_join, crc64nvme_text};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// An object.
#[derive(Clone, Default)]
pub(crate) struct Object {
    pub(crate) size: u64,
    pub(crate) version: String,
    pub(crate) crc64nvme: String,
    /// Its bytes; `None`: the pattern, over and over.
    pub(crate) bytes: Option<Arc<Vec<u8>>>,
}

#[derive(Default)]
struct Held {
    objects: BTreeMap<String, Object>,
    /// Bytes of the parts of each upload.
    uploads: HashMap<String, u64>,
    next: u64,
}

/// The bucket.
pub(crate) struct Objects {
    held: Mutex<Held>,
    pub(crate) pattern: Vec<u8>,
    /// The pattern again.
    pub(crate) file: File,
}

/// Whether a key's bytes are kept: they are read again.
pub(crate) fn kept(key: &str) -> bool {
    key.contains(".gpujob")
}

impl Objects {
    pub(crate) fn new(folder: &Path) -> Result<Objects> {
        let (pattern, path) = (pattern(), folder.join("pattern"));
        std::fs::write(&path, &pattern)?;
        Ok(Objects { held: Mutex::default(), pattern, file: File::open(path)? })
    }

    fn with<T>(&self, what: impl FnOnce(&mut Held) -> T) -> T {
        what(&mut self.held.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Only the inputs of that shape, below `in/`.
    pub(crate) fn reset(&self, shape: &Shape) {
        let (mut crc, mut at) = (0, 0);
        let whole = crc64nvme(&self.pattern);
        while at < shape.size {
            let take = (shape.size - at).min(PATTERN as u64);
            let piece = if take == PATTERN as u64 { whole } else { crc64nvme(&self.pattern[..take as usize]) };
            crc = if at == 0 { piece } else { crc64nvme_join(crc, piece, take) };
            at += take;
        }
        let input = Object { size: shape.size, version: "\"input\"".into(), crc64nvme: crc64nvme_text(crc), bytes: None };
        self.with(|held| {
            *held = Held::default();
            held.objects.extend(shape.names().map(|name| (format!("in/{name}"), input.clone())));
        });
    }

    pub(crate) fn get(&self, key: &str) -> Option<Object> {
        self.with(|held| held.objects.get(key).cloned())
    }

    /// Writes an object if `may` allows it over what is there. Its version.
    pub(crate) fn put(&self, key: &str, mut object: Object, may: impl FnOnce(Option<&Object>) -> bool) -> Option<String> {
        self.with(|held| {
            if !may(held.objects.get(key)) {
                return None;
            }
            held.next += 1;
            // As of an object of parts: one of 32 digits would be taken for the MD5 of its bytes.
            object.version = format!("\"{:032x}-1\"", held.next);
            let version = object.version.clone();
            held.objects.insert(key.into(), object);
            Some(version)
        })
    }

    pub(crate) fn delete(&self, key: &str) {
        self.with(|held| held.objects.remove(key));
    }

    pub(crate) fn begin(&self) -> String {
        self.with(|held| {
            held.next += 1;
            let id = format!("upload{}", held.next);
            held.uploads.insert(id.clone(), 0);
            id
        })
    }

    pub(crate) fn part(&self, id: &str, bytes: u64) {
        self.with(|held| *held.uploads.entry(id.into()).or_default() += bytes);
    }

    pub(crate) fn finish(&self, id: &str) -> u64 {
        self.with(|held| held.uploads.remove(id).unwrap_or(0))
    }

    /// Up to 1,000 keys after `after` below `prefix`, and whether there are more.
    pub(crate) fn list(&self, prefix: &str, after: &str) -> (Vec<(String, u64)>, bool) {
        self.with(|held| {
            let start = if after > prefix { after } else { prefix };
            let mut found = held.objects.range(start.to_string()..).take_while(|(k, _)| k.starts_with(prefix)).filter(|(k, _)| *k != after);
            let page: Vec<_> = found.by_ref().take(1000).map(|(k, o)| (k.clone(), o.size)).collect();
            (page, found.next().is_some())
        })
    }
}
