//! Removing staging: objects are deleted, journalled uploads aborted, nothing else. A prefix may hold other people's
//! uploads, so only ids that an attempt has written down are ever aborted.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::crew;
use crate::plan::{Plan, Staged};
use crate::progress::{count, say};
use crate::store::{PROBES, probe_time, read};

use super::destination::{Destination, SMALL};
use super::{Fault, upload};

/// What is written down before an upload is first used.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Journal {
    /// The final key, below the destination.
    pub(super) key: String,
    /// The upload's id.
    pub(super) upload_id: String,
}

impl Journal {
    /// Whether it can have been written by an attempt. A damaged one without a key or an id would turn the abort into another request, of
    /// the object or of the bucket itself.
    fn is_whole(&self) -> bool {
        let plain = |text: &str| !text.trim().is_empty() && !text.contains(char::is_control);
        plain(&self.upload_id) && !self.key.is_empty() && !self.key.starts_with('/')
    }
}

/// A probe is older than this when nobody waits for its answer any more, whatever the nodes' clocks say.
const FORGOTTEN: u64 = 3600;

/// Removes what killed probes have left at the destination. Failures are said, not returned.
pub(super) fn probes(to: &Destination) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let old = |name: &String| probe_time(name).is_some_and(|made| made + FORGOTTEN < now);
    match to.keys(PROBES) {
        Ok(found) => staging(to, found.into_iter().filter(old).collect(), None),
        Err(fault) => say(&format!("old probes are left: {fault}")),
    }
}

/// Removes these staging keys, all of them.
///
/// # Errors
/// The store's: something is left.
pub(super) fn all(to: &Destination, keys: Vec<String>) -> Result<(), Fault> {
    crew::run(16, keys, |key| remove(to, &key, &HashSet::new())).map(drop)
}

/// Removes these staging keys. Failures are said, not returned: what is left is garbage, and the bucket's lifecycle
/// rule removes it.
pub(super) fn staging(to: &Destination, keys: Vec<String>, committed: Option<&Plan>) {
    if keys.is_empty() {
        return;
    }
    let completed: HashSet<&str> = committed
        .into_iter()
        .flat_map(|plan| &plan.items)
        .filter_map(|item| match &item.staged {
            Staged::Upload { upload_id, .. } => Some(upload_id.as_str()),
            Staged::Object { .. } | Staged::Pack { .. } => None,
        })
        .collect();
    let total = keys.len() as u64;
    // Journals go after their uploads, and so that a sweep that dies can be repeated, one by one.
    match crew::run(16, keys, |key| remove(to, &key, &completed)) {
        Ok(_) => say(&format!("removed {}", count(total, "staging object"))),
        Err(fault) => say(&format!("staging is left for the bucket's lifecycle rule: {fault}")),
    }
}

fn remove(to: &Destination, key: &str, completed: &HashSet<&str>) -> Result<(), Fault> {
    let full = to.key(key);
    if upload::is_journal(key)
        && let Some((bytes, _)) = read(&*to.store, &full, SMALL)?
        && let Ok(entry) = serde_json::from_slice::<Journal>(&bytes)
        && entry.is_whole()
        && !completed.contains(entry.upload_id.as_str())
    {
        to.store.abort_upload(&to.key(&entry.key), &entry.upload_id)?;
    }
    Ok(to.store.delete(&full)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_without_key_or_id_aborts_nothing() {
        let entry = |key: &str, id: &str| Journal { key: key.into(), upload_id: id.into() };
        assert!(entry("a b/ü", "VXBsb2Fk.id_-~").is_whole() && entry("a", "out/.gpujob/staging/parts/00/").is_whole());
        for (key, id) in [("", "id"), ("a", ""), ("a", " "), ("a", "i\nd"), ("/", "id")] {
            assert!(!entry(key, id).is_whole(), "{key:?} {id:?}");
        }
    }
}
