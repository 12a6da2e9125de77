//! A destination: a prefix of a bucket, and the driver of its epoch object.

use std::time::Duration;

use crate::epoch::{Decision, Epoch, Policy, Refusal};
use crate::plan::{CONTROL, EPOCH_KEY, RECEIPT_KEY};
use crate::receipt::{Receipt, reason};
use crate::store::{Class, Condition, Info, ObjectStore, read};

use super::Fault;

/// Largest epoch, receipt or journal entry that is read.
pub const SMALL: usize = 64 << 10;

/// Where an attempt's results go.
pub struct Destination {
    /// The bucket.
    pub store: Box<dyn ObjectStore>,
    prefix: String,
}

/// What came of [`Destination::change`].
#[derive(Debug)]
pub enum Changed {
    /// This epoch was written, by this very process.
    Written(Epoch),
    /// Nothing was to be written.
    Decided(Decision),
}

impl Destination {
    /// `prefix` ends with a slash or is empty.
    pub fn new(store: Box<dyn ObjectStore>, prefix: String) -> Destination {
        Destination { store, prefix }
    }

    /// The key of something below the destination.
    pub fn key(&self, below: &str) -> String {
        format!("{}{below}", self.prefix)
    }

    /// For people.
    pub fn name(&self) -> String {
        self.store.name(&self.prefix)
    }

    /// Bytes left for a name below the destination.
    pub fn room(&self) -> usize {
        crate::plan::KEY_LIMIT.saturating_sub(self.prefix.len())
    }

    /// The epoch and its version.
    ///
    /// # Errors
    /// The store's; `DestinationInUse` when the object is not an epoch that this version understands.
    pub fn epoch(&self) -> Result<Option<(Epoch, Info)>, Fault> {
        let Some((bytes, info)) = read(&*self.store, &self.key(EPOCH_KEY), SMALL)? else { return Ok(None) };
        match serde_json::from_slice::<Epoch>(&bytes) {
            Ok(epoch) if epoch.v == 1 => Ok(Some((epoch, info))),
            _ => Err(Fault::permanent(
                reason::DESTINATION_IN_USE,
                format!("{} is no epoch of this version of GpuJob", self.store.name(&self.key(EPOCH_KEY))),
            )),
        }
    }

    /// Reads the epoch, asks `decide`, and writes what it says; repeated until a write is known to be ours or nothing
    /// is to be written.
    ///
    /// # Errors
    /// The store's.
    pub fn change(&self, mut decide: impl FnMut(Option<&Epoch>) -> Decision) -> Result<Changed, Fault> {
        let mut wrote: Option<Epoch> = None;
        for round in 0..60u32 {
            let found = self.epoch()?;
            if let (Some(wrote), Some((found, _))) = (&wrote, &found)
                && found.is_write(wrote)
            {
                return Ok(Changed::Written(found.clone()));
            }
            let next = match decide(found.as_ref().map(|f| &f.0)) {
                Decision::Write(next) => next,
                other => return Ok(Changed::Decided(other)),
            };
            let bytes = serde_json::to_vec(&next).expect("an epoch has only string keys");
            let condition = found.as_ref().map_or(Condition::Absent, |(_, info)| Condition::Version(&info.version));
            match self.store.put_if(&self.key(EPOCH_KEY), &bytes, condition) {
                Ok(_) => return Ok(Changed::Written(next)),
                // Lost the race, or won it and lost the answer: only reading tells.
                Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => wrote = Some(next),
                Err(e) => return Err(e.into()),
            }
            std::thread::sleep(Duration::from_millis(u64::from(round.min(20)) * 10));
        }
        Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("the epoch at {} keeps changing", self.name())))
    }

    /// Whether any object outside `.gpujob/` lies there.
    ///
    /// # Errors
    /// The store's.
    pub fn occupied(&self) -> Result<bool, Fault> {
        let control = self.key(CONTROL);
        let mut page = None;
        loop {
            let found = self.store.list(&self.prefix, page.as_deref())?;
            // A folder marker of the destination itself is no content.
            if found.objects.iter().any(|(key, _)| !key.starts_with(&control) && *key != self.prefix) {
                return Ok(true);
            }
            page = found.next;
            if page.is_none() {
                return Ok(false);
            }
        }
    }

    /// Every key below `below`, relative to the destination.
    ///
    /// # Errors
    /// The store's.
    pub fn keys(&self, below: &str) -> Result<Vec<String>, Fault> {
        let (mut keys, mut page) = (vec![], None);
        loop {
            let found = self.store.list(&self.key(below), page.as_deref())?;
            keys.extend(found.objects.into_iter().filter_map(|(k, _)| k.strip_prefix(&self.prefix).map(str::to_string)));
            page = found.next;
            if page.is_none() {
                return Ok(keys);
            }
        }
    }

    /// The receipt that a commit has left.
    ///
    /// # Errors
    /// The store's.
    pub fn stored_receipt(&self) -> Result<Option<Receipt>, Fault> {
        let found = read(&*self.store, &self.key(RECEIPT_KEY), SMALL)?;
        Ok(found.and_then(|(bytes, _)| Receipt::parse(&String::from_utf8_lossy(&bytes)).ok()))
    }

    /// The fault of a refused claim.
    pub fn refusal(&self, refusal: Refusal) -> Fault {
        match refusal {
            Refusal::NotEmpty(what) => Fault::permanent(
                reason::DESTINATION_NOT_EMPTY,
                format!("{} is not empty: {what}; choose another results.to, or onExisting: Overwrite", self.name()),
            ),
            Refusal::InUse(holder) => {
                let message = format!("{} is held by job {} (uid {}); choose another results.to", self.name(), holder.job, holder.uid);
                Fault { holder: Some(holder), ..Fault::permanent(reason::DESTINATION_IN_USE, message) }
            }
        }
    }

    /// What the job allows itself here.
    ///
    /// # Errors
    /// The store's.
    pub fn policy<'a>(&self, spec: &'a crate::spec::TransferSpec) -> Result<Policy<'a>, Fault> {
        let on_existing = spec.results.as_ref().map(|r| r.on_existing).unwrap_or_default();
        Ok(Policy { on_existing, abandoned: &spec.abandoned, occupied: self.occupied()? })
    }
}
