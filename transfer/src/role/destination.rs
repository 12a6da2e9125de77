//! A destination: a prefix of a bucket, and the driver of its epoch object.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::epoch::{Decision, Epoch, Policy, Refusal};
use crate::plan::{CONTROL, EPOCH_KEY, RECEIPT_KEY};
use crate::receipt::{Receipt, reason};
use crate::store::{Class, Condition, Info, ObjectStore, StoreError, read};

use super::Fault;

/// Largest epoch, receipt or journal entry that is read.
pub const SMALL: usize = 64 << 10;

/// Where an attempt's results go.
pub struct Destination {
    /// The bucket.
    pub store: Box<dyn ObjectStore>,
    prefix: String,
    /// This attempt's own folder, should the store not do conditional writes.
    folder: String,
    /// Set once it is known that it does not.
    moved: OnceLock<()>,
    /// The quickest answer so far to a request that carries next to nothing, in microseconds.
    quickest: AtomicU64,
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
        Destination { store, prefix, folder: String::new(), moved: OnceLock::new(), quickest: AtomicU64::new(u64::MAX) }
    }

    /// How long the store takes to answer a request that carries next to nothing; zero before there was one.
    pub(super) fn latency(&self) -> Duration {
        match self.quickest.load(Ordering::Relaxed) {
            u64::MAX => Duration::ZERO,
            micros => Duration::from_micros(micros),
        }
    }

    /// For an attempt, which has a folder of its own where the store does not do conditional writes.
    #[must_use]
    pub fn of_attempt(mut self, attempt: u32) -> Destination {
        self.folder = format!("attempt-{attempt}/");
        self
    }

    /// From now on everything goes to the attempt's own folder, without conditions.
    pub(super) fn go_under(&self) {
        let _ = self.moved.set(());
    }

    /// The attempt's own folder, if that is where everything goes.
    pub fn under(&self) -> Option<String> {
        self.moved.get().map(|()| self.folder.clone())
    }

    /// What every key begins with.
    fn root(&self) -> String {
        if self.moved.get().is_some() { format!("{}{}", self.prefix, self.folder) } else { self.prefix.clone() }
    }

    /// The key of something below the destination.
    pub fn key(&self, below: &str) -> String {
        format!("{}{below}", self.root())
    }

    /// For people.
    pub fn name(&self) -> String {
        self.store.name(&self.root())
    }

    /// Bytes left for a name below the destination.
    pub fn room(&self) -> usize {
        crate::plan::KEY_LIMIT.saturating_sub(self.root().len())
    }

    /// The epoch and its version.
    ///
    /// # Errors
    /// The store's; `DestinationInUse` when the object is not an epoch that this version understands.
    pub fn epoch(&self) -> Result<Option<(Epoch, Info)>, Fault> {
        let found = self.epoch_at(&self.key(EPOCH_KEY))?;
        if found.is_some() || self.moved.get().is_some() || self.folder.is_empty() {
            return Ok(found);
        }
        // `fetch` may have found that the store does not do conditional writes.
        let below = self.epoch_at(&format!("{}{}{EPOCH_KEY}", self.prefix, self.folder))?;
        if below.is_some() {
            self.go_under();
        }
        Ok(below)
    }

    /// The epoch object of that key.
    pub(super) fn epoch_at(&self, key: &str) -> Result<Option<(Epoch, Info)>, Fault> {
        let asked = Instant::now();
        let found = read(&*self.store, key, SMALL)?;
        self.quickest.fetch_min(u64::try_from(asked.elapsed().as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let Some((bytes, info)) = found else { return Ok(None) };
        match serde_json::from_slice::<Epoch>(&bytes) {
            Ok(epoch) if epoch.v == 1 => Ok(Some((epoch, info))),
            _ => {
                Err(Fault::permanent(reason::DESTINATION_IN_USE, format!("{} is no epoch of this version of GpuJob", self.store.name(key))))
            }
        }
    }

    /// Writes a control object if the condition holds; in an attempt's own folder without one: nobody else writes there.
    ///
    /// # Errors
    /// The store's.
    pub fn put_if(&self, key: &str, bytes: &[u8], condition: Condition<'_>) -> Result<String, StoreError> {
        if self.moved.get().is_some() { self.store.put(key, bytes) } else { self.store.put_if(key, bytes, condition) }
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
            match self.put_if(&self.key(EPOCH_KEY), &bytes, condition) {
                Ok(_) => return Ok(Changed::Written(next)),
                Err(e) if e.class == Class::NotImplemented => return Err(Fault::permanent(reason::NO_CONDITIONAL_WRITES, e.to_string())),
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
        let (root, control) = (self.root(), self.key(CONTROL));
        let mut page = None;
        loop {
            let found = self.store.list(&root, page.as_deref())?;
            // A folder marker of the destination itself is no content.
            if found.objects.iter().any(|(key, _)| !key.starts_with(&control) && *key != root) {
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
        let (root, mut keys, mut page) = (self.root(), vec![], None);
        loop {
            let found = self.store.list(&self.key(below), page.as_deref())?;
            keys.extend(found.objects.into_iter().filter_map(|(k, _)| k.strip_prefix(&root).map(str::to_string)));
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
