//! The place of one job's checkpoints in a bucket, and the driver of its head.

use std::time::Duration;

use crate::receipt::reason;
use crate::role::{Context, Fault, open};
use crate::store::location::Location;
use crate::store::{Class, Condition, ObjectStore, read};

use super::head::{Head, Kept, Move, Writer};
use super::set::Set;

/// Largest head that is read.
const HEAD_LIMIT: usize = 1 << 20;
/// Largest manifest that is read: about a million files.
const SET_LIMIT: usize = 512 << 20;

/// One job's checkpoints, as one process sees them.
pub(super) struct Repository {
    pub(super) store: Box<dyn ObjectStore>,
    root: String,
    /// This process.
    pub(super) me: Writer,
}

/// Why a checkpoint cannot be used.
pub(super) enum Unusable {
    /// It is not what was published; another one may be.
    Damaged(String),
    /// It could not be read.
    Failed(Fault),
}

/// A bucket, and a folder in it.
pub(crate) type Place = (Box<dyn ObjectStore>, String);

/// Where a job's checkpoints are kept; `None`: it has none. Connects to nothing.
pub(crate) fn place(context: &Context) -> Result<Option<Place>, Fault> {
    let Some(wanted) = &context.spec.checkpoints else { return Ok(None) };
    let place = Location::parse(&wanted.to).map_err(|e| Fault::invalid(e.to_string()))?.folder();
    Ok(Some((open(&place, context.spec.integrity)?, place.key)))
}

impl Repository {
    /// Connects to nothing. `None`: the job has no checkpoints.
    pub(super) fn of(context: &Context) -> Result<Option<Repository>, Fault> {
        let Some((store, folder)) = place(context)? else { return Ok(None) };
        let job = &context.spec.job.uid;
        Ok(Some(Repository {
            store,
            // Below `.gpujob/`, which is no content of a destination and no input.
            root: format!("{folder}.gpujob/checkpoints/{job}-{}/", context.spec.index),
            me: Writer { attempt: context.spec.attempt, pod_uid: context.pod_uid.clone(), process: context.nonce.clone() },
        }))
    }

    /// The key of something below the repository.
    pub(super) fn key(&self, below: &str) -> String {
        format!("{}{below}", self.root)
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        self.store.name(&self.root)
    }

    /// The head and its version.
    pub(super) fn head(&self) -> Result<Option<(Head, String)>, Fault> {
        let Some((bytes, info)) = read(&*self.store, &self.key("head"), HEAD_LIMIT)? else { return Ok(None) };
        match serde_json::from_slice::<Head>(&bytes) {
            Ok(head) if head.v == 1 => Ok(Some((head, info.version))),
            _ => {
                let message = format!("{}head is not of this version of GpuJob; remove what lies there", self.name());
                Err(Fault::permanent(reason::INTERNAL, message))
            }
        }
    }

    /// Reads the head, asks `decide` and writes what it says, until a write is known to be ours or nothing is to be written. Returns
    /// the head as it is then; `Revoked` is a fault.
    pub(super) fn change(&self, mut decide: impl FnMut(Option<&Head>) -> Move) -> Result<Head, Fault> {
        let mut wrote: Option<Head> = None;
        for round in 0..60u32 {
            let found = self.head()?;
            if let (Some(wrote), Some((found, _))) = (&wrote, &found)
                && found.is_write(wrote)
            {
                return Ok(found.clone());
            }
            let next = match (decide(found.as_ref().map(|f| &f.0)), &found) {
                (Move::Write(next), _) => next,
                (Move::Holds, Some((head, _))) => return Ok(head.clone()),
                (Move::Holds, None) => return Err(Fault::permanent(reason::INTERNAL, "a head that is not there holds".into())),
                (Move::Revoked(who), _) => return Err(Fault::revoked(who)),
            };
            let bytes = serde_json::to_vec(&next).expect("a head has only string keys");
            let condition = found.as_ref().map_or(Condition::Absent, |(_, version)| Condition::Version(version));
            match self.store.put_if(&self.key("head"), &bytes, condition) {
                Ok(_) => return Ok(next),
                // Lost the race, or won it and lost the answer: only reading tells.
                Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => wrote = Some(next),
                Err(e) => return Err(e.into()),
            }
            std::thread::sleep(Duration::from_millis(u64::from(round.min(20)) * 10));
        }
        Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("the head at {} keeps changing", self.name())))
    }

    /// The manifest of a kept checkpoint.
    pub(super) fn set(&self, kept: &Kept) -> Result<Set, Unusable> {
        match read(&*self.store, &self.key(&kept.manifest), SET_LIMIT) {
            Ok(Some((bytes, _))) => Set::decode(&bytes, &kept.sha256).map_err(Unusable::Damaged),
            Ok(None) => Err(Unusable::Damaged("its manifest is gone".into())),
            Err(e) => Err(Unusable::Failed(e.into())),
        }
    }

    /// Every key below `below`, relative to the repository.
    pub(super) fn keys(&self, below: &str) -> Result<Vec<String>, Fault> {
        let (mut keys, mut page) = (vec![], None);
        loop {
            let found = self.store.list(&self.key(below), page.as_deref())?;
            keys.extend(found.objects.into_iter().filter_map(|(k, _)| k.strip_prefix(&self.root).map(str::to_string)));
            page = found.next;
            if page.is_none() {
                return Ok(keys);
            }
        }
    }

    /// `<kind>/<attempt>-<process>/`: only this process writes there.
    pub(super) fn own(&self, kind: &str) -> String {
        format!("{kind}/{:08}-{}/", self.me.attempt, self.me.process)
    }
}

/// The attempt in a key as `o/00000003-x/1`: whoever is told to remove something must not touch what a higher one wrote.
pub(super) fn attempt_of(key: &str) -> Option<u32> {
    key.split('/').nth(1)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_say_whose_they_are() {
        assert_eq!(attempt_of("o/00000003-x/1"), Some(3));
        assert_eq!(attempt_of("m/00000012-00000001-x.json"), Some(12));
        assert_eq!((attempt_of("head"), attempt_of("o/x")), (None, None));
    }
}
