//! Restoring: the newest complete checkpoint is put back before main starts.
//!
//! All of it is downloaded and checked out of sight first: what is found damaged half-way leaves nothing behind, and the one before is
//! taken.

use std::fs::{self, File, FileTimes};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::checksum::{Check, Stored};
use crate::crew;
use crate::progress::{Meter, count, say, size};
use crate::role::{Context, Fault};
use crate::store::{Class, READINGS};

use super::called;
use super::head::drop_damaged;
use super::repository::{Repository, Unusable};
use super::set::{Content, Entry, Kind, Piece, Set};
use super::state::State;
use crate::stamp::Stamp;

/// Downloads at a time.
const THREADS: usize = 8;
/// Where files are until all are whole, below the folder.
const ASIDE: &str = ".gpujob-restore";

/// Claims the job's checkpoints for this attempt, and puts the newest complete one into its folder. Returns what came of it, for the
/// receipt: which one was put back, and which were damaged. `None`: there is none, the job saves none, or this pod has it already.
///
/// # Errors
/// `Revoked`, the store's, the disk's. Damaged checkpoints are no error while an earlier one is whole; if none is, main starts
/// without.
pub fn restore(context: &Context) -> Result<Option<String>, Fault> {
    let (Some(wanted), Some(mut repository)) = (&context.spec.checkpoints, Repository::of(context)?) else { return Ok(None) };
    let root = Path::new(&wanted.path);
    crate::role::stage::prepare(root);
    let head = repository.claim(true)?;
    let mut state = State::load(&context.state);
    if state.restored {
        say("this pod has its checkpoint already; what lies there now is newer");
        return Ok(None);
    }
    let (mut damaged, mut passed, mut restored) = (vec![], vec![], None);
    for (place, kept) in repository.complete(&head)? {
        let name = called(kept.number, kept.attempt);
        match place.set(&kept).and_then(|set| put_back(&place, root, &set).map(|()| set)) {
            Ok(set) => {
                // What lies in another attempt's folder is that attempt's to remove, and cannot be named here.
                let usable = set.entries.iter().filter(|_| !repository.is_apart());
                state.set_known(&usable.filter_map(|e| Some((stamp(root, e)?, content(e)?.clone()))).collect());
                restored = Some(format!("restored {name} ({}, {})", count(kept.files, "file"), size(kept.bytes)));
                break;
            }
            Err(Unusable::Damaged(why)) => {
                say(&format!("{name} is damaged: {why}; trying the one before"));
                damaged.push(kept.manifest.clone());
                passed.push(name);
            }
            Err(Unusable::Failed(fault)) => return Err(fault),
        }
    }
    if !damaged.is_empty() {
        repository.change(|found| drop_damaged(&repository.me, found, &damaged))?;
    }
    match &restored {
        Some(restored) => say(&format!("{restored} to {}", wanted.path)),
        None => say(&format!("no checkpoint is at {}: main starts from the beginning", repository.name())),
    }
    state.restored = true;
    state.store(&context.state).map_err(|e| Fault::disk(&context.state.display().to_string(), &e))?;
    Ok(told(restored, &passed))
}

/// What was put back, and what was passed over.
fn told(restored: Option<String>, passed: &[String]) -> Option<String> {
    let Some(newest) = passed.first() else { return restored };
    let more = if passed.len() > 1 { format!(" and {} before it", passed.len() - 1) } else { String::new() };
    Some(format!("{}; damaged: {newest}{more}", restored.as_deref().unwrap_or("no checkpoint could be restored")))
}

fn content(entry: &Entry) -> Option<&Content> {
    if let Kind::File(content) = &entry.kind { Some(content) } else { None }
}

fn stamp(root: &Path, entry: &Entry) -> Option<Stamp> {
    fs::symlink_metadata(root.join(&entry.path)).ok().map(|about| Stamp::of(&about))
}

fn put_back(repository: &Repository, root: &Path, set: &Set) -> Result<(), Unusable> {
    let aside = root.join(ASIDE);
    let disk = |path: &Path| {
        let path = path.display().to_string();
        move |e: io::Error| Unusable::Failed(Fault::disk(&path, &e))
    };
    let _ = fs::remove_dir_all(&aside);
    fs::DirBuilder::new().mode(0o700).create(&aside).map_err(disk(&aside))?;
    let files: Vec<(usize, &Entry, &Content)> = set.entries.iter().enumerate().filter_map(|(n, e)| Some((n, e, content(e)?))).collect();
    let meter = Meter::new("restored", files.len() as u64, set.bytes());
    let at = |n: usize| aside.join(n.to_string());
    let got = fetch(repository, &files, &at, &meter)
        .and_then(|()| files.iter().try_for_each(|(n, entry, _)| dress(&at(*n), entry, 0o666).map_err(disk(&at(*n)))));
    if let Err(why) = got {
        let _ = fs::remove_dir_all(&aside);
        return Err(why);
    }
    // From here on nothing can be damaged any more. Links last: nothing is written through them.
    for entry in set.entries.iter().filter(|e| e.kind == Kind::Folder) {
        folders(root, &root.join(&entry.path)).map_err(disk(root))?;
    }
    for (n, entry, _) in files {
        let path = root.join(&entry.path);
        folders(root, path.parent().unwrap_or(root)).map_err(disk(root))?;
        fs::rename(at(n), &path).map_err(disk(&path))?;
    }
    for entry in &set.entries {
        let path = root.join(&entry.path);
        match &entry.kind {
            Kind::Link { .. } => {
                let _ = fs::remove_file(&path);
                // A manifest whose links say nothing is not read.
                if let Some(target) = entry.kind.target() {
                    symlink(target, &path).map_err(disk(&path))?;
                }
            }
            Kind::Folder => dress(&path, entry, 0o777).map_err(disk(&path))?,
            Kind::File(_) => {}
        }
    }
    fs::remove_dir_all(&aside).map_err(disk(&aside))
}

/// Downloads files, all pieces of all of them side by side.
fn fetch(
    repository: &Repository,
    files: &[(usize, &Entry, &Content)],
    at: &(dyn Fn(usize) -> PathBuf + Sync),
    meter: &Meter,
) -> Result<(), Unusable> {
    let mut pieces = vec![];
    for (n, _, content) in files {
        let path = at(*n);
        // Not held open: a set may have more files than a process may open.
        File::create(&path).map_err(|e| Unusable::Failed(Fault::disk(&path.display().to_string(), &e)))?;
        let path = Arc::new(path);
        let mut offset = 0;
        for piece in &content.pieces {
            pieces.push((path.clone(), offset, piece));
            offset += piece.size;
        }
        meter.add(1, 0);
    }
    crew::run(THREADS, pieces, |(path, offset, piece)| download(repository, piece, &path, offset, meter)).map(drop)
}

fn download(repository: &Repository, piece: &Piece, path: &Path, offset: u64, meter: &Meter) -> Result<(), Unusable> {
    let local = |e: io::Error| Unusable::Failed(Fault::disk(&path.display().to_string(), &e));
    let file = File::options().write(true).open(path).map_err(local)?;
    let key = repository.key(&piece.object);
    let mut mismatch = String::new();
    // Bytes may have been damaged on their way: only what is wrong each time is wrong in the store.
    for _ in 0..READINGS {
        let stored = Stored { crc64nvme: Some(piece.crc64nvme.clone()), ..Stored::default() };
        let mut check = Check::against(&stored).expect("a CRC is a check");
        let (mut size, mut failed) = (0, None);
        let got = repository.store.get(&key, &mut |bytes| {
            // More than it should be must not run into the next piece.
            if size + bytes.len() as u64 > piece.size {
                return ControlFlow::Break(());
            }
            if let Err(e) = file.write_all_at(bytes, offset + size) {
                failed = Some(e);
                return ControlFlow::Break(());
            }
            check.update(bytes);
            size += bytes.len() as u64;
            meter.add(0, bytes.len() as u64);
            ControlFlow::Continue(())
        });
        mismatch = match (failed, got) {
            (Some(e), _) => return Err(local(e)),
            (None, Err(e)) if e.class == Class::NotFound => return Err(repository.absent(&piece.object, piece.object.clone())),
            (None, Err(e)) if e.class == Class::Stopped => format!("{} has more than {} bytes", piece.object, piece.size),
            (None, Err(e)) => return Err(Unusable::Failed(e.into())),
            (None, Ok(_)) => match check.finish() {
                Ok(()) if size == piece.size => return Ok(()),
                Ok(()) => format!("{} has {size} bytes, not {}", piece.object, piece.size),
                Err((got, want)) => format!("{} has the checksum {got}, not {want}", piece.object),
            },
        };
    }
    Err(Unusable::Damaged(mismatch))
}

/// Owner, mode and time as they were. `more` permissions are added: main may run as another user than the one before, and must be
/// able to write over what it left.
fn dress(path: &Path, entry: &Entry, more: u32) -> io::Result<()> {
    // Only root may give files away; whoever runs as main's user owns them already.
    let _ = chown(path, Some(entry.uid), Some(entry.gid));
    fs::set_permissions(path, fs::Permissions::from_mode(entry.mode | more))?;
    if let Some(time) = moment(entry.mtime) {
        File::open(path)?.set_times(FileTimes::new().set_modified(time))?;
    }
    Ok(())
}

fn moment((seconds, nanos): (i64, i64)) -> Option<SystemTime> {
    let nanos = Duration::from_nanos(u64::try_from(nanos).ok()?);
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base?.checked_add(nanos)
}

/// Makes a folder below `root` and those above it, for main of whatever user.
fn folders(root: &Path, folder: &Path) -> io::Result<()> {
    let mut missing: Vec<PathBuf> = vec![];
    let mut at = folder;
    while at != root && !fs::symlink_metadata(at).is_ok_and(|about| about.is_dir()) {
        missing.push(at.into());
        at = at.parent().unwrap_or(root);
    }
    for path in missing.iter().rev() {
        // A link or file that an interrupted try, or the image, left in its place.
        let _ = fs::remove_file(path);
        fs::create_dir(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_over_is_told() {
        let (one, two) = ("restored A".to_string(), ["B".to_string(), "C".into()]);
        assert_eq!((told(None, &[]), told(Some(one.clone()), &[])), (None, Some(one.clone())));
        assert_eq!(told(Some(one), &two[..1]).as_deref(), Some("restored A; damaged: B"));
        assert_eq!(told(None, &two).as_deref(), Some("no checkpoint could be restored; damaged: B and 1 before it"));
    }

    #[test]
    fn times_before_1970_too() {
        assert_eq!(moment((1, 5)), UNIX_EPOCH.checked_add(Duration::new(1, 5)));
        assert_eq!(moment((-1, 5)), UNIX_EPOCH.checked_sub(Duration::new(0, 999_999_995)));
        assert_eq!(moment((0, -1)), None);
    }
}
