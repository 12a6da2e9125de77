//! What the cloud does, and does not do, against its own word.

use super::catalog::{ONE, SPOT, base, minutes, running, succeeds};
use super::objects::{job, namespace, pool};
use super::{Act, Expect, Scenario, Step, When};
use crate::cloud::{Boot, Failure, FakeCloud, Fault, Operation, Places, QUEUE, ZONES};
use crate::world::Program;
use gpujob_provider_core::ErrorClass;
use serde_json::json;
use std::time::Duration;

/// The end is asked for until the instance is seen to go.
pub(super) fn forgotten_end() -> Scenario {
    Scenario {
        cloud: |cloud| cloud.fault(Fault::next(Operation::Terminate, Failure::Forgotten)),
        ..base("forgotten-end", "the cloud agrees to end the instance and does not: it is told again")
    }
}

/// The second is bought elsewhere: what the first one's zone did is remembered.
pub(super) fn created_but_failed() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(60)])],
        cloud: |cloud| {
            // The cheapest zone's instances never come to run.
            cloud.set_boot(&Places::of("g6.xlarge").zone(ZONES[1]), Boot::Dies(Duration::from_secs(5), "Server.InternalError".into()));
        },
        expect: Expect { jobs: vec![succeeds("train", 1..=3)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(30),
        ..base("created-but-failed", "the cloud makes the instance and ends it at once: the next is bought in another zone")
    }
}

/// Throttled while the template goes, so that the launch is still to be sent: what it names never comes back.
pub(super) fn template_gone() -> Scenario {
    Scenario {
        cloud: |cloud| cloud.fault(Fault::next(Operation::Launch, Failure::Refused(ErrorClass::Throttled)).times(5)),
        steps: vec![Step { when: When::After(Duration::from_secs(10)), act: Act::Cloud(FakeCloud::renew_templates) }],
        ..base("template-gone", "the launch template of a launch not yet sent is gone for good: another is bought with today's")
    }
}

/// The queue says first that the instance is likely to go, then it goes without another word.
pub(super) fn rebalanced() -> Scenario {
    let mut queued = pool(ONE, SPOT);
    queued["spec"]["aws"]["interruptionQueue"] = json!(QUEUE);
    let mut train = job("train", &[Program::ok(300)]);
    train["spec"]["checkpoints"] = json!({"path": "/checkpoints", "interval": "1h"});
    Scenario {
        objects: vec![namespace(), queued, train],
        steps: vec![
            Step { when: running("train", Duration::from_secs(100)), act: Act::Rebalance("train") },
            Step { when: running("train", Duration::from_secs(200)), act: Act::Interrupt("train", Duration::ZERO) },
        ],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base(
            "rebalanced",
            "a rebalance recommendation has a checkpoint saved and ends nothing: once the instance is lost, that much is kept",
        )
    }
}
