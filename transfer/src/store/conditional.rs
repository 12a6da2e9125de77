//! Whether a store really does conditional writes: some refuse them, and some accept the header and ignore it.
//!
//! Backblaze B2 answers 501; older MinIO, Ceph and SeaweedFS (before 4.17) overwrite. Only asking tells.

use super::{Class, Condition, ObjectStore, StoreError, probe_key};

/// What a store does with a write that must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conditional {
    /// It does not happen.
    Honoured,
    /// It happens all the same.
    Ignored,
    /// The store says that it does not know conditions.
    Refused,
}

/// Writes, below `folder` (empty or with a slash at its end), an object of its own that must not be overwritten, tries to,
/// and removes it. Five requests at most; leaves nothing.
///
/// # Errors
/// Those of writing and removing an object there.
pub fn probe(store: &dyn ObjectStore, folder: &str) -> Result<Conditional, StoreError> {
    let key = probe_key(folder);
    let first = match store.put_if(&key, b"1", Condition::Absent) {
        Ok(_) => again(store, &key, b"2"),
        Err(e) if e.class == Class::NotImplemented => return Ok(Conditional::Refused),
        // The answer to a first try was lost, and the second one met it.
        Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => Ok(Conditional::Honoured),
        Err(e) => Err(e),
    };
    // Whatever came of it: nothing may stay.
    store.delete(&key)?;
    first
}

/// Asks of an object that is there whether writes on its absence, and on a version that it does not have, are let through.
/// With the object's own bytes as `body` nothing is changed, whatever the store does.
///
/// # Errors
/// Those of writing there.
pub fn again(store: &dyn ObjectStore, key: &str, body: &[u8]) -> Result<Conditional, StoreError> {
    for condition in [Condition::Absent, Condition::Version(&store.no_version())] {
        match store.put_if(key, body, condition) {
            Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => {}
            Err(e) if e.class == Class::NotImplemented => return Ok(Conditional::Refused),
            Err(e) => return Err(e),
            Ok(_) => return Ok(Conditional::Ignored),
        }
    }
    Ok(Conditional::Honoured)
}
