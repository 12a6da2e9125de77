//! Removing checkpoints: those that are not kept any more, and all of them once the job has delivered.

use std::collections::HashSet;

use crate::crew;
use crate::progress::{count, say};
use crate::role::destination::SMALL;
use crate::role::{Context, Fault};
use crate::store::read;

use super::repository::{Repository, attempt_of};
use super::upload::Journal;

/// Requests at a time.
const THREADS: usize = 8;

/// Removes manifests and objects that are not `named`, of this attempt and lower ones: a higher one's are not known here. With
/// `uploads` also what earlier processes left half uploaded. Returns how many objects went.
pub(super) fn garbage(repository: &Repository, named: &HashSet<&str>, uploads: bool) -> Result<u64, Fault> {
    let old = |key: &String| attempt_of(key).is_some_and(|attempt| attempt <= repository.me.attempt);
    // Manifests first: one without its objects would be worse than objects without a manifest.
    let manifests: Vec<String> = repository.keys("m/")?.into_iter().filter(|k| old(k) && !named.contains(k.as_str())).collect();
    let objects: Vec<String> = repository.keys("o/")?.into_iter().filter(|k| old(k) && !named.contains(k.as_str())).collect();
    let removed = (manifests.len() + objects.len()) as u64;
    crew::run(THREADS, manifests, |key| repository.store.delete(&repository.key(&key)))?;
    crew::run(THREADS, objects, |key| repository.store.delete(&repository.key(&key)))?;
    if uploads {
        let own = repository.own("u");
        let left: Vec<String> = repository.keys("u/")?.into_iter().filter(|k| old(k) && !k.starts_with(&own)).collect();
        crew::run(THREADS, left, |key| abort(repository, &key))?;
    }
    Ok(removed)
}

/// Aborts a journalled upload, then forgets it.
fn abort(repository: &Repository, journal: &str) -> Result<(), Fault> {
    let key = repository.key(journal);
    if let Some((bytes, _)) = read(&*repository.store, &key, SMALL)?
        && let Ok(entry) = serde_json::from_slice::<Journal>(&bytes)
    {
        // Its key is told from where the journal lies: `apart/<attempt>/` may stand before both.
        let folder = journal.rfind("u/00").map_or("", |at| &journal[..at]);
        repository.store.abort_upload(&repository.key(&format!("{folder}{}", entry.key)), &entry.upload_id)?;
    }
    Ok(repository.store.delete(&key)?)
}

/// Removes what lower attempts left in folders of their own. One that still runs may add to it: that goes with the job.
pub(super) fn lower(repository: &Repository) {
    let whole = repository.whole();
    if let Err(fault) = repository.lower_keys().and_then(|keys| all(&whole, keys)) {
        say(&format!("earlier attempts' checkpoints are left for now: {fault}"));
    }
}

/// Removes these, uploads first: a journal goes once its upload is aborted.
fn all(repository: &Repository, keys: Vec<String>) -> Result<(), Fault> {
    let (journals, others): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| key.starts_with("u/") || key.contains("/u/"));
    crew::run(THREADS, journals, |key| abort(repository, &key))?;
    crew::run(THREADS, others, |key| repository.store.delete(&repository.key(&key))).map(drop)?;
    Ok(())
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
    let keys = repository.keys("")?;
    let n = keys.len() as u64;
    all(&repository, keys)?;
    Ok(n)
}
