//! Removing checkpoints: those that are not kept any more, and all of them once the job has delivered.

use std::collections::HashSet;

use crate::crew;
use crate::progress::{count, say};
use crate::role::{Context, Fault};

use super::repository::{Repository, attempt_of};

/// Requests at a time.
const THREADS: usize = 8;

/// Removes manifests and objects that are not `named`, of this attempt and lower ones: a higher one's are not known here. Returns how
/// many went.
pub(super) fn garbage(repository: &Repository, named: &HashSet<&str>) -> Result<u64, Fault> {
    let old = |key: &String| attempt_of(key).is_some_and(|attempt| attempt <= repository.me.attempt);
    let mut removed = 0;
    // Manifests first: one without its objects would be worse than objects without a manifest.
    for kind in ["m/", "o/"] {
        removed += all(repository, repository.keys(kind)?.into_iter().filter(|k| old(k) && !named.contains(k.as_str())).collect())?;
    }
    Ok(removed)
}

/// Removes what lower attempts left in folders of their own. One that still runs may add to it: that goes with the job.
pub(super) fn lower(repository: &Repository) {
    if let Err(fault) = repository.lower_keys().and_then(|keys| all(&repository.whole(), keys)) {
        say(&format!("earlier attempts' checkpoints are left for now: {fault}"));
    }
}

fn all(repository: &Repository, keys: Vec<String>) -> Result<u64, Fault> {
    let n = keys.len() as u64;
    crew::run(THREADS, keys, |key| repository.store.delete(&repository.key(&key)))?;
    Ok(n)
}

/// Removes all of a job's checkpoints: it has delivered, or does not want them. The head goes first, so that nothing more is published
/// and nothing half removed is restored. Failures are said, not returned: what is left is garbage for the bucket's lifecycle rule.
pub fn remove(context: &Context) {
    match removed(context) {
        Ok(0) => {}
        Ok(n) => say(&format!("the job's checkpoints are removed: {}", count(n, "object"))),
        Err(fault) => say(&format!("checkpoints are left for the bucket's lifecycle rule: {fault}")),
    }
}

fn removed(context: &Context) -> Result<u64, Fault> {
    let Some(repository) = Repository::of(context)? else { return Ok(0) };
    repository.store.delete(&repository.key("head"))?;
    all(&repository, repository.keys("")?)
}
