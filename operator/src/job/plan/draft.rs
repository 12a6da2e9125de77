//! A plan in the making: the wanted status, the actions so far, and the earliest wake-up.

use super::{Action, Plan};
use crate::job::observe::{JobWorld, open};
use crate::job::pod::Target;
use gpujob_crds::{GpuJobStatus, job_status::Attempt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// See the module.
pub(super) struct Draft<'a> {
    pub(super) world: &'a JobWorld,
    /// Now, in whole seconds: as the API writes times.
    pub(super) now: Timestamp,
    /// What the API server has.
    pub(super) recorded: GpuJobStatus,
    /// What it shall have.
    pub(super) status: GpuJobStatus,
    pub(super) actions: Vec<Action>,
    pub(super) wake: Option<Timestamp>,
    pub(super) why: String,
}

impl<'a> Draft<'a> {
    pub(super) fn new(world: &'a JobWorld, now: Timestamp) -> Self {
        let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
        let recorded = world.recorded();
        Self { world, now, status: recorded.clone(), recorded, actions: vec![], wake: None, why: String::new() }
    }

    pub(super) fn finish(self) -> Plan {
        Plan { actions: self.actions, status: self.status, wake: self.wake, why: self.why }
    }

    pub(super) fn act(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Look again at `at` at the latest.
    pub(super) fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }

    /// Whether `from + seconds` has come; if not, it is a time to wake at.
    pub(super) fn due(&mut self, from: Timestamp, seconds: i64) -> bool {
        let at = later(from, seconds);
        if at > self.now {
            self.wake_at(at);
        }
        at <= self.now
    }

    /// The attempt that goes on, in the wanted status.
    pub(super) fn open(&self) -> Option<&Attempt> {
        open(&self.status)
    }

    /// The same, to be changed.
    pub(super) fn open_mut(&mut self) -> Option<&mut Attempt> {
        self.status.attempts.last_mut().filter(|a| a.outcome.is_none())
    }

    pub(super) fn time(&self) -> Option<Time> {
        Some(Time(self.now))
    }

    /// Whether the job delivers anything.
    pub(super) fn delivers(&self) -> bool {
        self.world.job.spec.results.is_some()
    }

    /// The pod-building name of an attempt.
    pub(super) fn target(&self, attempt: &Attempt) -> Target {
        let node = attempt.node.clone().unwrap_or_default();
        let resource_name = self.world.node(&node).map(|n| n.resource_name.clone()).unwrap_or_default();
        Target { index: attempt.index, attempt: attempt.number, node, resource_name }
    }
}

/// `from` and some seconds.
pub(super) fn later(from: Timestamp, seconds: i64) -> Timestamp {
    from.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Whole seconds between two times, never negative.
pub(super) fn between(from: Timestamp, to: Timestamp) -> i64 {
    (to.as_second() - from.as_second()).max(0)
}
