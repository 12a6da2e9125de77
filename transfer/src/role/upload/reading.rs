//! Reading files that may be written to meanwhile.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;

use super::super::Fault;
use super::super::walk::{Found, unreadable};
use crate::receipt::reason;
use crate::stamp::Stamp;
use crate::store::{Class, StoreError, Stretch};

/// The file and what it is now; none when it was deleted. `written`: somebody may write to it through a memory map. A page that is dirty
/// takes more writes without any trace in the file's times, so it is written back first: the next write then leaves one.
pub(super) fn open(found: &Found, written: bool) -> Result<Option<(File, Metadata)>, Fault> {
    let file = match File::open(&found.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|e| unreadable(&found.path, &e))?,
    };
    if written {
        file.sync_data().map_err(|e| unreadable(&found.path, &e))?;
    }
    let about = file.metadata().map_err(|e| unreadable(&found.path, &e))?;
    Ok(Some((file, about)))
}

/// Whether the file at the path is still what was read.
pub(super) fn same(found: &Found, before: &Metadata) -> bool {
    fs::metadata(&found.path).is_ok_and(|now| Stamp::of(&now) == Stamp::of(before))
}

/// Whether a store refused this stretch of the file because it was written to meanwhile. Where its times do not tell, its bytes do.
pub(super) fn was_changed(refused: &StoreError, found: &Found, before: &Metadata, stretch: &Stretch<'_>) -> bool {
    refused.class == Class::BadDigest && !(same(found, before) && stretch.holds().unwrap_or(false))
}

/// Up to `length` bytes at an offset; shorter at the end of the file.
pub(super) fn piece(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
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

pub(super) fn changing(found: &Found) -> Fault {
    let advice = "it is still being written after main has ended; end its writer with main";
    Fault::passing(reason::FILE_CHANGING, format!("{}: {advice}", found.path.display()))
}
