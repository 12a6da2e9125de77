//! What people do to objects behind the operator's back.

use super::catalog::{ONE, SPOT, base, minutes, running, seconds, succeeds};
use super::objects::{job_without_results, namespace, pool};
use super::{Act, Expect, JobExpect, Scenario, Step};
use crate::world::Program;

/// The reservation of the first job is nobody's: the second has its name and not its UID.
pub(super) fn replaced() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job_without_results("train", &[Program::ok(120)])],
        steps: vec![Step { when: running("train", seconds(20)), act: Act::Replace("train") }],
        expect: Expect {
            jobs: vec![JobExpect { delivered: None, ..succeeds("train", 1..=1) }],
            instances_at_end: 0,
            launches: 1..=2,
            pool: true,
        },
        horizon: minutes(30),
        ..base("replaced", "a running job is deleted by force and applied again at once, under the same name")
    }
}
