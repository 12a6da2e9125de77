//! What lies in a results folder, and what of it can be delivered.
//!
//! | what                                  | answer                                                            |
//! |---------------------------------------|-------------------------------------------------------------------|
//! | file, also empty, also of mode 0600   | delivered                                                         |
//! | name with spaces, unicode, quotes     | delivered under that very name                                    |
//! | name that is not UTF-8                | delivered, each invalid byte written as `%XX`                     |
//! | link to a file inside the folder      | its content is delivered under the link's name                    |
//! | link to a folder, out of the folder, or to nothing | not delivered; listed in the manifest as skipped     |
//! | socket, pipe, device                  | not delivered; listed in the manifest as skipped                  |
//! | what include and exclude leave out     | not delivered, not listed: it was asked for                       |
//! | file deleted meanwhile                | not delivered; listed as skipped if it was seen                    |
//! | file that changes while it is read    | read again; `FileChanging` if it still changes after main's end    |
//! | sparse file                           | delivered whole, its holes as zeros                                |
//! | empty folder                          | not delivered: object stores have no folders                      |
//! | `.gpujob`                             | refused (`ReservedName`)                                          |
//! | unreadable file or folder             | refused (`UnreadableFile`)                                        |
//! | name too long for a key of 1,024 bytes| refused (`NameTooLong`)                                           |

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::checksum::hex;
use crate::plan::Skipped;
use crate::receipt::reason;
use crate::stamp::Stamp;

use super::Fault;
use super::globs::Globs;

/// A file to deliver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Name below the destination.
    pub(super) name: String,
    /// Where it is read from; a link is resolved.
    pub(super) path: PathBuf,
    /// Size when it was found.
    pub(super) size: u64,
    /// What it was when it was found.
    pub(super) stamp: Stamp,
    /// When it was last written to.
    pub(super) written: SystemTime,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Files, in no particular order.
    pub(super) files: Vec<Found>,
    /// What is not delivered.
    pub(super) skipped: Vec<Skipped>,
}

/// Looks at everything below `root` that `globs` take; `room` is the longest name in bytes.
pub(super) fn tree(root: &Path, room: usize, globs: &Globs) -> Result<Walk, Fault> {
    let real = fs::canonicalize(root).map_err(|e| unreadable(root, &e))?;
    let mut walk = Walk::default();
    let mut folders = vec![(real.clone(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let entries = match fs::read_dir(&folder) {
            // Deleted since its parent was read.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !prefix.is_empty() => continue,
            other => other.map_err(|e| unreadable(&folder, &e))?,
        };
        for entry in entries {
            let entry = entry.map_err(|e| unreadable(&folder, &e))?;
            let name = format!("{prefix}{}", utf8(&entry.file_name()));
            if name == ".gpujob" {
                let message = format!("{}/.gpujob: that name is kept for GpuJob; rename it", root.display());
                return Err(Fault::permanent(reason::RESERVED_NAME, message));
            }
            let kind = entry.file_type().map_err(|e| unreadable(&entry.path(), &e))?;
            if kind.is_dir() {
                folders.push((entry.path(), format!("{name}/")));
            } else if !globs.take(&name) {
                // Left out as asked.
            } else if kind.is_symlink() {
                match inside(&entry.path(), &real) {
                    Ok(path) => add(&mut walk, name, path, room)?,
                    Err(why) => walk.skipped.push(Skipped { path: name, why: why.into() }),
                }
            } else if kind.is_file() {
                add(&mut walk, name, entry.path(), room)?;
            } else {
                walk.skipped.push(Skipped { path: name, why: "no regular file".into() });
            }
        }
    }
    let mut names = HashSet::new();
    if let Some(twice) = walk.files.iter().find(|f| !names.insert(f.name.as_str())) {
        let message = format!("two files would be delivered as {:?}: rename the one that is not UTF-8", twice.name);
        return Err(Fault::permanent("NameCollision", message));
    }
    walk.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(walk)
}

fn add(walk: &mut Walk, name: String, path: PathBuf, room: usize) -> Result<(), Fault> {
    if name.len() > room {
        let start: String = name.chars().take(60).collect();
        let message = format!("{start:?}… has {} bytes, the destination leaves {room}: shorten it", name.len());
        return Err(Fault::permanent("NameTooLong", message));
    }
    match fs::metadata(&path) {
        Ok(about) => {
            let written = about.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            walk.files.push(Found { name, path, size: about.len(), stamp: Stamp::of(&about), written });
        }
        // Deleted since the folder was read.
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(unreadable(&path, &e)),
    }
    Ok(())
}

/// The file that a link leads to, if it is one of the folder's own: a link out of it could publish the secrets of this
/// container.
pub(super) fn inside(link: &Path, root: &Path) -> Result<PathBuf, &'static str> {
    let target = fs::canonicalize(link).map_err(|_| "a link to nothing in the results folder")?;
    if !target.starts_with(root) {
        return Err("a link out of the results folder");
    }
    match fs::metadata(&target) {
        Ok(about) if about.is_file() => Ok(target),
        _ => Err("a link to something that is no file"),
    }
}

/// The name as UTF-8, every invalid byte as `%XX`.
fn utf8(name: &OsStr) -> String {
    let mut out = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        out.push_str(chunk.valid());
        for byte in chunk.invalid() {
            out.push_str(&format!("%{}", hex(&[*byte]).to_ascii_uppercase()));
        }
    }
    out
}

/// A file or folder that this process may not read.
pub(super) fn unreadable(path: &Path, error: &io::Error) -> Fault {
    let advice =
        if error.kind() == io::ErrorKind::PermissionDenied { "; let the pod's runAsUser be the user that writes the results" } else { "" };
    Fault::permanent(reason::UNREADABLE_FILE, format!("{}: {error}{advice}", path.display()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::ffi::OsStringExt;
    use std::os::unix::fs::symlink;

    fn names(walk: &Walk) -> Vec<&str> {
        let mut names: Vec<_> = walk.files.iter().map(|f| f.name.as_str()).collect();
        names.sort();
        names
    }

    #[test]
    fn everything_has_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("deep/er")).unwrap();
        fs::create_dir(at("empty")).unwrap();
        fs::write(at("deep/er/ü \"x\" +&.txt"), "1").unwrap();
        fs::write(at("zero"), "").unwrap();
        fs::write(dir.path().join(std::ffi::OsString::from_vec(b"bad\xff".to_vec())), "1").unwrap();
        symlink("zero", at("good-link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        symlink("/proc/self/environ", at("escape")).unwrap();
        symlink("deep", at("folder-link")).unwrap();
        std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let walk = tree(dir.path(), 1024, &Globs::all()).unwrap();
        assert_eq!(names(&walk), ["bad%FF", "deep/er/ü \"x\" +&.txt", "good-link", "zero"]);
        let skipped: Vec<_> = walk.skipped.iter().map(|s| s.path.as_str()).collect();
        assert_eq!(skipped, ["dangling", "escape", "folder-link", "socket"]);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".gpujob")).unwrap();
        assert_eq!(tree(dir.path(), 1024, &Globs::all()).unwrap_err().reason, reason::RESERVED_NAME);
        fs::remove_dir(dir.path().join(".gpujob")).unwrap();
        fs::create_dir(dir.path().join("sub")).unwrap();
        fs::write(dir.path().join("sub/.gpujob"), "below a folder it is a name like any other").unwrap();
        assert_eq!(tree(dir.path(), 1024, &Globs::all()).unwrap().files.len(), 1);
        assert_eq!(tree(dir.path(), 5, &Globs::all()).unwrap_err().reason, "NameTooLong");
        assert_eq!(tree(Path::new("/nowhere/at/all"), 9, &Globs::all()).unwrap_err().reason, reason::UNREADABLE_FILE);
    }
}
