//! The place of one job's checkpoints in a bucket, and the driver of its head.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::progress::say;
use crate::receipt::reason;
use crate::role::{Context, Fault, open};
use crate::store::conditional::{Conditional, again};
use crate::store::location::Location;
use crate::store::{Class, Condition, ObjectStore, READINGS, read};

use super::head::{Head, Kept, Move, Writer, claim};
use super::set::Set;

/// Where attempts' own folders are.
const APART: &str = "apart/";
/// Largest head that is read, and so that is written.
const HEAD_LIMIT: usize = 1 << 20;
/// Largest manifest that is read, and so that is published: about a million files.
pub(super) const SET_LIMIT: usize = 512 << 20;

/// One job's checkpoints, as one process sees them.
#[derive(Clone)]
pub(super) struct Repository {
    pub(super) store: Arc<dyn ObjectStore>,
    root: String,
    /// The attempt whose folder this is, where the store does not do conditional writes.
    apart: Option<u32>,
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

/// A bucket, and a prefix in it that ends with a slash or is empty.
pub(crate) type Place = (Box<dyn ObjectStore>, String);

/// The bucket and the folder that a job's checkpoints are kept in; `None`: it has none. Connects to nothing.
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
            store: store.into(),
            // Below `.gpujob/`, which is no content of a destination and no input.
            root: format!("{folder}.gpujob/checkpoints/{job}-{}/", context.spec.index),
            apart: None,
            me: Writer { attempt: context.spec.attempt, pod_uid: context.pod_uid.clone(), process: context.nonce.clone() },
        }))
    }

    /// The key of something below the repository.
    pub(super) fn key(&self, below: &str) -> String {
        match self.apart {
            None => format!("{}{below}", self.root),
            Some(attempt) => format!("{}{APART}{attempt:08}/{below}", self.root),
        }
    }

    /// Claims the head, for `fetch` (`fresh`) or for the sidecar after it, and finds out whether the store honours conditions.
    pub(super) fn claim(&mut self, fresh: bool) -> Result<Head, Fault> {
        let claimed = self.change(|found| claim(&self.me, found, fresh));
        let own = Repository { apart: Some(self.me.attempt), ..self.clone() };
        match claimed {
            Ok(head) if fresh => {
                let bytes = serde_json::to_vec(&head).expect("a head has only string keys");
                if again(&*self.store, &self.key("head"), &bytes)? == Conditional::Honoured {
                    return Ok(head);
                }
                self.store.delete(&self.key("head"))?;
            }
            // `fetch` may have found that the store does not do conditional writes.
            Err(fault) if !fresh && fault.reason == reason::REVOKED && own.head()?.is_some() => {}
            Err(fault) if fresh && fault.reason == reason::NO_CONDITIONAL_WRITES => {}
            other => return other,
        }
        if fresh {
            say(&format!("{} does not do conditional writes: each attempt saves in a folder of its own", self.name()));
        }
        *self = own;
        self.change(|found| claim(&self.me, found, fresh))
    }

    /// Whether each attempt has a folder of its own.
    pub(super) fn is_apart(&self) -> bool {
        self.apart.is_some()
    }

    /// The complete checkpoints that may be restored, newest first, and where each lies.
    pub(super) fn complete(&self, head: &Head) -> Result<Vec<(Repository, Kept)>, Fault> {
        let mut found: Vec<_> = head.kept.iter().map(|kept| (self.clone(), kept.clone())).collect();
        for attempt in self.lower()? {
            let there = Repository { apart: Some(attempt), ..self.clone() };
            if let Some((head, _)) = there.head()? {
                found.extend(head.kept.into_iter().map(|kept| (there.clone(), kept)));
            }
        }
        found.sort_by_key(|(_, kept)| (kept.attempt, kept.number));
        found.reverse();
        Ok(found)
    }

    /// Lower attempts that have a folder of their own.
    fn lower(&self) -> Result<BTreeSet<u32>, Fault> {
        if self.apart.is_none() {
            return Ok(BTreeSet::new());
        }
        let attempts = self.whole().keys(APART)?.into_iter().filter_map(|key| key.split('/').nth(1)?.parse().ok());
        Ok(attempts.filter(|attempt| *attempt < self.me.attempt).collect())
    }

    /// Everything below lower attempts' folders, as keys of [`Repository::whole`].
    pub(super) fn lower_keys(&self) -> Result<Vec<String>, Fault> {
        let mut keys = vec![];
        for attempt in self.lower()? {
            keys.extend(self.whole().keys(&format!("{APART}{attempt:08}/"))?);
        }
        Ok(keys)
    }

    /// The job's, whatever the attempt.
    pub(super) fn whole(&self) -> Repository {
        Repository { apart: None, ..self.clone() }
    }

    /// For people.
    pub(super) fn name(&self) -> String {
        self.store.name(&self.key(""))
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
            if bytes.len() > HEAD_LIMIT {
                let message = format!("{} checkpoints are more than a head can name: lower checkpoints.keep", next.kept.len());
                return Err(Fault::invalid(message));
            }
            let condition = found.as_ref().map_or(Condition::Absent, |(_, version)| Condition::Version(version));
            let key = self.key("head");
            // In a folder of its own nobody else writes.
            match if self.is_apart() { self.store.put(&key, &bytes) } else { self.store.put_if(&key, &bytes, condition) } {
                Ok(_) => return Ok(next),
                Err(e) if e.class == Class::NotImplemented => return Err(Fault::permanent(reason::NO_CONDITIONAL_WRITES, e.to_string())),
                // Lost the race, or won it and lost the answer: only reading tells.
                Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => wrote = Some(next),
                Err(e) => return Err(e.into()),
            }
            std::thread::sleep(Duration::from_millis(u64::from(round.min(20)) * 10));
        }
        Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("the head at {} keeps changing", self.name())))
    }

    /// The manifest of a kept checkpoint. Damaged is only what was read wrong three times: for the checkpoint that is for good, and not
    /// every store keeps a checksum that tells the way's damage from its own.
    pub(super) fn set(&self, kept: &Kept) -> Result<Set, Unusable> {
        let mut wrong = String::new();
        for _ in 0..READINGS {
            match read(&*self.store, &self.key(&kept.manifest), SET_LIMIT) {
                Ok(Some((bytes, _))) => match Set::decode(&bytes, &kept.sha256) {
                    Ok(set) => return Ok(set),
                    Err(why) => wrong = why,
                },
                Ok(None) => return Err(self.absent(&kept.manifest, "its manifest".into())),
                // No manifest that was published is so large.
                Err(e) if e.class == Class::TooLarge => return Err(Unusable::Damaged(format!("its manifest is {}", e.detail))),
                Err(e) => return Err(Unusable::Failed(e.into())),
            }
        }
        Err(Unusable::Damaged(wrong))
    }

    /// What it means that an object was answered as absent. For the checkpoint a loss is for good, and whatever stands between here and the
    /// store may answer 404: so the listing must say the same.
    pub(super) fn absent(&self, below: &str, what: String) -> Unusable {
        let key = self.key(below);
        match self.store.list(&key, None) {
            Ok(page) if page.objects.iter().any(|(listed, _)| *listed == key) => {
                let message = format!("{} is listed, and was answered as absent", self.store.name(&key));
                Unusable::Failed(Fault::passing(reason::STORE_UNAVAILABLE, message))
            }
            Ok(_) => Unusable::Damaged(format!("{what} is gone")),
            Err(e) => Unusable::Failed(e.into()),
        }
    }

    /// Every key below `below`, relative to the repository.
    pub(super) fn keys(&self, below: &str) -> Result<Vec<String>, Fault> {
        let (mut keys, mut page, root) = (vec![], None, self.key(""));
        loop {
            let found = self.store.list(&self.key(below), page.as_deref())?;
            keys.extend(found.objects.into_iter().filter_map(|(k, _)| k.strip_prefix(&root).map(str::to_string)));
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
