//! What a process remembers for the next one of the same pod: which files are in the store already, how fast uploads went, and which
//! request was answered. Losing it costs an upload, never a checkpoint.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::set::Content;
use crate::stamp::Stamp;

/// The memory, as it is on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    /// The pod has its checkpoint: what lies in the folder is newer than the store's.
    pub(super) restored: bool,
    /// Bytes a second.
    pub(super) rate: Option<f64>,
    /// The request for a checkpoint that was answered last.
    pub(super) answered: String,
    known: Vec<(Stamp, Content)>,
}

impl State {
    fn at(folder: &Path) -> PathBuf {
        folder.join("checkpoints.json")
    }

    /// What an earlier process left; nothing when it cannot be read.
    pub(super) fn load(folder: &Path) -> State {
        fs::read(State::at(folder)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// Writes it, whole or not at all.
    pub(super) fn store(&self, folder: &Path) -> io::Result<()> {
        let partial = folder.join("checkpoints.json.partial");
        fs::write(&partial, serde_json::to_vec(self)?)?;
        fs::rename(partial, State::at(folder))
    }

    /// Files in the store.
    pub(super) fn known(&self) -> HashMap<Stamp, Content> {
        self.known.iter().cloned().collect()
    }

    /// Sets what [`State::known`] answers.
    pub(super) fn set_known(&mut self, known: &HashMap<Stamp, Content>) {
        self.known = known.iter().map(|(stamp, content)| (*stamp, content.clone())).collect();
        self.known.sort_by_key(|(stamp, _)| *stamp);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn survives_and_a_broken_one_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(State::load(folder.path()), State::default());
        fs::write(folder.path().join("a"), "x").unwrap();
        let stamp = Stamp::of(&fs::metadata(folder.path().join("a")).unwrap());
        let content = Content { size: 1, crc64nvme: "c".into(), object: "o".into() };
        let mut state = State { restored: true, rate: Some(7.5), answered: "t".into(), ..State::default() };
        state.set_known(&HashMap::from([(stamp, content)]));
        state.store(folder.path()).unwrap();
        assert_eq!(State::load(folder.path()), state);
        fs::write(folder.path().join("checkpoints.json"), "{").unwrap();
        assert_eq!(State::load(folder.path()), State::default());
    }
}
