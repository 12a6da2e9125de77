//! One checkpoint: everything that was in the folder at one moment.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
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
    /// Its number, counted over all attempts that share a head.
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
        /// As it was written; for people only where `exact` is there.
        target: String,
        /// The target's bytes in base64, where they are not UTF-8.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exact: Option<String>,
    },
}

impl Kind {
    /// A link that leads there.
    pub fn link(target: &OsStr) -> Kind {
        let exact = target.to_str().is_none().then(|| STANDARD.encode(target.as_bytes()));
        Kind::Link { target: target.to_string_lossy().into_owned(), exact }
    }

    /// Where a link leads; none of what is no link, or of one that cannot be read.
    pub fn target(&self) -> Option<OsString> {
        match self {
            Kind::Link { target, exact: None } => Some(target.into()),
            Kind::Link { exact: Some(exact), .. } => STANDARD.decode(exact).ok().map(OsString::from_vec),
            Kind::File(_) | Kind::Folder => None,
        }
    }
}

/// A file's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// How many.
    pub size: u64,
    /// The objects that have them, in order; none for an empty file.
    pub pieces: Vec<Piece>,
}

/// A piece of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Key of the object that is this piece, below the repository.
    pub object: String,
    /// Bytes.
    pub size: u64,
    /// Their CRC-64/NVME, base64 of 8 big-endian bytes.
    pub crc64nvme: String,
}

impl Content {
    /// Of a file's pieces.
    pub fn of(pieces: Vec<Piece>) -> Content {
        Content { size: pieces.iter().map(|piece| piece.size).sum(), pieces }
    }
}

impl Set {
    /// Its files.
    pub fn files(&self) -> impl Iterator<Item = &Content> {
        self.entries.iter().filter_map(|e| if let Kind::File(content) = &e.kind { Some(content) } else { None })
    }

    /// The objects that have its files' bytes.
    pub fn objects(&self) -> impl Iterator<Item = &str> {
        self.files().flat_map(|file| &file.pieces).map(|piece| piece.object.as_str())
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
        if let Some(entry) = set.entries.iter().find(|e| !plain(&e.path)) {
            return Err(format!("its manifest has the name {:?}, which leads out of the folder", entry.path));
        }
        if let Some(entry) = set.entries.iter().find(|e| matches!(e.kind, Kind::Link { .. }) && e.kind.target().is_none()) {
            return Err(format!("its manifest does not say where the link {:?} leads", entry.path));
        }
        let torn = |file: &&Content| file.pieces.iter().try_fold(0u64, |sum, piece| sum.checked_add(piece.size)) != Some(file.size);
        if let Some(file) = set.files().find(torn) {
            return Err(format!("its manifest has a file of {} bytes whose pieces have others", file.size));
        }
        Ok(set)
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
        let content = Content::of(vec![Piece { object: "o/1-x/0".into(), size: 3, crc64nvme: "AA=".into() }]);
        let entry = |path: &str, kind| Entry { path: path.into(), mode: 0o600, uid: 1000, gid: 1000, mtime: (-1, 5), kind };
        let entries = vec![entry(path, Kind::File(content)), entry("empty", Kind::Folder), entry("latest", Kind::link("a/b".as_ref()))];
        Set { v: 1, attempt: 1, number: 2, taken: 3, entries }
    }

    #[test]
    fn reads_back_only_what_was_published() {
        let (bytes, sum) = set("a/b").encode();
        assert_eq!(Set::decode(&bytes, &sum).unwrap(), set("a/b"));
        assert!(Set::decode(&bytes, "00").is_err());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&json["entries"][0]["kind"], &json["entries"][0]["pieces"][0]["size"]), (&"file".into(), &3.into()));
        assert_eq!((set("a").bytes(), set("a").objects().collect::<Vec<_>>()), (3, vec!["o/1-x/0"]));
        let mut torn = set("a/b");
        if let Kind::File(content) = &mut torn.entries[0].kind {
            content.size = 4;
        }
        let (bytes, sum) = torn.encode();
        assert!(Set::decode(&bytes, &sum).is_err());
    }

    #[test]
    fn links_lead_where_they_led_whatever_their_bytes() {
        for target in [&b"a/b"[..], b"gone/\xff\xfe", "ü".as_bytes()] {
            let mut set = set("a");
            set.entries[2].kind = Kind::link(OsStr::from_bytes(target));
            let (bytes, sum) = set.encode();
            let back = Set::decode(&bytes, &sum).unwrap();
            assert_eq!(back.entries[2].kind.target().unwrap().as_bytes(), target);
            assert_eq!(back, set);
        }
        let (bytes, _) = set("a").encode();
        assert!(!String::from_utf8(bytes).unwrap().contains("exact"), "a usual one is written as ever");
        let mut bad = set("a");
        bad.entries[2].kind = Kind::Link { target: "x".into(), exact: Some("no base64".into()) };
        let (bytes, sum) = bad.encode();
        assert!(Set::decode(&bytes, &sum).is_err());
    }

    #[test]
    fn names_do_not_leave_the_folder() {
        for bad in ["../x", "/etc/passwd", "a//b", "a/./b", "", "a\0"] {
            let (bytes, sum) = set(bad).encode();
            assert!(Set::decode(&bytes, &sum).is_err(), "{bad:?}");
        }
    }
}
