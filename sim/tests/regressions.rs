//! Schedules that once failed, each with the bug that it was. Written out: a seed means another schedule when scenarios change.

use gpujob_sim::faults::Fault;
use gpujob_sim::run::{Schedule, play};

fn holds(scenario: &str, faults: Vec<Fault>) {
    let schedule = Schedule { faults, ..Schedule::clean(scenario, 1) };
    let verdict = play(&schedule);
    assert!(verdict.is_good(), "{}", verdict.complaint());
}

/// The scheduler reserved the next attempt on a GpuNode whose Node object had just been deleted, and the job waited nine minutes.
#[test]
fn a_node_object_that_is_gone_does_not_come_back() {
    holds("node-deleted", vec![]);
}

/// Why a job waits was written without the version that was read: a request that was nine seconds on its way undid what had been
/// said since, and the condition's transition time ran backwards.
#[test]
fn a_reason_that_arrives_late_undoes_nothing() {
    holds("quota", vec![Fault::Delay { request: 14, there_ms: 9_226, back_ms: 6_590 }]);
}

/// The index of pods was emptied whenever the watch of a kind without an index had listed: after a restart that lost the race, the
/// operator did not see the pods of its jobs, asked the store again and again, and left a deleted pod's finalizer in place.
#[test]
fn an_operator_that_comes_back_sees_the_pods_that_are_there() {
    holds("gpu-never-appears", vec![Fault::Crash { after_write: 33, back_in_s: 5 }]);
    holds("fails-then-succeeds", vec![Fault::Crash { after_write: 38, back_in_s: 5 }]);
}
