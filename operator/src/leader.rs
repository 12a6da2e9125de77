//! Which replica acts. A Lease, renewed by compare-and-set on its resourceVersion.
//!
//! A Lease does not fence a cloud API: acts stay safe under two leaders (tokens, preconditions). What this gives is quiet.
//! Following client-go, times written by others are never compared with our clock: only the moments at which we saw the
//! record change count. Leadership is a right that runs out: two thirds into the lease after the last renewal was *sent*, with
//! nobody having to notice, so that a leader which is cut off has stopped before anyone may follow.
//!
//! The same Lease says whether GpuJob is being drained ([`crate::drain`]): every replica reads it anyway.

use crate::context::{ApiError, within};
use crate::drain::Order;
use gpujob_crds::names;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, PostParams};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Until when this replica may act, and until when nothing may be bought.
#[derive(Clone, Copy, Debug, Default)]
struct Standing {
    leads: Option<Instant>,
    drains: Option<Instant>,
}

/// Whether this replica may act, and whether it may buy, as of now.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<Standing>);

impl Leadership {
    /// Whether this replica may act.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        lasts(self.0.borrow().leads)
    }

    /// Whether GpuJob is being drained: nothing is bought or reserved, and every node is given back.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        lasts(self.0.borrow().drains)
    }

    /// Leadership that does not end, for tests.
    #[cfg(test)]
    pub(crate) fn always() -> Self {
        let year = Duration::from_secs(365 * 24 * 3600);
        Leadership(watch::channel(Standing { leads: Some(Instant::now() + year), drains: None }).1)
    }

    /// Waits until leadership is won or lost, or a drain begins or ends, and says whether this replica leads then.
    pub async fn changed(&mut self) -> bool {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // the campaign is over, and so is this process
        }
        self.is_leader()
    }
}

fn lasts(until: Option<Instant>) -> bool {
    until.is_some_and(|until| Instant::now() < until)
}

/// What we saw of the Lease, and when we saw its record change. The object may change without its record: a drain annotates it,
/// and that must not keep a dead leader in office.
#[derive(Debug, Default)]
struct Seen {
    record: Option<LeaseSpec>,
    changed: Option<Instant>,
    order: Order,
    /// Nothing is left to lead: we have stopped acting, and give the Lease up next.
    stood_down: bool,
}

/// How one look at the Lease came out.
#[derive(Debug, PartialEq, Eq)]
enum Held {
    /// It is ours.
    Ours,
    /// It is another's until this moment, if that one stays silent.
    Theirs(Instant),
    /// Somebody wrote between our read and our write.
    Unsure,
}

/// Candidate for the Lease `gpujob-operator` of a namespace.
pub struct Candidate {
    /// Where the Lease is.
    pub api: Api<Lease>,
    /// This replica.
    pub identity: String,
    /// How long a silent leader keeps it. It is renewed six times as often, and looked at by others fifteen times as often.
    pub lease: Duration,
    /// For the times in the Lease, which are there for people, and for how old the first order to drain is that we see.
    pub clock: Arc<dyn crate::clock::Clock>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate").field("identity", &self.identity).field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// How often [`Candidate::release`] is tried: a renewal that was on its way may land in between.
const RELEASES: usize = 3;

impl Candidate {
    /// Runs for the Lease until `shutdown`. It is then still held: see [`Candidate::release`].
    #[must_use]
    pub fn run(self: &Arc<Self>, shutdown: CancellationToken) -> (Leadership, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = watch::channel(Standing::default());
        let candidate = self.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => {}
                () = candidate.campaign(&sender) => {}
            }
            sender.send_modify(|standing| standing.leads = None);
        });
        (Leadership(receiver), task)
    }

    async fn campaign(&self, standing: &watch::Sender<Standing>) {
        let (mut seen, mut told) = (Seen::default(), (false, false));
        loop {
            // Before the question: the renewal that it may lead to is seen by others no earlier than this.
            let asked = Instant::now();
            let answer = tokio::time::timeout(self.lease / 2, self.look(&mut seen)).await.unwrap_or(Err(ApiError::Timeout));
            let mut new = Standing { drains: seen.order.until(), ..*standing.borrow() };
            let pause = match answer {
                Ok(Held::Ours) => {
                    new.leads = Some(asked + self.lease * 2 / 3);
                    self.lease / 6
                }
                Ok(Held::Theirs(until)) => {
                    new.leads = None;
                    until.saturating_duration_since(Instant::now()).min(self.lease / 15)
                }
                Ok(Held::Unsure) => self.lease / 150,
                // What we had runs out by itself.
                Err(error) => {
                    tracing::warn!(%error, "lease");
                    self.lease / 15
                }
            };
            let now = (lasts(new.leads), lasts(new.drains));
            standing.send_if_modified(|old| {
                *old = new;
                now != told
            });
            if std::mem::replace(&mut told, now) != now {
                tracing::info!(leads = now.0, draining = now.1, identity = self.identity, "leadership");
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One look and, if it is ours to write, one write.
    async fn look(&self, seen: &mut Seen) -> Result<Held, ApiError> {
        let current = within(self.api.get_opt(names::LEASE)).await?;
        let now = Instant::now();
        let record = current.as_ref().and_then(|lease| lease.spec.clone());
        if seen.changed.is_none() || seen.record != record {
            (seen.record, seen.changed) = (record, Some(now));
        }
        let order = current.as_ref().and_then(|lease| lease.annotations().get(names::DRAINING));
        seen.order.look(order.map(String::as_str), now, self.clock.now());

        let holder = seen.record.as_ref().and_then(|record| record.holder_identity.as_deref()).unwrap_or_default();
        if seen.order.is_done(now) {
            // Our account may be gone before we are told to stop, so the Lease is given up now: the next install leads at once.
            if std::mem::replace(&mut seen.stood_down, true) && holder == self.identity {
                self.write(current, "").await?;
            }
            return Ok(Held::Theirs(now + self.lease / 15));
        }
        seen.stood_down = false;
        let until = seen.changed.unwrap_or(now) + self.lease;
        if current.is_some() && !holder.is_empty() && holder != self.identity && now < until {
            return Ok(Held::Theirs(until));
        }
        match self.write(current, &self.identity).await {
            Ok(written) => {
                (seen.record, seen.changed) = (written.spec, Some(now));
                Ok(Held::Ours)
            }
            Err(error) if error.is_conflict() => Ok(Held::Unsure),
            Err(error) => Err(error),
        }
    }

    /// Gives the Lease up, so that the other replica need not wait. To be called when nothing acts any more.
    pub async fn release(&self) {
        for _ in 0..RELEASES {
            match within(self.api.get_opt(names::LEASE)).await {
                Ok(Some(lease)) if lease.spec.as_ref().and_then(|s| s.holder_identity.as_ref()) == Some(&self.identity) => {
                    match self.write(Some(lease), "").await {
                        Err(error) if error.is_conflict() => {}
                        Err(error) => return tracing::warn!(%error, "giving the lease up"),
                        Ok(_) => return tracing::info!(identity = self.identity, "the lease is given up"),
                    }
                }
                Ok(_) => return,
                Err(error) => return tracing::warn!(%error, "giving the lease up"),
            }
        }
    }

    /// Writes the record, on the very version that was read. Whatever else the object carries stays.
    async fn write(&self, current: Option<Lease>, holder: &str) -> Result<Lease, ApiError> {
        let there = current.is_some();
        let name = || ObjectMeta { name: Some(names::LEASE.into()), ..Default::default() };
        let mut lease = current.unwrap_or_else(|| Lease { metadata: name(), spec: None });
        let now = MicroTime(self.clock.now());
        let record = lease.spec.get_or_insert_default();
        if record.holder_identity.as_deref() != Some(holder) && !holder.is_empty() {
            record.acquire_time = Some(now.clone());
            record.lease_transitions = Some(record.lease_transitions.map_or(0, |n| n + 1));
        }
        record.holder_identity = Some(holder.to_owned());
        record.lease_duration_seconds = i32::try_from(self.lease.as_secs()).ok();
        record.renew_time = Some(now);
        if there {
            within(self.api.replace(names::LEASE, &PostParams::default(), &lease)).await
        } else {
            within(self.api.create(&PostParams::default(), &lease)).await
        }
    }
}

#[cfg(test)]
#[path = "leader_tests.rs"]
mod tests;
