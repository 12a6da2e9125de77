//! Copying a file and its checksum in one pass.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use crate::checksum::{Crc64, crc64nvme_text};

/// How much is copied at a time.
const PIECE: usize = 1 << 20;

/// Copies the file at `from` to `into`. Like [`from()`].
pub(super) fn checked(from: &Path, into: &Path) -> io::Result<Result<String, String>> {
    match File::open(from) {
        Ok(file) => self::from(&file, into),
        Err(e) => Ok(Err(e.to_string())),
    }
}

/// Copies to `into`, and answers with the CRC-64/NVME of what was copied, in base64; `Ok(Err(why))` when the source cannot be read.
///
/// # Errors
/// Those of writing.
pub(super) fn from(mut source: &File, into: &Path) -> io::Result<Result<String, String>> {
    if let Some(folder) = into.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut target = OpenOptions::new().write(true).create(true).truncate(true).open(into)?;
    // Btrfs and XFS share the blocks until one side writes; then only the check has to read.
    let shared = rustix::fs::ioctl_ficlone(&target, source).is_ok();
    let mut crc = Crc64::new();
    let mut piece = vec![0; PIECE];
    if let Err(e) = source.seek(SeekFrom::Start(0)) {
        return Ok(Err(e.to_string()));
    }
    loop {
        let n = match source.read(&mut piece) {
            Ok(0) => return Ok(Ok(crc64nvme_text(crc.finish()))),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Ok(Err(e.to_string())),
        };
        crc.update(&piece[..n]);
        if !shared {
            target.write_all(&piece[..n])?;
        }
    }
}
