//! The cloud as processes reach it: the operator's own traits. Every call meets its fate here, and nowhere else.

use super::account::Account;
use super::calls::{Failure, Operation, When, scripted};
use super::catalog;
use super::machine::TERMINATED;
use super::queue::QUEUE;
use super::shown::{leftovers, polled, tail};
use super::{CloudWrite, FakeCloud, fleet};
use async_trait::async_trait;
use gpujob_crds::{GpuPool, names};
use gpujob_provider_core::{
    ErrorClass, InstanceState, LaunchCall, Launched, Leftover, LeftoverKind, Listing, MachineProvider, Notice, NoticeSource, Offer,
    Prepared, ProviderError, Rates, Rendering, Terminated,
};
use kube::ResourceExt;
use std::future::pending;
use std::time::Duration;

/// How long a read of an empty queue waits.
const LONG_POLL: Duration = Duration::from_secs(20);

/// One process's way to the cloud.
pub(super) struct Machines {
    pub(super) cloud: FakeCloud,
    pub(super) process: String,
}

/// What came of a call: its answer, and what it changed.
struct Done<T> {
    answer: Result<T, ProviderError>,
    changed: Option<String>,
}

fn said<T>(answer: T) -> Done<T> {
    Done { answer: Ok(answer), changed: None }
}

fn wrote<T>(answer: T, changed: Option<String>) -> Done<T> {
    Done { answer: Ok(answer), changed }
}

impl Machines {
    /// One call: half its latency, its effect, the hook, the other half, its answer.
    async fn call<T>(
        &self,
        operation: Operation,
        subject: &str,
        effect: impl FnOnce(&mut Account, Option<&Failure>) -> Done<T> + Send,
    ) -> Result<T, ProviderError> {
        let fate = self.cloud.with(|account| account.traffic.meet(account.now, &self.process, operation, subject));
        let end = |outcome: &str| self.cloud.with(|account| account.traffic.end(fate.number, outcome));
        wait(fate.half).await;
        match &fate.failure {
            Some(Failure::Refused(class)) => {
                end(class.reason());
                return Err(scripted(class));
            }
            Some(Failure::Lost(When::Before)) => {
                wait(fate.half).await;
                end("lost, nothing happened");
                return Err(lost());
            }
            Some(Failure::Hangs(When::Before)) => {
                end("hangs, nothing happened");
                pending::<()>().await;
            }
            _ => {}
        }
        let done = self.cloud.with(|account| effect(account, fate.failure.as_ref()));
        if let Some(subject) = done.changed {
            self.cloud.wrote(&CloudWrite { process: self.process.clone(), operation, subject });
        }
        if fate.failure == Some(Failure::Hangs(When::After)) {
            end("hangs");
            pending::<()>().await;
        }
        wait(fate.half).await;
        if fate.failure == Some(Failure::Lost(When::After)) {
            end("lost");
            return Err(lost());
        }
        end(done.answer.as_ref().map_or_else(|error| error.class.reason(), |_| "ok"));
        done.answer
    }
}

async fn wait(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

fn lost() -> ProviderError {
    ProviderError::new(ErrorClass::Unknown, "the answer was lost")
}

#[async_trait]
impl MachineProvider for Machines {
    fn rates(&self) -> Rates {
        self.cloud.with(|account| account.traffic.rates)
    }

    async fn prepare(&self, pool: &GpuPool, cluster: &str) -> Result<Prepared, ProviderError> {
        self.call(Operation::Prepare, &pool.name_any(), |account, _| match account.prepare(pool, cluster) {
            Ok((prepared, made)) => {
                let name = prepared.0["template"]["name"].as_str().map(str::to_owned);
                wrote(prepared, name.filter(|_| made))
            }
            Err(error) => Done { answer: Err(error), changed: None },
        })
        .await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        self.call(Operation::Release, pool_uid, |account, _| {
            let removed = account.release(pool_uid, cluster);
            wrote((), (removed > 0).then(|| pool_uid.to_owned()))
        })
        .await
    }

    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        let subnets = prepared.0["subnets"].clone();
        self.call(Operation::Offers, &pool.name_any(), |account, _| {
            let mut offers = vec![];
            for offer in account.bazaar.stalls.values().map(|stall| &stall.offer) {
                match catalog::admits(&pool.spec, offer) {
                    Ok(true) if subnets.get(&offer.zone).is_some() => offers.push(offer.clone()),
                    Ok(_) => {}
                    Err(error) => return Done { answer: Err(error), changed: None },
                }
            }
            offers.sort();
            said(offers)
        })
        .await
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        Ok(serde_json::to_value(fleet::render(rendering)?).expect("strings and numbers are always JSON"))
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        self.call(Operation::Launch, &call.node, |account, failure| {
            let (mut answer, made) = account.launch(call, &self.process);
            if let (Ok(launched), Some(Failure::Useless)) = (&answer, failure) {
                let class = ErrorClass::CreatedButFailed { instance: launched.id.clone() };
                answer = Err(ProviderError::new(class, "the instance was made and is useless"));
            }
            Done { answer, changed: made }
        })
        .await
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        self.call(Operation::List, cluster, |account, failure| {
            let at = match failure {
                Some(Failure::Stale(by)) => account.now - *by,
                _ => account.now,
            };
            let ours = account.machines.values().filter(|m| m.tags.get(names::CLUSTER_TAG).is_some_and(|c| c == cluster));
            let shown = ours.filter(|m| m.shown_from <= at && account.is_kept(m, at));
            let mut listing = Listing { instances: shown.map(|m| m.describe(at)).collect(), complete: true };
            if let Some(Failure::Incomplete(first)) = failure {
                listing.instances.truncate(*first);
                listing.complete = false;
            }
            said(listing)
        })
        .await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        self.call(Operation::Terminate, id, |account, failure| match account.find(id).map(|machine| machine.state(account.now)) {
            None | Some(InstanceState::Terminated) => said(Terminated::Gone),
            Some(InstanceState::Terminating) => said(Terminated::InProgress),
            Some(_) if failure == Some(&Failure::Forgotten) => said(Terminated::InProgress),
            Some(InstanceState::Pending | InstanceState::Running) => {
                account.end(id, TERMINATED);
                wrote(Terminated::InProgress, Some(id.to_owned()))
            }
        })
        .await
    }

    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        let address = match source {
            NoticeSource::Poll => return self.call(Operation::Notices, "poll", |account, _| said(polled(account))).await,
            NoticeSource::Queue(address) => address,
        };
        if address != QUEUE {
            return Err(ProviderError::new(ErrorClass::Invalid, format!("QueueDoesNotExist: {address}")));
        }
        let until = tokio::time::Instant::now() + LONG_POLL;
        // A read that fails fails before it waits.
        let mut read = self.call(Operation::Notices, "queue", |account, _| said(account.queue.read(account.now))).await?;
        while read.is_empty() && tokio::time::Instant::now() < until {
            let mut changed = std::pin::pin!(self.cloud.0.changed.notified());
            changed.as_mut().enable();
            let next = self.cloud.with(|account| account.queue.next());
            tokio::select! {
                biased;
                () = tokio::time::sleep_until(until) => {}
                () = self.cloud.until(next, changed) => {}
            }
            read = self.cloud.with(|account| account.queue.read(account.now));
        }
        Ok(read)
    }

    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        if *source == NoticeSource::Poll {
            return Ok(());
        }
        let subject = notices.iter().map(|n| n.instance.as_str()).collect::<Vec<_>>().join(" ");
        self.call(Operation::Acknowledge, &subject, |account, _| {
            let forgotten = account.queue.forget(notices);
            wrote((), (forgotten > 0).then(|| subject.clone()))
        })
        .await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        self.call(Operation::Console, id, |account, _| {
            let text = account.find(id).map(|m| tail(&m.console)).filter(|text| !text.is_empty());
            said(text.map(str::to_owned))
        })
        .await
    }

    async fn prefetch(&self, pool: &GpuPool, prepared: &Prepared, image: &str, cluster: &str) -> Result<Option<Prepared>, ProviderError> {
        self.call(Operation::Prefetch, &pool.name_any(), |account, _| {
            let (variant, made) = account.prefetch(prepared, image, cluster);
            wrote(variant, made.then(|| image.to_owned()))
        })
        .await
    }

    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        self.call(Operation::Leftovers, cluster, |account, _| said(leftovers(account, cluster))).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        self.call(Operation::Remove, &leftover.id, |account, _| {
            let removed = match leftover.kind {
                LeftoverKind::Volume => match account.volumes.get(&leftover.id) {
                    Some(volume) if volume.instance.is_some() => {
                        let message = format!("VolumeInUse: {}", leftover.id);
                        return Done { answer: Err(ProviderError::new(ErrorClass::Invalid, message)), changed: None };
                    }
                    _ => account.volumes.remove(&leftover.id).is_some(),
                },
                LeftoverKind::Template => account.templates.remove(&leftover.name).is_some(),
            };
            wrote((), removed.then(|| leftover.id.clone()))
        })
        .await
    }
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;
