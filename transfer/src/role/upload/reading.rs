//! Reading files that may be written to meanwhile.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::super::Fault;
use super::super::walk::{Found, unreadable};
use crate::receipt::reason;
use crate::stamp::Stamp;
use crate::store::{Class, StoreError, Stretch};

/// Opens a file by its canonical path; none when something else is there by now. Since the folder was read a program may have put a link in
/// the file's place, or in that of a folder on the way, which would publish the secrets of this container; or a pipe, which nobody
/// may ever write to.
pub(in crate::role) fn regular(path: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = match rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS) {
        // Before Linux 5.6, or below a filter that does not know it: then only the last name is safe.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::open(path, flags, Mode::empty()),
        other => other,
    };
    let file = match opened {
        // A link, a socket, a file where a folder was.
        Err(Errno::LOOP | Errno::NXIO | Errno::NOTDIR) => return Ok(None),
        other => File::from(other?),
    };
    Ok(file.metadata()?.is_file().then_some(file))
}

/// The file and what it is now; none when it was deleted. `written`: somebody may write to it through a memory map. A page that is dirty
/// takes more writes without any trace in the file's times, so it is written back first: the next write then leaves one.
pub(super) fn open(found: &Found, written: bool) -> Result<Option<(File, Metadata)>, Fault> {
    let file = match regular(&found.path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        // The folder is read again by whoever tries again: then it counts as what it is.
        Ok(None) => return Err(changing(found)),
        Ok(Some(file)) => file,
        Err(e) => return Err(unreadable(&found.path, &e)),
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use rustix::fs::FileType;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::time::SystemTime;

    #[test]
    fn what_took_a_files_place_is_neither_followed_nor_waited_for() {
        let (results, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = results.path().canonicalize().unwrap();
        let path = root.join("folder/a");
        fs::create_dir(root.join("folder")).unwrap();
        fs::write(&path, "1").unwrap();
        fs::write(outside.path().join("a"), "secret").unwrap();
        let stamp = Stamp::of(&fs::metadata(&path).unwrap());
        let found = Found { name: "folder/a".into(), path: path.clone(), size: 1, stamp, written: SystemTime::now() };
        let tried = || open(&found, false).map(|file| file.is_some()).map_err(|fault| fault.reason);
        assert_eq!(tried(), Ok(true));
        fs::remove_file(&path).unwrap();
        assert_eq!(tried(), Ok(false), "deleted");
        symlink(outside.path().join("a"), &path).unwrap();
        assert_eq!(tried(), Err(reason::FILE_CHANGING), "a link");
        fs::remove_file(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
        assert_eq!(tried(), Err(reason::FILE_CHANGING), "a pipe");
        fs::remove_file(&path).unwrap();
        let socket = UnixListener::bind(&path).unwrap();
        assert_eq!(tried(), Err(reason::FILE_CHANGING), "a socket");
        drop(socket);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(tried(), Err(reason::FILE_CHANGING), "a folder");
        fs::rename(root.join("folder"), root.join("moved")).unwrap();
        symlink(outside.path(), root.join("folder")).unwrap();
        assert_eq!(tried(), Err(reason::FILE_CHANGING), "a link on the way");
    }
}
