//! EC2 in memory: one account, one region, virtual time.
//!
//! A [`FakeCloud`] is a handle; clones are the same cloud. Processes reach it through [`FakeCloud::clouds`], as they would
//! reach EC2; tests set its scene ([`script`]) and read the truth ([`FakeCloud::instances`], [`FakeCloud::events_after`],
//! [`FakeCloud::calls`]) which calls may hide: lists lag, answers get lost, and the dead stay visible for an hour.
//!
//! Time is tokio's, and starts at what the clock says when the cloud is made: the cloud's own clock is never stepped. Nothing is
//! random, nothing runs in the background; the same calls at the same times have the same answers.

mod account;
mod calls;
mod catalog;
mod events;
#[cfg(test)]
mod fixture;
mod fleet;
mod machine;
mod market;
mod provider;
mod queue;
mod script;
mod template;
mod token;
mod trace;

pub use account::{Boot, Volume};
pub use calls::{Call, Failure, Fault, Operation, When};
pub use catalog::{REGION, ZONES};
pub use events::{Event, What};
pub use machine::{Machine, POWERED_OFF, RECLAIMED, TERMINATED};
pub use market::{Place, Places};
pub use queue::QUEUE;
pub use template::Template;
pub use trace::{Change, Move, NotATrace, Trace};

use account::Account;
use gpujob_operator::clock::Clock;
use gpujob_provider_core::{Clouds, Offer, Scope};
use jiff::Timestamp;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;
use tokio::time::Instant;

/// Something in the cloud was changed by a call: told when it has happened, and before the caller hears of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudWrite {
    /// The process that called.
    pub process: String,
    /// The call.
    pub operation: Operation,
    /// What was changed: an id or a name.
    pub subject: String,
}

type Hook = Arc<dyn Fn(&CloudWrite) + Send + Sync>;

/// A cloud. Clones are handles to the same one.
#[derive(Clone)]
pub struct FakeCloud(Arc<Shared>);

struct Shared {
    epoch: Timestamp,
    start: Instant,
    account: Mutex<Account>,
    /// Told whenever something has happened, or will happen at another time than before.
    changed: Notify,
    hook: Mutex<Option<Hook>>,
}

impl std::fmt::Debug for FakeCloud {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeCloud").field("now", &self.now()).finish_non_exhaustive()
    }
}

impl FakeCloud {
    /// A cloud with everything on sale, at peace. Its time begins at what `clock` says now. Make it inside the runtime.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let (epoch, start) = (clock.now(), Instant::now());
        let account = Mutex::new(Account::new(epoch));
        FakeCloud(Arc::new(Shared { epoch, start, account, changed: Notify::new(), hook: Mutex::new(None) }))
    }

    /// The scope that it serves.
    #[must_use]
    pub fn scope(&self) -> Scope {
        Scope { provider: "aws".into(), region: REGION.into() }
    }

    /// The cloud as a process sees it that nobody named.
    #[must_use]
    pub fn clouds(&self) -> Arc<dyn Clouds> {
        self.clouds_of("")
    }

    /// The cloud as a process of this name sees it: in the log, in faults and in writes. Each has what it made of its own, so
    /// one that was started again begins afresh.
    #[must_use]
    pub fn clouds_of(&self, process: &str) -> Arc<dyn Clouds> {
        Arc::new(provider::Reached::new(self.clone(), process))
    }

    /// Has `hook` called at every change that a call makes: when it has happened, before the caller hears of it. Without any
    /// lock held, so it may look at the cloud.
    pub fn on_write(&self, hook: impl Fn(&CloudWrite) + Send + Sync + 'static) {
        *self.0.hook.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(hook));
    }

    /// The cloud's time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.0.epoch + self.0.start.elapsed()
    }

    /// Every instance that was ever made, in the order of making: the bill, and the truth.
    #[must_use]
    pub fn instances(&self) -> Vec<Machine> {
        self.with(|account| account.machines.values().cloned().collect())
    }

    /// One of them.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<Machine> {
        self.with(|account| account.machines.get(id).cloned())
    }

    /// The disks that exist.
    #[must_use]
    pub fn volumes(&self) -> Vec<Volume> {
        self.with(|account| account.volumes.values().cloned().collect())
    }

    /// The launch templates that exist.
    #[must_use]
    pub fn templates(&self) -> Vec<Template> {
        self.with(|account| account.templates.values().cloned().collect())
    }

    /// All calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.with(|account| account.traffic.log.clone())
    }

    /// What is sold now, and for how much.
    #[must_use]
    pub fn market(&self) -> Vec<Offer> {
        let mut offers: Vec<Offer> = self.with(|account| account.bazaar.stalls.values().map(|stall| stall.offer.clone()).collect());
        offers.sort();
        offers
    }

    /// What has happened since event `number`, at once if something has, else as soon as something does. Begin with 0.
    pub async fn events_after(&self, number: u64) -> Vec<Event> {
        let skip = usize::try_from(number).unwrap_or(usize::MAX);
        loop {
            let mut changed = std::pin::pin!(self.0.changed.notified());
            changed.as_mut().enable();
            let (events, next) = self.with(|account| (account.events.get(skip..).unwrap_or_default().to_vec(), account.next()));
            if !events.is_empty() {
                return events;
            }
            self.until(next, changed).await;
        }
    }

    /// Waits for `changed`, or for `at`.
    async fn until(&self, at: Option<Timestamp>, changed: impl Future<Output = ()>) {
        let due = at.map(|at| self.0.start + std::time::Duration::try_from(at.duration_since(self.0.epoch)).unwrap_or_default());
        tokio::select! {
            biased;
            () = changed => {}
            () = tokio::time::sleep_until(due.unwrap_or(self.0.start)), if due.is_some() => {}
        }
    }

    /// Brings the account up to date, and has `change` look at it or change it.
    fn with<T>(&self, change: impl FnOnce(&mut Account) -> T) -> T {
        let now = self.now();
        let mut account = self.account();
        let before = (account.events.len(), account.next(), account.queue.next());
        account.settle(now);
        let result = change(&mut account);
        let after = (account.events.len(), account.next(), account.queue.next());
        drop(account);
        if before != after {
            self.0.changed.notify_waiters();
        }
        result
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.0.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the hook.
    fn wrote(&self, write: &CloudWrite) {
        let hook = self.0.hook.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(hook) = hook {
            hook(write);
        }
    }
}
