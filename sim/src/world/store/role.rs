//! The roles of `gpujob-transfer`, as `transfer/src/role/*.rs` play them: check, fetch, stage, commit, discard, resolve.
//! Each ends with a receipt, which the kubelet shows as the container's termination message.

use super::destination::{Changed, Destination, Rolled};
use super::{NO_SUCH_BUCKET, Store};
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text, sha256_hex};
use gpujob_transfer::epoch::{Actor, Decision, Refusal, begin, claim, resolve, revoke, seal, standing};
use gpujob_transfer::plan::{FileSum, Item, Plan, STAGING, Staged, Strong, staging};
use gpujob_transfer::receipt::{Outcome, Receipt, Role, Verdict, reason};
use gpujob_transfer::spec::TransferSpec;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// One process of gpujob-transfer.
#[derive(Clone, Debug)]
pub(in crate::world) struct Process {
    pub(in crate::world) spec: TransferSpec,
    /// The attempt's pod, which for commit, discard and resolve is another one than their own.
    pub(in crate::world) pod_uid: String,
    /// A name that no other process has.
    pub(in crate::world) nonce: String,
    /// How long a commit sleeps between the point of no return and the first copy.
    pub(in crate::world) publish: Duration,
    pub(in crate::world) store: Store,
}

fn failed(role: Role, reason: &str, message: String, retryable: bool) -> Receipt {
    let outcome = if reason == reason::REVOKED { Outcome::Revoked } else { Outcome::Failed };
    Receipt { reason: reason.into(), retryable, ..Receipt::new(role, outcome, message) }
}

fn internal(role: Role, decision: &Decision) -> Receipt {
    failed(role, reason::INTERNAL, format!("unexpected decision {decision:?}"), false)
}

impl Process {
    fn destination(&self) -> Option<Destination> {
        let to = self.spec.results.as_ref()?.to.clone();
        let me = Actor {
            job: self.spec.job.clone(),
            index: self.spec.index,
            attempt: self.spec.attempt,
            pod_uid: self.pod_uid.clone(),
            nonce: self.nonce.clone(),
        };
        Some(Destination { store: self.store.clone(), to, me })
    }

    /// What would stop a claim, without claiming: the answer of [`Process::fetch`] in advance.
    pub(in crate::world) async fn check(self, takes: Duration) -> Receipt {
        tokio::time::sleep(takes).await;
        if let Some(lost) = self.no_bucket(Role::Check) {
            return lost;
        }
        let Some(to) = self.destination() else { return Receipt::new(Role::Check, Outcome::Done, "checked") };
        let (found, policy) = (to.epoch().await, to.policy(&self.spec));
        match claim(&to.me, found.as_ref().map(|f| &f.0), policy) {
            Decision::Refuse(refusal) => refused(Role::Check, refusal),
            Decision::Committed(_) => to.committed(Role::Check, Outcome::AlreadyCommitted).await,
            Decision::Reused(_) => {
                let stored = to.committed(Role::Check, Outcome::AlreadyCommitted).await;
                Receipt { reason: reason::RESULTS_REUSED.into(), ..stored }
            }
            _ => Receipt::new(Role::Check, Outcome::Done, "checked"),
        }
    }

    fn no_bucket(&self, role: Role) -> Option<Receipt> {
        let to = self.spec.results.as_ref()?.to.as_str();
        to.starts_with(NO_SUCH_BUCKET).then(|| failed(role, reason::BUCKET_NOT_FOUND, format!("{to}: no such bucket: create it"), false))
    }

    /// Claims the destination, then copies inputs for so long.
    pub(in crate::world) async fn fetch(self, inputs: Duration) -> Receipt {
        if let Some(lost) = self.no_bucket(Role::Fetch) {
            return lost;
        }
        if let Some(to) = self.destination() {
            loop {
                let policy = to.policy(&self.spec);
                match to.change(|found| claim(&to.me, found, policy)).await {
                    Changed::Written(_) => break,
                    Changed::Decided(Decision::Committed(_)) => return to.committed(Role::Fetch, Outcome::AlreadyCommitted).await,
                    Changed::Decided(Decision::Reused(_)) => {
                        let stored = to.committed(Role::Fetch, Outcome::AlreadyCommitted).await;
                        return Receipt { reason: reason::RESULTS_REUSED.into(), ..stored };
                    }
                    Changed::Decided(Decision::RollForward(epoch)) => drop(to.forward(&epoch).await),
                    Changed::Decided(Decision::Refuse(refusal)) => return refused(Role::Fetch, refusal),
                    Changed::Decided(Decision::Revoked(whom)) => return failed(Role::Fetch, reason::REVOKED, whom, false),
                    Changed::Decided(other) => return internal(Role::Fetch, &other),
                }
            }
        }
        tokio::time::sleep(inputs).await;
        Receipt::new(Role::Fetch, Outcome::Done, "fetched")
    }

    /// After SIGTERM: stages `files`, which takes so long, writes the plan, and seals it.
    pub(in crate::world) async fn stage(self, files: BTreeMap<String, Vec<u8>>, takes: Duration) -> Receipt {
        let Some(to) = self.destination() else { return Receipt::new(Role::Stage, Outcome::Done, "the job keeps no results") };
        let found = to.epoch().await;
        if let Decision::Revoked(whom) = standing(&to.me, found.as_ref().map(|f| &f.0)) {
            return failed(Role::Stage, reason::REVOKED, whom, false);
        }
        tokio::time::sleep(takes).await;
        let base = format!("{}{}/", staging(to.me.attempt, &to.me.pod_uid), self.nonce);
        let mut items = vec![];
        for (path, bytes) in files {
            let key = format!("{base}{path}");
            to.store.put(&to.key(&key), &bytes).await;
            let file = FileSum {
                path,
                size: bytes.len() as u64,
                crc64nvme: crc64nvme_text(crc64nvme(&bytes)),
                strong: Strong::Whole(sha256_hex(&bytes)),
            };
            items.push(Item { file, staged: Staged::Object { key } });
        }
        let plan = Plan::new(&to.me, items, vec![]);
        let (text, reference) = plan.encode(format!("{base}plan.json"));
        to.store.put(&to.key(&reference.key), &text).await;
        match to.change(|epoch| seal(&to.me, epoch, &reference)).await {
            Changed::Written(_) | Changed::Decided(Decision::Holds) => {}
            Changed::Decided(Decision::Revoked(whom)) => return failed(Role::Stage, reason::REVOKED, whom, false),
            Changed::Decided(other) => return internal(Role::Stage, &other),
        }
        let mut receipt = Receipt::new(Role::Stage, Outcome::Sealed, format!("sealed for {}", to.to));
        (receipt.files, receipt.bytes) = (plan.items.len() as u64, plan.bytes());
        receipt
    }

    /// Waits at most so long for the seal, passes the point of no return, and makes the results visible.
    pub(in crate::world) async fn commit(self, verdict: Verdict, wait: Duration) -> Receipt {
        let Some(to) = self.destination() else { return Receipt::new(Role::Commit, Outcome::Done, "the job keeps no results") };
        let deadline = Instant::now() + wait;
        let mut pause = Duration::from_millis(100);
        loop {
            let epoch = match to.change(|found| begin(&to.me, found, verdict)).await {
                Changed::Written(epoch) | Changed::Decided(Decision::RollForward(epoch)) => Some(epoch),
                Changed::Decided(Decision::Committed(_)) => return to.committed(Role::Commit, Outcome::Committed).await,
                Changed::Decided(Decision::Wait(why)) if Instant::now() >= deadline => {
                    return failed(Role::Commit, reason::NOT_SEALED, why, true);
                }
                Changed::Decided(Decision::Wait(_)) => None,
                Changed::Decided(Decision::Revoked(whom)) => return failed(Role::Commit, reason::REVOKED, whom, false),
                Changed::Decided(other) => return internal(Role::Commit, &other),
            };
            if let Some(epoch) = epoch {
                tokio::time::sleep(self.publish).await;
                return match to.forward(&epoch).await {
                    Rolled::Committed(receipt) => *receipt,
                    Rolled::Lost(why) => failed(Role::Commit, reason::STAGED_FILE_LOST, why, true),
                };
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 5 / 4).min(Duration::from_secs(2));
        }
    }

    /// The attempt's results are not wanted; with `release` its job wants the destination no more.
    pub(in crate::world) async fn discard(self, release: bool) -> Receipt {
        let Some(to) = self.destination() else { return Receipt::new(Role::Discard, Outcome::Done, "the job keeps no results") };
        let staged = to.store.below(&to.key(STAGING));
        match to.change(|found| revoke(&to.me, found, release)).await {
            Changed::Written(_) if release => {
                for key in staged {
                    to.store.delete(&key).await;
                }
            }
            Changed::Decided(Decision::Committed(_)) => return to.committed(Role::Discard, Outcome::Committed).await,
            Changed::Decided(Decision::RollForward(epoch)) => {
                if let Rolled::Committed(receipt) = to.forward(&epoch).await {
                    return rolled(Role::Discard, *receipt);
                }
            }
            Changed::Written(_) | Changed::Decided(Decision::Holds) => {}
            Changed::Decided(other) => return internal(Role::Discard, &other),
        }
        self.tidy(&to).await;
        Receipt::new(Role::Discard, Outcome::Discarded, format!("attempt {} can not commit", to.me.attempt))
    }

    /// What became of this job's results? Only `Free` buys a node.
    pub(in crate::world) async fn resolve(self) -> Receipt {
        let Some(to) = self.destination() else { return Receipt::new(Role::Resolve, Outcome::Free, "the job keeps no results") };
        loop {
            let policy = to.policy(&self.spec);
            match to.change(|found| resolve(&to.me, found, policy)).await {
                Changed::Decided(Decision::Committed(_)) => return to.committed(Role::Resolve, Outcome::AlreadyCommitted).await,
                Changed::Decided(Decision::Reused(_)) => {
                    let stored = to.committed(Role::Resolve, Outcome::AlreadyCommitted).await;
                    return Receipt { reason: reason::RESULTS_REUSED.into(), ..stored };
                }
                Changed::Decided(Decision::RollForward(epoch)) => match to.forward(&epoch).await {
                    Rolled::Committed(receipt) if epoch.job.uid == to.me.job.uid => return rolled(Role::Resolve, *receipt),
                    Rolled::Committed(_) | Rolled::Lost(_) => {}
                },
                Changed::Decided(Decision::Refuse(refusal)) => return refused(Role::Resolve, refusal),
                Changed::Decided(Decision::Revoked(whom)) => return failed(Role::Resolve, reason::REVOKED, whom, false),
                Changed::Written(_) | Changed::Decided(Decision::Holds) => break,
                Changed::Decided(other) => return internal(Role::Resolve, &other),
            }
        }
        self.tidy(&to).await;
        Receipt::new(Role::Resolve, Outcome::Free, "nothing is committed, and no earlier attempt can commit any more")
    }

    /// Removes this attempt's own staging: revoked, nobody reads it any more.
    async fn tidy(&self, to: &Destination) {
        for key in to.store.below(&to.key(&staging(to.me.attempt, &to.me.pod_uid))) {
            to.store.delete(&key).await;
        }
    }
}

fn rolled(role: Role, receipt: Receipt) -> Receipt {
    Receipt { role, outcome: Outcome::RolledForward, reason: "RolledForward".into(), ..receipt }
}

fn refused(role: Role, refusal: Refusal) -> Receipt {
    match refusal {
        Refusal::NotEmpty(what) => failed(role, reason::DESTINATION_NOT_EMPTY, what, false),
        Refusal::InUse(holder) => {
            let message = format!("the destination is held by job {} (uid {})", holder.job, holder.uid);
            Receipt { holder: Some(holder), ..failed(role, reason::DESTINATION_IN_USE, message, false) }
        }
    }
}

#[cfg(test)]
#[path = "role_tests.rs"]
mod tests;
