//! Saving: a snapshot's new files are uploaded, then its manifest, then the head names it.

use std::collections::{HashMap, HashSet};
use std::fs::Metadata;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use crate::progress::{count, say, size};
use crate::receipt::reason;
use crate::role::{Context, Fault};

use super::budget::measured;
use super::folder::{Item, Seen, snapshot};
use super::head::{Head, Kept, claim, publish};
use super::repository::{Repository, SET_LIMIT, Unusable};
use super::set::{Content, Entry, Kind, Set};
use super::state::State;
use super::upload::{Limits, Sent, Source, Stop, Uploader, missing};
use super::{called, collect, time};
use crate::stamp::Stamp;

/// A process's right to save, and what it knows is in the store.
pub(super) struct Session {
    repository: Repository,
    root: PathBuf,
    keep: usize,
    memory: PathBuf,
    pub(super) state: State,
    head: Head,
    /// Manifests of what the head keeps, by key.
    sets: HashMap<String, Set>,
    known: HashMap<Stamp, Content>,
    next: AtomicU64,
    /// What was sent for a checkpoint that was not finished.
    sent: Mutex<Sent>,
}

/// What came of a save.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Saved {
    /// This one is complete.
    Published(Kept),
    /// Nothing changed since the last one.
    Unchanged,
    /// There is no file.
    Empty,
}

impl Session {
    /// Takes over the head that `fetch` has claimed. `None`: the job has no checkpoints.
    pub(super) fn claim(context: &Context) -> Result<Option<Session>, Fault> {
        let (Some(wanted), Some(mut repository)) = (&context.spec.checkpoints, Repository::of(context)?) else { return Ok(None) };
        let head = repository.claim(false)?;
        let mut sets = HashMap::new();
        for kept in &head.kept {
            match repository.set(kept) {
                Ok(set) => drop(sets.insert(kept.manifest.clone(), set)),
                Err(Unusable::Damaged(why)) => {
                    say(&format!(
                        "{} cannot be read: {why}; until it is kept no more, nothing is removed",
                        called(kept.number, kept.attempt)
                    ));
                }
                Err(Unusable::Failed(fault)) => return Err(fault),
            }
        }
        let state = State::load(&context.state);
        let mut session = Session {
            root: wanted.path.clone().into(),
            keep: wanted.keep as usize,
            memory: context.state.clone(),
            known: state.known(),
            next: AtomicU64::new(0),
            sent: Mutex::default(),
            repository,
            state,
            head,
            sets,
        };
        session.forget();
        Ok(Some(session))
    }

    /// Only what a kept checkpoint names is sure to stay in the store.
    fn forget(&mut self) {
        let named: HashSet<&str> = self.sets.values().flat_map(Set::objects).collect();
        self.known.retain(|_, content| content.pieces.iter().all(|piece| named.contains(piece.object.as_str())));
        self.sent = Mutex::default();
    }

    /// The newest complete checkpoint.
    pub(super) fn newest(&self) -> Option<&Kept> {
        self.head.kept.last()
    }

    /// Saves the folder as it is now, if it is still for `quiet` and has changed.
    pub(super) fn save(&mut self, quiet: Duration, limits: &Limits<'_>) -> Result<Saved, Stop> {
        let items = snapshot(&self.root, &self.known, quiet)?;
        if !items.iter().any(|item| item.about.is_file()) {
            return Ok(Saved::Empty);
        }
        if self.is_newest(&items) {
            return Ok(Saved::Unchanged);
        }
        listable(items.iter().map(|item| item.path.len() + LEAST).sum(), items.len())?;
        let entries = self.upload(items, limits)?;
        let number = self.head.kept.iter().map(|k| k.number).max().unwrap_or(0) + 1;
        let set = Set { v: 1, attempt: self.repository.me.attempt, number, taken: time::now() as u64, entries };
        let kept = self.publish(&set)?;
        self.sets.insert(kept.manifest.clone(), set);
        self.sets.retain(|manifest, _| self.head.kept.iter().any(|k| k.manifest == *manifest));
        self.forget();
        self.remember();
        self.collect();
        Ok(Saved::Published(kept))
    }

    /// Whether the last checkpoint is this very set: the same names, times and bytes.
    fn is_newest(&self, items: &[Item]) -> bool {
        let Some(set) = self.head.kept.last().and_then(|k| self.sets.get(&k.manifest)) else { return false };
        set.entries.len() == items.len()
            && set.entries.iter().zip(items).all(|(entry, item)| {
                entry.path == item.path
                    && match (&entry.kind, &item.kind) {
                        (Kind::File(was), Seen::Known(is)) => was == is,
                        (Kind::Folder, Seen::Folder) => true,
                        (was @ Kind::Link { .. }, Seen::Link(is)) => *was == Kind::link(is),
                        _ => false,
                    }
            })
    }

    fn upload(&mut self, items: Vec<Item>, limits: &Limits<'_>) -> Result<Vec<Entry>, Stop> {
        let mut entries = Vec::with_capacity(items.len());
        // Two names of one file are uploaded once.
        let mut sources: Vec<(PathBuf, Metadata, Option<std::fs::File>)> = vec![];
        let mut once: HashMap<Stamp, usize> = HashMap::new();
        let mut waiting: Vec<(usize, usize)> = vec![];
        for item in items {
            let kind = match item.kind {
                Seen::Known(content) => Kind::File(content),
                Seen::Folder => Kind::Folder,
                Seen::Link(target) => Kind::link(&target),
                Seen::File(file) => {
                    let at = *once.entry(Stamp::of(&item.about)).or_insert_with(|| {
                        sources.push((self.root.join(&item.path), item.about.clone(), file));
                        sources.len() - 1
                    });
                    waiting.push((entries.len(), at));
                    Kind::Folder
                }
            };
            entries.push(entry(item.path, &item.about, kind));
        }
        let work: Vec<_> = sources.iter().map(|(path, about, file)| Source { path, about, file: file.as_ref() }).collect();
        let bytes = self.sent.lock().map_or(0, |sent| missing(&work, &sent));
        (limits.budget)().allows(bytes, time::now()).map_err(Stop::Short)?;
        // A zombie could publish nothing, and should not send anything either.
        self.repository.change(|found| claim(&self.repository.me, found, false))?;
        let left = AtomicU64::new(bytes);
        let uploader = Uploader { repository: &self.repository, limits, next: &self.next, sent: &self.sent, left };
        let began = Instant::now();
        let contents = uploader.all(&work)?;
        self.state.rate = measured(self.state.rate, bytes, began.elapsed());
        // What a checkpoint is about to name is found by its file from now on.
        self.known.extend(work.iter().zip(&contents).map(|(source, content)| (Stamp::of(source.about), content.clone())));
        for (entry, source) in waiting {
            entries[entry].kind = Kind::File(contents[source].clone());
        }
        Ok(entries)
    }

    fn publish(&mut self, set: &Set) -> Result<Kept, Fault> {
        let (bytes, sha256) = set.encode();
        listable(bytes.len(), set.entries.len())?;
        let me = &self.repository.me;
        let manifest = format!("m/{:08}-{:08}-{}.json", me.attempt, set.number, me.process);
        self.repository.store.put(&self.repository.key(&manifest), &bytes)?;
        let files = set.files().count() as u64;
        let kept = Kept { attempt: me.attempt, number: set.number, manifest, sha256, files, bytes: set.bytes() };
        self.head = self.repository.change(|found| publish(me, found, &kept, self.keep))?;
        Ok(kept)
    }

    /// Writes the memory down.
    pub(super) fn remember(&mut self) {
        self.state.set_known(&self.known);
        if let Err(e) = self.state.store(&self.memory) {
            say(&format!("{}: {e}; a restarted sidecar will upload checkpoints again", self.memory.display()));
        }
    }

    /// Removes what the head does not name any more. Only after a publish: then the head is known to be as this process wrote it.
    fn collect(&mut self) {
        // Of one whose manifest could not be read the objects are not known: until it is kept no more, nothing goes.
        if self.head.kept.iter().any(|kept| !self.sets.contains_key(&kept.manifest)) {
            return;
        }
        let mut named: HashSet<&str> = self.head.kept.iter().map(|k| k.manifest.as_str()).collect();
        named.extend(self.sets.values().flat_map(Set::objects));
        match collect::garbage(&self.repository, &named) {
            Ok(0) => {}
            Ok(removed) => say(&format!("removed {} of earlier checkpoints", count(removed, "object"))),
            Err(fault) => say(&format!("earlier checkpoints are left for now: {fault}")),
        }
        if self.repository.is_apart() && self.head.kept.len() >= self.keep {
            collect::lower(&self.repository);
        }
    }
}

/// Bytes of an entry in a manifest, at least, without its name.
const LEAST: usize = 60;

/// Whether a restore can read a manifest of so many bytes: one that it cannot must not push out those that it can.
fn listable(bytes: usize, entries: usize) -> Result<(), Fault> {
    if bytes <= SET_LIMIT {
        return Ok(());
    }
    let most = size(SET_LIMIT as u64);
    let message = format!(
        "{entries} names are too many for a checkpoint: its list has {} or more, {most} at most; keep fewer there",
        size(bytes as u64)
    );
    Err(Fault::permanent(reason::TOO_MANY_FILES, message))
}

fn entry(path: String, about: &Metadata, kind: Kind) -> Entry {
    let mode = about.permissions().mode() & 0o7777;
    Entry { path, mode, uid: about.uid(), gid: about.gid(), mtime: (about.mtime(), about.mtime_nsec()), kind }
}

/// For a log line.
pub(super) fn described(kept: &Kept) -> String {
    format!("{} ({}, {})", called(kept.number, kept.attempt), count(kept.files, "file"), size(kept.bytes))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_manifest_that_no_restore_reads_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let about = std::fs::metadata(folder.path()).unwrap();
        let least = entry(String::new(), &about, Kind::Folder);
        assert!(serde_json::to_vec(&least).unwrap().len() >= LEAST, "{least:?}");
        assert!(listable(SET_LIMIT, 1).is_ok());
        let fault = listable(SET_LIMIT + 1, 7_000_000).unwrap_err();
        assert_eq!((fault.reason, fault.retryable), (reason::TOO_MANY_FILES, false));
        assert!(fault.message.contains("7000000 names"), "{fault}");
    }
}
