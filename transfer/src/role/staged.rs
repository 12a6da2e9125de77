//! Whether all that a plan names is there, asked before any of it is made visible: a commit that finds a file lost half-way has
//! published the other half.
//!
//! Packs and objects are told by one listing of the attempt's staging. Uploads are in no listing that every store gives (it needs a right
//! of its own, and MinIO answers for one exact key only): each is asked for its first part, a request for more than 8 MiB of results. What a
//! roller before this one has landed may be staged no more: it counts by what lies at its key, and is not landed again.

use std::collections::HashSet;

use crate::crew;
use crate::plan::{Item, Plan, Staged, staging};

use super::destination::Destination;
use super::{Fault, pack};

/// Looks at everything with so many requests at a time. The items that are to be landed, or the name of one that is neither staged nor at
/// its key.
///
/// # Errors
/// The store's.
pub(super) fn look<'a>(to: &Destination, plan: &'a Plan, threads: usize) -> Result<Result<Vec<&'a Item>, String>, Fault> {
    let gone = gone(to, plan, threads)?;
    let doubtful = plan.items.iter().filter(|item| key(item).is_none_or(|key| gone.contains(key))).collect();
    let landed = crew::run(threads, doubtful, |item: &Item| {
        let staged = match &item.staged {
            Staged::Upload { upload_id, parts } => to.store.holds_upload(&to.key(&item.file.path), upload_id, parts),
            Staged::Object { .. } | Staged::Pack { .. } => Ok(false),
        };
        if staged.map_err(|e| Err(e.into()))? {
            return Ok(None);
        }
        // `Err(Ok)` ends the crew at the first one that is lost.
        if pack::is_there(to, item, true).map_err(Err)? { Ok(Some(item.file.path.as_str())) } else { Err(Ok(item.file.path.clone())) }
    });
    match landed {
        Ok(landed) => {
            let landed: HashSet<&str> = landed.into_iter().flatten().collect();
            Ok(Ok(plan.items.iter().filter(|item| !landed.contains(item.file.path.as_str())).collect()))
        }
        Err(Ok(path)) => Ok(Err(path)),
        Err(Err(fault)) => Err(fault),
    }
}

/// The packs and objects of the plan that are not there. A listing may be behind, and a loss is for good: what it does not show is asked
/// for by name.
fn gone<'a>(to: &Destination, plan: &'a Plan, threads: usize) -> Result<HashSet<&'a str>, Fault> {
    let mut missing: HashSet<&str> = plan.items.iter().filter_map(key).collect();
    if missing.is_empty() {
        return Ok(missing);
    }
    for listed in to.keys(&staging(plan.attempt, &plan.pod_uid))? {
        missing.remove(listed.as_str());
    }
    let asked = crew::run(threads, missing.into_iter().collect(), |key: &str| {
        to.store.head(&to.key(key)).map(|there| there.is_none().then_some(key))
    })?;
    Ok(asked.into_iter().flatten().collect())
}

/// The staged object with an item's bytes, below the destination.
fn key(item: &Item) -> Option<&str> {
    match &item.staged {
        Staged::Object { key } | Staged::Pack { key, .. } => Some(key),
        Staged::Upload { .. } => None,
    }
}
