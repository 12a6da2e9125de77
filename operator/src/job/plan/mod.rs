//! What to do about one job: pure, no clock, no I/O.
//!
//! The status is always written before actions are taken, and an action that depends on something being on record is only
//! planned once the *observed* status has it. So any prefix of `actions` is safe to have happened, and a crash between two
//! of them is mended by planning again.

mod abandoned;
mod attempt;
mod cleanup;
mod conditions;
mod deadlines;
mod delivery;
mod draft;
mod ending;
mod outcome;
mod preflight;
mod release;
mod settle;
mod starting;

use super::next;
use super::observe::JobWorld;
use super::pod::{Target, storage::Task};
use draft::Draft;
use gpujob_crds::{GpuJobStatus, Reservation};
use jiff::Timestamp;

/// One write, or one thing that is safe to have happened alone.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Put our finalizer on the GpuJob.
    AddJobFinalizer,
    /// Take it off again.
    RemoveJobFinalizer,
    /// Make the attempt's pod, of a template read afresh.
    CreateAttemptPod(Target),
    /// Keep the end of the program's output in a ConfigMap; best effort.
    SaveLog {
        /// The attempt's pod.
        pod: String,
        /// Which container, where there are several.
        container: Option<String>,
    },
    /// Make a pod that speaks to the store.
    CreateStoragePod {
        /// The attempt.
        target: Target,
        /// What to do.
        task: Task,
        /// The attempt's pod; empty when there is none yet.
        pod_uid: String,
    },
    /// Delete a pod.
    DeletePod {
        /// Its name.
        name: String,
        /// Precondition.
        uid: String,
        /// Seconds; `None`: the pod's own, which has room for delivery.
        grace: Option<u32>,
    },
    /// Drop this job's reservations on a GpuNode but for those in `remaining`.
    Release {
        /// The GpuNode.
        node: String,
        /// Precondition.
        resource_version: String,
        /// What stays, of all jobs. Empty: the idle clock starts.
        remaining: Vec<Reservation>,
    },
    /// Take our finalizer off a pod.
    RemovePodFinalizer {
        /// Its name.
        name: String,
        /// Precondition.
        uid: String,
        /// The finalizer's position, tested before it is removed.
        position: usize,
    },
    /// Delete the GpuJob: its time to live after its end is over.
    DeleteJob,
}

/// What to do now.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// In this order.
    pub actions: Vec<Action>,
    /// This controller's part of the status, whole.
    pub status: GpuJobStatus,
    /// The earliest time at which the answer may change by itself.
    pub wake: Option<Timestamp>,
    /// What is going on, for people.
    pub why: String,
}

/// Plans one job.
#[must_use]
pub fn plan(world: &JobWorld, now: Timestamp) -> Plan {
    let mut d = Draft::new(world, now);
    if !world.job.spec.is_ours() {
        d.why = format!("left to {}", world.job.spec.managed_by.as_deref().unwrap_or_default());
        return d.finish();
    }
    cleanup::run(&mut d);
    if next::ended(&d.recorded) {
        release::run(&mut d);
        conditions::settled(&mut d);
        deadlines::time_to_live(&mut d);
        return d.finish();
    }
    if world.deleting() {
        attempt::stop_for_deletion(&mut d);
        release::run(&mut d);
    } else {
        deadlines::run(&mut d);
        if !next::ended(&d.status) {
            match d.open().is_some() {
                true => attempt::run(&mut d),
                false => settle::run(&mut d),
            }
        }
    }
    conditions::run(&mut d);
    d.finish()
}

/// The plan of a job that template or API server have said no to: it ends, with those words.
#[must_use]
pub fn refused(world: &JobWorld, now: Timestamp, reason: &str, message: &str) -> Plan {
    let mut d = Draft::new(world, now);
    if !next::ended(&d.recorded) {
        ending::fail(&mut d, reason, message);
        conditions::run(&mut d);
    }
    d.finish()
}

#[cfg(test)]
mod tests;
