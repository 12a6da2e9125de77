//! Staging files: small ones in packs, medium ones as objects under the attempt's staging, large ones as multipart uploads against their final
//! keys, left uncompleted. Nothing of it is visible.

use std::fs::{File, Metadata};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::checksum::{crc64nvme_text, hex};
use crate::crew;
use crate::plan::{FileSum, Item, PART, Skipped, Staged, Strong};
use crate::progress::{Meter, say};
use crate::stamp::Stamp;
use crate::store::Stretch;

use super::destination::Destination;
use super::ledger::{Entry, Ledger};
use super::walk::{Found, unreadable};
use super::{Fault, pack};

mod known;
mod large;
mod reading;
mod small;

pub(super) use reading::regular;
use reading::{changing, open, same, was_changed};

/// How many packs, files or parts at a time, to a store that answers at once.
const THREADS: usize = 4;
/// At most, to one that is far away: each holds a pack, and a worker that is killed sends at most so many parts again.
const MOST: usize = 10;
/// How long a file that changes while it is read is waited for, each time.
const PATIENCE: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(3)];

/// Stages the files of one attempt.
pub(super) struct Stager<'a> {
    pub(super) to: &'a Destination,
    /// This process's folder in the attempt's staging, below the destination: no two workers ever write one key.
    pub(super) base: String,
    /// Set when the attempt is revoked.
    pub(super) stop: &'a AtomicBool,
    pub(super) meter: Meter,
    /// Where uploads are remembered for the next worker.
    pub(super) state: &'a Path,
    /// What is staged already.
    pub(super) ledger: &'a Ledger,
    /// What is staged already is read again before it is believed.
    pub(super) recheck: bool,
    /// Main may still write.
    pub(super) main_runs: bool,
    /// How many packs, files or parts at a time.
    pub(super) threads: usize,
}

/// Whether a staging key is the journal of an upload.
pub(super) fn is_journal(key: &str) -> bool {
    key.ends_with(".json") && key.rsplit('/').nth(1) == Some("u")
}

/// One try at a file.
enum Once {
    Staged(Item),
    /// It was written to meanwhile.
    Changed,
}

impl Staging {
    fn add(&mut self, name: String, item: Option<Item>) {
        match item {
            Some(item) => self.items.push(item),
            None => self.gone.push(Skipped { path: name, why: "deleted while results were staged".into() }),
        }
    }
}

/// What came of staging a list of files.
#[derive(Default)]
pub(super) struct Staging {
    pub(super) items: Vec<Item>,
    /// What was deleted meanwhile.
    pub(super) gone: Vec<Skipped>,
}

/// How many packs, files or parts are sent to this destination at a time.
pub(super) fn threads(to: &Destination) -> usize {
    let threads = crew::for_latency(THREADS, MOST, to.latency());
    if threads > THREADS {
        say(&format!("the store takes {} ms for an answer: {threads} requests at a time", to.latency().as_millis()));
    }
    threads
}

/// A number that no other object of this process has.
fn serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Stager<'_> {
    /// Stages all files that are not staged as they are.
    pub(super) fn all(&self, files: Vec<Found>) -> Result<Staging, Fault> {
        let mut staging = Staging::default();
        let (mut small, mut medium, mut large) = (vec![], vec![], vec![]);
        for found in files {
            let list = match found.size {
                _ if self.known(&found, &mut staging)? => continue,
                0..=pack::SMALL => &mut small,
                size if size <= PART => &mut medium,
                _ => &mut large,
            };
            list.push(found);
        }
        for part in crew::run(self.threads, pack::groups(small), |group| self.pack(group))? {
            staging.items.extend(part.items);
            staging.gone.extend(part.gone);
        }
        for (name, item) in crew::run(self.threads, medium, |found| self.one(&found, 1).map(|item| (found.name, item)))? {
            staging.add(name, item);
        }
        // Two large files at a time or more, the parts of each in parallel: while one begins or ends, the others are sent.
        let files = large.len().clamp(1, (self.threads / 2).max(2));
        let threads = self.threads.div_ceil(files);
        for (name, item) in crew::run(files, large, |found| self.one(&found, threads).map(|item| (found.name, item)))? {
            staging.add(name, item);
        }
        Ok(staging)
    }

    fn go_on(&self) -> Result<(), Fault> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Fault::revoked("the claim was lost while results were staged".into()));
        }
        Ok(())
    }

    /// Stages one file, its parts by so many threads; none when it was deleted meanwhile.
    fn one(&self, found: &Found, threads: usize) -> Result<Option<Item>, Fault> {
        for patience in PATIENCE {
            self.go_on()?;
            let Some((file, about)) = open(found, self.main_runs)? else { return Ok(None) };
            let once = if about.len() <= PART { self.medium(found, &file, &about)? } else { self.large(found, &file, &about, threads)? };
            match once {
                Once::Staged(item) => {
                    self.note(vec![Entry { stamp: Stamp::of(&about), item: item.clone() }])?;
                    self.meter.add(1, 0);
                    return Ok(Some(item));
                }
                Once::Changed => std::thread::sleep(patience),
            }
        }
        Err(changing(found))
    }

    /// Sends a file as one object.
    fn medium(&self, found: &Found, file: &File, about: &Metadata) -> Result<Once, Fault> {
        let read = Stretch::read(file, 0, about.len()).map_err(|e| unreadable(&found.path, &e))?;
        let Some(stretch) = read.filter(|_| same(found, about)) else { return Ok(Once::Changed) };
        let key = format!("{}o/{:08}", self.base, serial());
        match self.to.store.put_stretch(&self.to.key(&key), &stretch) {
            Err(e) if was_changed(&e, found, about, &stretch) => return Ok(Once::Changed),
            other => other?,
        };
        self.meter.add(0, about.len());
        let file = FileSum {
            path: found.name.clone(),
            size: about.len(),
            crc64nvme: crc64nvme_text(stretch.crc64nvme),
            strong: Strong::Whole(hex(&stretch.sha256)),
        };
        Ok(Once::Staged(Item { file, staged: Staged::Object { key } }))
    }

    /// Writes down what is staged, and forgets the uploads whose place it takes.
    fn note(&self, entries: Vec<Entry>) -> Result<(), Fault> {
        let kept: Vec<Staged> = entries.iter().map(|entry| entry.item.staged.clone()).collect();
        for old in self.ledger.add(entries) {
            if let Staged::Upload { upload_id, .. } = &old.staged
                && !kept.contains(&old.staged)
            {
                self.to.store.abort_upload(&self.to.key(&old.file.path), upload_id)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn journals_are_told_from_objects() {
        assert!(is_journal(".gpujob/staging/1-p/n/u/00000001-ab.json"));
        assert!(!is_journal(".gpujob/staging/1-p/n/o/00000001"));
        assert!(!is_journal(".gpujob/staging/1-p/n/plan.json"));
    }
}
