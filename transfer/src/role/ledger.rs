//! What of the results folder is staged already: kept in the pod's state folder, so that a worker that is started again goes on.
//!
//! A line for each staged file: what the file was when it was read, and where its bytes are. A file that is still the same need not be
//! sent again. A torn last line is a file that was not staged.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::checksum::sha256_hex;
use crate::plan::Item;
use crate::progress::say;
use crate::stamp::Stamp;

/// One staged file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub(super) stamp: Stamp,
    pub(super) item: Item,
}

/// The staged files of one attempt.
pub(super) struct Ledger {
    known: Mutex<HashMap<String, Entry>>,
    /// None when it cannot be written: then a restart sends everything again, and that is all.
    log: Option<Mutex<File>>,
    /// What is added is only written down: nobody looks for it again.
    last: bool,
}

impl Ledger {
    /// The ledger of the attempt that stages below `staging`.
    pub(super) fn open(state: &Path, staging: &str) -> Ledger {
        let path = state.join(format!("staged-{}.jsonl", &sha256_hex(staging.as_bytes())[..16]));
        let known = read(&path).unwrap_or_default();
        let log = fs::create_dir_all(state).and_then(|()| rewrite(&path, &known));
        if let Err(e) = &log {
            say(&format!("{}: {e}; a restarted worker would send everything again", path.display()));
        }
        Ledger { known: Mutex::new(known), log: log.ok().map(Mutex::new), last: false }
    }

    /// The same for the last look at a folder, which asks for each file once: of a million files that are not kept in memory twice. It
    /// knows what was written down; to look again, open it again.
    pub(super) fn last(state: &Path, staging: &str) -> Ledger {
        Ledger { last: true, ..Ledger::open(state, staging) }
    }

    /// Where this very file is staged, if it is.
    pub(super) fn find(&self, name: &str, stamp: &Stamp) -> Option<Item> {
        let known = self.known.lock().ok()?;
        known.get(name).filter(|entry| entry.stamp == *stamp).map(|entry| entry.item.clone())
    }

    /// Whether a file of that name was staged, as whatever it was then.
    pub(super) fn has(&self, name: &str) -> bool {
        self.known.lock().is_ok_and(|known| known.contains_key(name))
    }

    /// Writes down what the store has answered for. Returns what it takes the place of.
    pub(super) fn add(&self, entries: Vec<Entry>) -> Vec<Item> {
        let mut lines = Vec::new();
        for entry in &entries {
            // A serializer that writes to memory has no way to fail here.
            let _ = serde_json::to_writer(&mut lines, entry);
            lines.push(b'\n');
        }
        if let Some(Ok(mut log)) = self.log.as_ref().map(Mutex::lock) {
            let _ = log.write_all(&lines);
        }
        let Ok(mut known) = self.known.lock() else { return vec![] };
        let mut replace = |entry: Entry| {
            if self.last { known.remove(&entry.item.file.path) } else { known.insert(entry.item.file.path.clone(), entry) }
        };
        entries.into_iter().filter_map(&mut replace).map(|old| old.item).collect()
    }
}

fn read(path: &Path) -> io::Result<HashMap<String, Entry>> {
    let mut known = HashMap::new();
    for line in BufReader::new(File::open(path)?).split(b'\n') {
        if let Ok(entry) = serde_json::from_slice::<Entry>(&line?) {
            known.insert(entry.item.file.path.clone(), entry);
        }
    }
    Ok(known)
}

/// Without what was replaced and without a torn line, to which the next one would be glued.
fn rewrite(path: &Path, known: &HashMap<String, Entry>) -> io::Result<File> {
    let partial = path.with_extension("partial");
    let mut file = io::BufWriter::new(OpenOptions::new().write(true).create(true).truncate(true).open(&partial)?);
    for entry in known.values() {
        serde_json::to_writer(&mut file, entry)?;
        file.write_all(b"\n")?;
    }
    file.flush()?;
    fs::rename(&partial, path)?;
    OpenOptions::new().append(true).open(path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::{FileSum, Staged, Strong};

    fn entry(folder: &Path, name: &str, text: &str) -> Entry {
        fs::write(folder.join(name), text).unwrap();
        let stamp = Stamp::of(&fs::metadata(folder.join(name)).unwrap());
        let file = FileSum { path: name.into(), size: 1, crc64nvme: "AA=".into(), strong: Strong::Whole("ab".into()) };
        Entry { stamp, item: Item { file, staged: Staged::Pack { key: "p".into(), offset: 0 } } }
    }

    #[test]
    fn it_outlives_a_worker_and_its_last_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (entry(folder.path(), "a", "1"), entry(folder.path(), "b", "1"));
        let ledger = Ledger::open(folder.path(), "s/");
        assert!(ledger.add(vec![a.clone(), b.clone()]).is_empty());
        let newer = entry(folder.path(), "a", "longer");
        assert_eq!(ledger.add(vec![newer.clone()]), std::slice::from_ref(&a.item));
        drop(ledger);
        let log = fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).find(|p| p.extension().is_some()).unwrap();
        OpenOptions::new().append(true).open(&log).unwrap().write_all(b"{\"stamp\":{\"dev").unwrap();
        let ledger = Ledger::open(folder.path(), "s/");
        assert_eq!(ledger.find("a", &newer.stamp), Some(newer.item.clone()));
        assert_eq!(ledger.find("a", &a.stamp), None);
        assert_eq!(ledger.find("b", &b.stamp), Some(b.item.clone()));
        // What is added after it is not glued to it.
        let c = entry(folder.path(), "c", "1");
        ledger.add(vec![c.clone()]);
        assert_eq!(Ledger::open(folder.path(), "s/").find("c", &c.stamp), Some(c.item));
        // The last one remembers nothing and forgets nothing.
        let last = Ledger::last(folder.path(), "s/");
        let (d, newest) = (entry(folder.path(), "d", "1"), entry(folder.path(), "a", "longest"));
        assert_eq!(last.add(vec![d.clone(), newest.clone()]), [ledger.find("a", &newer.stamp).unwrap()]);
        assert_eq!((last.find("d", &d.stamp), last.find("b", &b.stamp)), (None, Some(b.item)));
        let again = Ledger::last(folder.path(), "s/");
        assert_eq!((again.find("d", &d.stamp), again.find("a", &newest.stamp)), (Some(d.item), Some(newest.item)));
        // Another attempt has one of its own.
        assert!(!Ledger::open(folder.path(), "t/").has("b"));
    }
}
