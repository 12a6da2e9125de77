//! One checkpoint: everything that was in the folder at one moment.

use serde::{Deserialize, Serialize};

use crate::checksum::sha256_hex;

/// The manifest of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Set {
    /// Version of this format: 1.
    pub v: u32,
    /// The attempt that saved it.
    pub attempt: u32,
    /// Its number, counted over all of the job's attempts.
    pub number: u64,
    /// When the folder was looked at, in seconds since 1970.
    pub taken: u64,
    /// What was there, by path.
    pub entries: Vec<Entry>,
}

/// One thing in the folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Below the folder, parts joined by `/`.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of its last change: seconds since 1970 and nanoseconds.
    pub mtime: (i64, i64),
    /// File, folder or link.
    #[serde(flatten)]
    pub kind: Kind,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Kind {
    /// A regular file.
    File(Content),
    /// A folder; it may be empty.
    Folder,
    /// A symbolic link.
    Link {
        /// As it was written.
        target: String,
    },
}

/// A file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// Their CRC-64/NVME, base64 of 8 big-endian bytes.
    pub crc64nvme: String,
    /// Key of the object that has them, below the repository.
    pub object: String,
}

impl Set {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Content> {
        self.entries.iter().filter_map(|e| if let Kind::File(content) = &e.kind { Some(content) } else { None })
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files().fold(0, |sum, file| sum.saturating_add(file.size))
    }

    /// Its bytes and their SHA-256 in hex.
    pub fn encode(&self) -> (Vec<u8>, String) {
        let bytes = serde_json::to_vec(self).expect("a set has only string keys");
        let sum = sha256_hex(&bytes);
        (bytes, sum)
    }

    /// Reads a manifest that must be the one the head speaks of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], sha256: &str) -> Result<Set, String> {
        if sha256_hex(bytes) != sha256 {
            return Err("its manifest is not the one that was published: the SHA-256 differs".into());
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|e| format!("its manifest cannot be read: {e}"))?;
        match set.entries.iter().find(|e| !plain(&e.path)) {
            Some(entry) => Err(format!("its manifest has the name {:?}, which leads out of the folder", entry.path)),
            None => Ok(set),
        }
    }
}

/// Whether a path stays below the folder.
fn plain(path: &str) -> bool {
    !path.contains('\0') && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn set(path: &str) -> Set {
        let content = Content { size: 3, crc64nvme: "AA=".into(), object: "o/1-x/0".into() };
        let entry = |path: &str, kind| Entry { path: path.into(), mode: 0o600, uid: 1000, gid: 1000, mtime: (-1, 5), kind };
        let entries =
            vec![entry(path, Kind::File(content)), entry("empty", Kind::Folder), entry("latest", Kind::Link { target: "a/b".into() })];
        Set { v: 1, attempt: 1, number: 2, taken: 3, entries }
    }

    #[test]
    fn reads_back_only_what_was_published() {
        let (bytes, sum) = set("a/b").encode();
        assert_eq!(Set::decode(&bytes, &sum).unwrap(), set("a/b"));
        assert!(Set::decode(&bytes, "00").is_err());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&json["entries"][0]["kind"], &json["entries"][0]["object"]), (&"file".into(), &"o/1-x/0".into()));
        assert_eq!(set("a").bytes(), 3);
    }

    #[test]
    fn names_do_not_leave_the_folder() {
        for bad in ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\0"] {
            let (bytes, sum) = set(bad).encode();
            assert!(Set::decode(&bytes, &sum).is_err(), "{bad:?}");
        }
    }
}
