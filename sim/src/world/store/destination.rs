//! One attempt at one destination: the epoch's driver, and rolling a begun commit forward. As `transfer/src/role/{destination,roll}.rs`
//! do it with threads and sockets, here in virtual time; all decisions are that crate's own.

use super::Store;
use gpujob_transfer::checksum::sha256_hex;
use gpujob_transfer::epoch::{Actor, Decision, Epoch, Policy, State, finish, lose};
use gpujob_transfer::manifest::Manifest;
use gpujob_transfer::plan::{CONTROL, EPOCH_KEY, MANIFEST_KEY, Plan, RECEIPT_KEY, STAGING, Staged};
use gpujob_transfer::receipt::{ManifestRef, Outcome, Receipt, Role};
use gpujob_transfer::spec::TransferSpec;
use std::time::Duration;

/// What came of [`Destination::change`].
#[derive(Debug)]
pub(in crate::world) enum Changed {
    /// This epoch was written, by this very process.
    Written(Epoch),
    /// Nothing was to be written.
    Decided(Decision),
}

/// How rolling forward ended.
pub(in crate::world) enum Rolled {
    /// The subject is committed.
    Committed(Box<Receipt>),
    /// A staged file is gone for good.
    Lost(String),
}

/// Where an attempt's results go, and who acts.
#[derive(Clone, Debug)]
pub(in crate::world) struct Destination {
    pub(in crate::world) store: Store,
    pub(in crate::world) to: String,
    pub(in crate::world) me: Actor,
}

impl Destination {
    pub(in crate::world) fn key(&self, below: &str) -> String {
        format!("{}{below}", self.to)
    }

    pub(in crate::world) async fn epoch(&self) -> Option<(Epoch, u64)> {
        let (bytes, version) = self.store.get(&self.key(EPOCH_KEY)).await?;
        serde_json::from_slice(&bytes).ok().map(|epoch| (epoch, version))
    }

    /// Reads the epoch, asks `decide`, writes what it says; again until a write is known to be ours, or none is needed.
    pub(in crate::world) async fn change(&self, mut decide: impl FnMut(Option<&Epoch>) -> Decision) -> Changed {
        loop {
            let found = self.epoch().await;
            let next = match decide(found.as_ref().map(|f| &f.0)) {
                Decision::Write(next) => next,
                other => return Changed::Decided(other),
            };
            let bytes = serde_json::to_vec(&next).expect("an epoch has only string keys");
            if self.store.put_if(&self.key(EPOCH_KEY), &bytes, found.map(|f| f.1)).await.is_ok() {
                return Changed::Written(next);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the job allows itself here.
    pub(in crate::world) fn policy<'a>(&self, spec: &'a TransferSpec) -> Policy<'a> {
        let control = self.key(CONTROL);
        let occupied = self.store.below(&self.to).iter().any(|key| !key.starts_with(&control));
        Policy { on_existing: spec.results.as_ref().map(|r| r.on_existing).unwrap_or_default(), abandoned: &spec.abandoned, occupied }
    }

    /// The receipt that a commit has left, answered by `role`.
    pub(in crate::world) async fn committed(&self, role: Role, outcome: Outcome) -> Receipt {
        let stored = self.store.get(&self.key(RECEIPT_KEY)).await;
        match stored.and_then(|(bytes, _)| Receipt::parse(&String::from_utf8_lossy(&bytes)).ok()) {
            Some(stored) => Receipt { role, outcome, reason: format!("{outcome:?}"), ..stored },
            None => {
                Receipt { reason: "Internal".into(), retryable: true, ..Receipt::new(role, Outcome::Failed, "committed without a receipt") }
            }
        }
    }

    /// Completes the commit of `subject`: files, manifest, receipt, `committed`, and only then staging goes.
    pub(in crate::world) async fn forward(&self, subject: &Epoch) -> Rolled {
        let plan = match self.sealed_plan(subject).await {
            Ok(plan) => plan,
            Err(why) => return self.lost(subject, why).await,
        };
        for item in &plan.items {
            let Staged::Object { key } = &item.staged else { continue };
            match self.store.get(&self.key(key)).await {
                Some((bytes, _)) => self.store.put(&self.key(&item.file.path), &bytes).await,
                // Another roller may have finished, and its staging went because of that: what counts is what lies at the key.
                None => {
                    let there = self.store.get(&self.key(&item.file.path)).await;
                    if there.is_none_or(|(bytes, _)| item.file.strong != gpujob_transfer::plan::Strong::Whole(sha256_hex(&bytes))) {
                        return self.lost(subject, format!("{} is neither staged nor at its destination", item.file.path)).await;
                    }
                }
            }
        }
        let Some(verdict) = subject.verdict else { return Rolled::Lost("an epoch in committing has no verdict".into()) };
        let manifest = Manifest::of(&plan, verdict);
        let bytes = manifest.encode();
        self.guarded(subject, MANIFEST_KEY, &bytes).await;
        let mut receipt = Receipt::new(Role::Commit, Outcome::Committed, format!("{} files at {}", manifest.totals.files, self.to));
        (receipt.files, receipt.bytes) = (manifest.totals.files, manifest.totals.bytes);
        receipt.manifest = Some(ManifestRef { key: MANIFEST_KEY.into(), sha256: sha256_hex(&bytes) });
        receipt.committed = Some(verdict);
        let text = serde_json::to_vec(&receipt).expect("a receipt has only string keys");
        self.guarded(subject, RECEIPT_KEY, &text).await;
        let garbage = self.store.below(&self.key(STAGING));
        self.change(|found| finish(&self.me.nonce, found, subject)).await;
        for key in garbage {
            self.store.delete(&key).await;
        }
        Rolled::Committed(Box::new(receipt))
    }

    async fn sealed_plan(&self, subject: &Epoch) -> Result<Plan, String> {
        let reference = subject.plan.as_ref().ok_or("an epoch in committing has no plan")?;
        let (bytes, _) = self.store.get(&self.key(&reference.key)).await.ok_or_else(|| format!("the plan {} is gone", reference.key))?;
        Plan::decode(&bytes, reference)
    }

    async fn lost(&self, subject: &Epoch, why: String) -> Rolled {
        match self.change(|found| lose(&self.me.nonce, found, subject)).await {
            Changed::Decided(Decision::Committed(_)) => Rolled::Committed(Box::new(self.committed(Role::Commit, Outcome::Committed).await)),
            _ => Rolled::Lost(why),
        }
    }

    /// Writes a control object only while the destination is still the subject's.
    async fn guarded(&self, subject: &Epoch, below: &str, bytes: &[u8]) {
        let key = self.key(below);
        loop {
            let seen = self.store.get(&key).await.map(|(_, version)| version);
            match self.epoch().await {
                Some((epoch, _)) if epoch.same_attempt(subject) && epoch.state == State::Committing => {}
                _ => return,
            }
            if self.store.put_if(&key, bytes, seen).await.is_ok() {
                return;
            }
        }
    }
}
