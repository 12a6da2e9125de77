//! Downloading inputs: names are kept, bytes are checked against what the store keeps with them.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::checksum::{Check, nonce};
use crate::plan::CONTROL;
use crate::progress::Meter;
use crate::receipt::reason;
use crate::spec::Input;
use crate::store::location::Location;
use crate::store::{Class, Info, ObjectStore};

use super::Fault;

/// Where a file is written until it is whole, below the input's folder.
const PARTIAL: &str = ".gpujob-partial";

/// One object to download.
pub(super) struct Wanted {
    store: Arc<dyn ObjectStore>,
    key: String,
    /// Size by the listing.
    pub(super) size: u64,
    root: PathBuf,
    name: String,
}

/// Lists what an input consists of.
pub(super) fn list(input: &Input, store: Arc<dyn ObjectStore>, place: &Location) -> Result<Vec<Wanted>, Fault> {
    let root = PathBuf::from(&input.path);
    let one = |key: String, size, name: String| Wanted { store: store.clone(), key, size, root: root.clone(), name };
    let prefix = if place.key.is_empty() || place.key.ends_with('/') {
        place.key.clone()
    } else {
        // An object of that very name comes first in the listing of names that begin with it.
        let first = store.list(&place.key, None)?;
        if let Some((key, size)) = first.objects.into_iter().find(|(key, _)| *key == place.key) {
            let name = key.rsplit('/').next().unwrap_or_default().to_string();
            return Ok(vec![one(key, size, name)]);
        }
        format!("{}/", place.key)
    };
    let (mut wanted, mut page) = (vec![], None);
    loop {
        let found = store.list(&prefix, page.as_deref())?;
        for (key, size) in found.objects {
            let name = key.strip_prefix(&prefix).unwrap_or_default().to_string();
            // Another job's results are an input without its control objects.
            if !name.is_empty() && !name.starts_with(CONTROL) {
                wanted.push(one(key, size, name));
            }
        }
        page = found.next;
        if page.is_none() {
            break;
        }
    }
    if wanted.is_empty() {
        let message = format!("{}: no object is there; check inputs[].from", input.from);
        return Err(Fault::permanent(reason::INPUT_NOT_FOUND, message));
    }
    Ok(wanted)
}

/// The path of a name below `root`, or why there is none.
fn below(root: &Path, name: &str) -> Result<PathBuf, String> {
    for part in name.trim_end_matches('/').split('/') {
        if part.is_empty() || part == "." || part == ".." || part.contains('\0') {
            return Err(format!("{name:?} is no path of a file system: it has an empty, . or .. part"));
        }
        if part.len() > 255 {
            return Err(format!("{name:?} has a part of more than 255 bytes"));
        }
    }
    Ok(root.join(name.trim_end_matches('/')))
}

impl Wanted {
    /// Reads its first bytes.
    pub(super) fn begin(&self) -> Result<(), Fault> {
        below(&self.root, &self.name).map_err(|e| Fault::permanent("InvalidInputName", e))?;
        match self.store.get(&self.key, &mut |_| ControlFlow::Break(())) {
            Err(e) if e.class == Class::NotFound => self.about().map(drop),
            Err(e) if e.class != Class::Stopped => Err(e.into()),
            _ => Ok(()),
        }
    }

    /// What the store says about it; asked with a reader's permission.
    pub(super) fn about(&self) -> Result<Info, Fault> {
        self.store.head(&self.key)?.ok_or_else(|| {
            let name = self.store.name(&self.key);
            Fault::permanent(reason::INPUT_NOT_FOUND, format!("{name} was deleted after it was listed"))
        })
    }

    /// Downloads it, whole and checked, under its final name. Returns its size.
    pub(super) fn fetch(&self, meter: &Meter) -> Result<u64, Fault> {
        let path = below(&self.root, &self.name).map_err(|e| Fault::permanent("InvalidInputName", e))?;
        let local = |e: io::Error| Fault::disk(&path.display().to_string(), &e);
        if self.name.ends_with('/') {
            folders(&self.root, &path).map_err(local)?;
            return Ok(0);
        }
        folders(&self.root, path.parent().unwrap_or(&self.root)).map_err(local)?;
        let partial = self.root.join(PARTIAL).join(nonce());
        let mut mismatch = String::new();
        for _ in 0..3 {
            match self.once(&partial, meter)? {
                Ok(size) => {
                    fs::set_permissions(&partial, fs::Permissions::from_mode(0o666)).map_err(local)?;
                    fs::rename(&partial, &path).map_err(local)?;
                    meter.add(1, 0);
                    return Ok(size);
                }
                Err(why) => mismatch = why,
            }
        }
        let name = self.store.name(&self.key);
        Err(Fault::passing(reason::CHECKSUM_MISMATCH, format!("{name}: {mismatch}, 3 times")))
    }

    /// One download. `Ok(Err(why))` when the bytes are not those that were stored.
    fn once(&self, partial: &Path, meter: &Meter) -> Result<Result<u64, String>, Fault> {
        let local = |e: io::Error| Fault::disk(&self.root.join(&self.name).display().to_string(), &e);
        // What to check against is known only from the answer's head, so it is asked first; a listing has no checksums.
        let about = self.about()?;
        let mut check = Check::against(&about.sums);
        let mut file = create(partial).map_err(local)?;
        let (mut size, mut failed) = (0u64, None);
        let answer = self.store.get(&self.key, &mut |piece| {
            if let Err(e) = file.write_all(piece) {
                failed = Some(e);
                return ControlFlow::Break(());
            }
            if let Some(check) = &mut check {
                check.update(piece);
            }
            size += piece.len() as u64;
            meter.add(0, piece.len() as u64);
            ControlFlow::Continue(())
        });
        if let Some(e) = failed {
            return Err(local(e));
        }
        let got = match answer {
            Ok(got) => got,
            Err(e) if e.class == Class::NotFound => {
                let name = self.store.name(&self.key);
                return Err(Fault::permanent(reason::INPUT_NOT_FOUND, format!("{name} was deleted meanwhile")));
            }
            Err(e) => return Err(e.into()),
        };
        if size != got.size || got.version != about.version {
            return Ok(Err(format!("{size} of {} bytes came, or it was replaced meanwhile", got.size)));
        }
        Ok(match check.map(Check::finish) {
            Some(Err((got, want))) => Err(format!("its checksum is {got}, the store has {want}")),
            _ => Ok(size),
        })
    }
}

/// Makes folders below `root` that main can write in, whatever its user.
fn folders(root: &Path, folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(parent) = folder.parent()
        && folder != root
    {
        folders(root, parent)?;
    }
    match fs::create_dir(folder) {
        Ok(()) => fs::set_permissions(folder, fs::Permissions::from_mode(0o777)),
        // Another thread was quicker.
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => Ok(()),
        Err(e) => Err(e),
    }
}

fn create(partial: &Path) -> io::Result<File> {
    if let Some(folder) = partial.parent() {
        fs::create_dir_all(folder)?;
    }
    OpenOptions::new().write(true).create(true).truncate(true).open(partial)
}

/// Removes what unfinished downloads have left in an input's folder.
pub(super) fn tidy(root: &Path) {
    let _ = fs::remove_dir_all(root.join(PARTIAL));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder() {
        let root = Path::new("/data");
        assert_eq!(below(root, "a b/ü.csv"), Ok(PathBuf::from("/data/a b/ü.csv")));
        assert_eq!(below(root, "folder/"), Ok(PathBuf::from("/data/folder")));
        for bad in ["../x", "a/../../x", "/etc/passwd", "a//b", "./x", "", &"n".repeat(300)] {
            assert!(below(root, bad).is_err(), "{bad}");
        }
    }
}
