//! Which replica acts. A Lease, renewed by compare-and-set on its resourceVersion.
//!
//! A Lease does not fence a cloud API: acts stay safe under two leaders (tokens, preconditions). What this gives is quiet.
//! Following client-go, times written by others are never compared with our clock: only the moments at which we saw the
//! Lease change count.

use crate::context::within;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether this replica may act, as of now.
#[derive(Clone, Debug)]
pub struct Leadership(watch::Receiver<bool>);

impl Leadership {
    /// Whether this replica may act.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until leadership changes and says what it is then.
    pub async fn changed(&mut self) -> bool {
        // The sender lives as long as the process; if it is gone we are shutting down and do not lead.
        self.0.changed().await.is_ok() && *self.0.borrow()
    }

    /// Leadership that never changes, for tests and single processes.
    #[must_use]
    pub fn always() -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(true);
        (sender, Leadership(receiver))
    }
}

/// What we saw of the Lease, and when we saw it change.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    holder: String,
    version: String,
    changed: Instant,
}

/// What to do about the Lease.
#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Take,
    Renew,
    Wait,
}

fn decide(seen: Option<&Seen>, me: &str, now: Instant, lease: Duration) -> Decision {
    match seen {
        None => Decision::Take,
        Some(seen) if seen.holder == me => Decision::Renew,
        Some(seen) if seen.holder.is_empty() || now.duration_since(seen.changed) > lease => Decision::Take,
        Some(_) => Decision::Wait,
    }
}

/// Candidate for the Lease `gpujob-operator` of `namespace`.
pub struct Candidate {
    /// Where the Lease is.
    pub api: Api<Lease>,
    /// This replica.
    pub identity: String,
    /// How long a silent leader keeps it.
    pub lease: Duration,
    /// For the renewal time in the Lease, which is there for people: nobody compares it.
    pub clock: std::sync::Arc<dyn crate::clock::Clock>,
}

impl std::fmt::Debug for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Candidate").field("identity", &self.identity).field("lease", &self.lease).finish_non_exhaustive()
    }
}

const NAME: &str = "gpujob-operator";

impl Candidate {
    /// Runs for the Lease until `shutdown`, then gives it up so that the other replica need not wait.
    pub async fn run(self, shutdown: tokio_util::sync::CancellationToken) -> (Leadership, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = watch::channel(false);
        let task = tokio::spawn(async move { self.campaign(&sender, shutdown).await });
        (Leadership(receiver), task)
    }

    async fn campaign(&self, leading: &watch::Sender<bool>, shutdown: tokio_util::sync::CancellationToken) {
        let (mut seen, mut renewed): (Option<Seen>, Option<Instant>) = (None, None);
        let tick = self.lease / 6;
        loop {
            match tokio::time::timeout(self.lease / 2, self.step(&mut seen)).await {
                Ok(Ok(true)) => renewed = Some(Instant::now()),
                Ok(Ok(false)) => renewed = None,
                Ok(Err(error)) => tracing::warn!(%error, "lease"),
                Err(_) => tracing::warn!("lease: no answer"),
            }
            // We stop two thirds into the lease after the last renewal that was answered: before anyone may take it.
            let leads = renewed.is_some_and(|at| at.elapsed() < self.lease * 2 / 3);
            if leading.send_if_modified(|old| std::mem::replace(old, leads) != leads) {
                tracing::info!(leads, identity = self.identity, "leadership");
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(tick) => {}
            }
        }
        leading.send_replace(false);
        if let Some(seen) = seen.filter(|s| s.holder == self.identity) {
            let _ = self.write("", &seen.version).await;
        }
    }

    /// One look and, if it is ours to write, one write. Returns whether we hold the Lease.
    async fn step(&self, seen: &mut Option<Seen>) -> Result<bool, crate::context::ApiError> {
        let current = within(self.api.get_opt(NAME)).await?;
        *seen = current.map(|lease| {
            let version = lease.metadata.resource_version.unwrap_or_default();
            let holder = lease.spec.and_then(|s| s.holder_identity).unwrap_or_default();
            match seen.take() {
                Some(old) if old.version == version => old,
                _ => Seen { holder, version, changed: Instant::now() },
            }
        });
        match decide(seen.as_ref(), &self.identity, Instant::now(), self.lease) {
            Decision::Wait => Ok(false),
            Decision::Take | Decision::Renew => {
                let version = seen.as_ref().map_or("", |s| s.version.as_str());
                match self.write(&self.identity, version).await {
                    Ok(lease) => {
                        let version = lease.metadata.resource_version.unwrap_or_default();
                        *seen = Some(Seen { holder: self.identity.clone(), version, changed: Instant::now() });
                        Ok(true)
                    }
                    Err(error) if error.is_conflict() => Ok(false),
                    Err(error) => Err(error),
                }
            }
        }
    }

    async fn write(&self, holder: &str, version: &str) -> Result<Lease, crate::context::ApiError> {
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                resource_version: Some(version.to_owned()).filter(|v| !v.is_empty()),
                ..Default::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(holder.to_owned()),
                lease_duration_seconds: i32::try_from(self.lease.as_secs()).ok(),
                renew_time: Some(MicroTime(self.clock.now())),
                ..Default::default()
            }),
        };
        if version.is_empty() {
            within(self.api.create(&PostParams::default(), &lease)).await
        } else {
            within(self.api.replace(NAME, &PostParams::default(), &lease)).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_leader_is_replaced_and_a_live_one_is_not() {
        let lease = Duration::from_secs(15);
        let start = Instant::now();
        let held = |holder: &str| Seen { holder: holder.into(), version: "1".into(), changed: start };
        assert_eq!(decide(None, "me", start, lease), Decision::Take);
        assert_eq!(decide(Some(&held("me")), "me", start, lease), Decision::Renew);
        assert_eq!(decide(Some(&held("other")), "me", start + lease, lease), Decision::Wait);
        assert_eq!(decide(Some(&held("other")), "me", start + lease + Duration::from_millis(1), lease), Decision::Take);
        assert_eq!(decide(Some(&held("")), "me", start, lease), Decision::Take);
    }
}
