//! What tells that a file still is what it was, under whatever name.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

/// Identity, size and time of the last write: a rename keeps all of it, a write does not. Two writes within one step of the file
/// system's clock (some milliseconds) that leave the size can not be told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    seconds: i64,
    nanos: i64,
}

impl Stamp {
    /// Of a file's metadata.
    pub fn of(about: &Metadata) -> Stamp {
        let (seconds, nanos) = (about.mtime(), about.mtime_nsec());
        Stamp { device: about.dev(), inode: about.ino(), size: about.len(), seconds, nanos }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::fs;

    #[test]
    fn a_rename_keeps_it_and_a_write_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let stamp = |name: &str| Stamp::of(&fs::metadata(at(name)).unwrap());
        fs::write(at("a"), "x").unwrap();
        let before = stamp("a");
        fs::rename(at("a"), at("b")).unwrap();
        assert_eq!(stamp("b"), before);
        fs::write(at("b"), "yy").unwrap();
        assert_ne!(stamp("b"), before);
    }
}
