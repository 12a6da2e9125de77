//! Deliveries that take longer than `deliveryDeadlineSeconds`: whatever is published in the end, the job's status says so.

use super::catalog::{ONE, SPOT, base, minutes, seconds, succeeds};
use super::objects::{job, namespace, pool};
use super::{End, Expect, JobExpect, Scenario};
use crate::world::{Program, Script};
use serde_json::{Value, json};
use std::time::Duration;

const REASON: &str = "DeliveryDeadlineExceeded";

/// A job whose results must be delivered within so many seconds.
fn hurried(limit: u64) -> Value {
    let mut train = job("train", &[Program::ok(60)]);
    train["spec"]["deliveryDeadlineSeconds"] = json!(limit);
    train
}

fn scenario(name: &'static str, about: &'static str, stage: Duration, publish: Duration, end: JobExpect) -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), hurried(10)],
        script: Script { stage, publish, ..Script::default() },
        expect: Expect { jobs: vec![end], instances_at_end: 0, launches: 1..=1, pool: true },
        horizon: minutes(40),
        ..base(name, about)
    }
}

pub(super) fn late() -> Scenario {
    let end = JobExpect { name: "train", end: End::Failed(REASON), attempts: 1..=1, failures: 0, delivered: None };
    Scenario {
        horizon: minutes(15),
        ..scenario(
            "late",
            "the results are not staged within deliveryDeadlineSeconds: the job fails once the store says that nothing will be published",
            minutes(5),
            Duration::ZERO,
            end,
        )
    }
}

/// Sealed results have ten minutes on top of the deadline.
pub(super) fn late_committing() -> Scenario {
    scenario(
        "late-committing",
        "the deadline passes while the commit pod hangs past the point of no return: who is asked to discard publishes instead",
        seconds(3),
        minutes(20),
        succeeds("train", 1..=1),
    )
}

pub(super) fn late_sealing() -> Scenario {
    let end = JobExpect { end: End::Either(REASON), ..succeeds("train", 1..=1) };
    scenario(
        "late-sealing",
        "the results are sealed just after the deadline: discard and commit race, and the status says which of them won",
        seconds(15),
        seconds(3),
        end,
    )
}
