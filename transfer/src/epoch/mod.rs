//! Which attempt may commit: the epoch of a destination, and every change it may go through.
//!
//! The epoch is one small object, `.gpujob/epoch`, changed only by conditional writes. This module has no I/O, no
//! clock and no randomness: [`decide`] says what to do with an epoch that was read, the caller writes it with
//! `put_if(version)` and, whatever the answer, reads again until what it finds is its own write or needs none.
//!
//! ```text
//!             claim                seal               begin               finish
//!   (none) ──────────> running ──────────> sealed ──────────> committing ─────────> committed
//!                         │                   │                   │
//!                         │ revoke            │ revoke            │ lose: only with proof that
//!                         v                   v                   v a staged file is gone
//!                      revoked <──────────────┴───────────────────┘
//! ```
//!
//! A higher attempt of the same job claims over `running`, `sealed` and `revoked`; `committing` is only ever rolled
//! forward, by whoever finds it; `committed` belongs to its job until another one overwrites it.

use serde::{Deserialize, Serialize};

use crate::receipt::{Holder, Verdict};
use crate::spec::JobRef;

mod decide;
#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod model;

pub use decide::{Decision, Policy, Refusal, begin, claim, finish, lose, resolve, revoke, seal, standing};

/// The epoch object.
#[derive(Clone, Debug, PartialEq, Hash, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Epoch {
    /// Version of this format: 1.
    pub v: u32,
    /// The job that holds the destination.
    pub job: JobRef,
    /// Index of the job's array.
    pub index: u32,
    /// Its attempt.
    pub attempt: u32,
    /// Uid of the attempt's pod: two pods with one attempt's number are two claimants.
    pub pod_uid: String,
    /// Random name of the process that wrote this.
    pub nonce: String,
    /// Counts the writes; with the nonce it names one write, so that a lost answer can be told from a lost race, and
    /// no two versions have the same bytes (an ETag is a hash of them).
    pub seq: u64,
    /// How far the attempt is.
    pub state: State,
    /// From `sealed` on: what is to be committed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plan: Option<PlanRef>,
    /// From `committing` on: how the attempt had ended. Whoever rolls it forward uses this, not its own opinion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
}

/// How far an attempt is.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Claimed; its sidecar may stage.
    Running,
    /// All is staged and the plan is durable. Nothing is visible yet.
    Sealed,
    /// The point of no return: files are becoming visible.
    Committing,
    /// Files, manifest and receipt are in place.
    Committed,
    /// The attempt can never commit. Its job may claim again with a higher one.
    Revoked,
    /// Like revoked, and the job does not want the destination any more: anyone may claim it.
    Released,
}

/// The durable plan of a sealed attempt.
#[derive(Clone, Debug, PartialEq, Hash, Eq, Serialize, Deserialize)]
pub struct PlanRef {
    /// Key below the destination.
    pub key: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// Who decides: one process, acting for one attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Actor {
    /// The job it acts for.
    pub job: JobRef,
    /// Index of the job's array.
    pub index: u32,
    /// The attempt it acts for.
    pub attempt: u32,
    /// Uid of that attempt's pod.
    pub pod_uid: String,
    /// Random name of this process.
    pub nonce: String,
}

impl Epoch {
    /// Whether both speak of the same run.
    pub fn same_attempt(&self, other: &Epoch) -> bool {
        self.job.uid == other.job.uid && self.index == other.index && self.attempt == other.attempt && self.pod_uid == other.pod_uid
    }

    /// Whether this is the very write `wrote`: the answer to a conditional write may have been lost.
    pub fn is_write(&self, wrote: &Epoch) -> bool {
        self.nonce == wrote.nonce && self.seq == wrote.seq
    }

    /// Who holds the destination, for a refusal's receipt.
    pub fn holder(&self) -> Holder {
        let job = format!("{}/{}", self.job.namespace, self.job.name);
        Holder { uid: self.job.uid.clone(), job, cluster: self.job.cluster.clone() }
    }

    /// The next write of this epoch by `nonce`.
    fn next(&self, nonce: &str, state: State) -> Epoch {
        Epoch { nonce: nonce.into(), seq: self.seq.wrapping_add(1), state, ..self.clone() }
    }
}

impl Actor {
    /// Whether the epoch speaks of the attempt that this actor acts for.
    pub fn owns(&self, epoch: &Epoch) -> bool {
        self.job.uid == epoch.job.uid && self.index == epoch.index && self.attempt == epoch.attempt && self.pod_uid == epoch.pod_uid
    }

    /// Whether the epoch speaks of the same job, at this attempt or an earlier one.
    fn follows(&self, epoch: &Epoch) -> bool {
        self.job.uid == epoch.job.uid && self.index == epoch.index && epoch.attempt <= self.attempt
    }

    /// A fresh claim that follows `found`.
    fn running(&self, found: Option<&Epoch>) -> Epoch {
        Epoch {
            v: 1,
            job: self.job.clone(),
            index: self.index,
            attempt: self.attempt,
            pod_uid: self.pod_uid.clone(),
            nonce: self.nonce.clone(),
            seq: found.map_or(0, |e| e.seq).wrapping_add(1),
            state: State::Running,
            plan: None,
            verdict: None,
        }
    }
}
