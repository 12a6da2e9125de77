//! What people do to objects behind the operator's back.

use super::catalog::{ONE, SPOT, base, minutes, running, seconds, succeeds};
use super::objects::{destination, job, job_without_results, namespace, pool};
use super::{Act, End, Expect, JobExpect, Scenario, Step};
use crate::world::{OnSigterm, Program, Script};
use gpujob_transfer::receipt::Ended;
use serde_json::json;
use std::time::Duration;

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

/// The first job is deleted by force while it runs, and the second, which has the same destination, is let go so long after that.
fn taken_over(name: &'static str, about: &'static str, later: Duration) -> Scenario {
    let mut second = job("second", &[Program::ok(60)]);
    second["spec"]["results"]["to"] = json!(destination("first"));
    second["spec"]["suspend"] = json!(true);
    let first = JobExpect { name: "first", end: End::Gone, attempts: 0..=9, failures: 0, delivered: Some(Ended::Succeeded) };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("first", &[Program::ok(600)]), second],
        steps: vec![
            Step { when: running("first", seconds(20)), act: Act::Forget("first") },
            Step { when: running("first", seconds(20) + later), act: Act::Suspend("second", false) },
        ],
        expect: Expect {
            // What lies at the destination is the second one's: its success is checked against that.
            jobs: vec![first, JobExpect { delivered: None, ..succeeds("second", 1..=2) }],
            instances_at_end: 0,
            launches: 1..=2,
            pool: true,
        },
        horizon: minutes(40),
        ..base(name, about)
    }
}

/// A node is free, so the claim itself is what is refused.
pub(super) fn abandoned() -> Scenario {
    let about = "a job is deleted by force and leaves its destination claimed: the next job's second attempt takes the claim over";
    taken_over("abandoned", about, seconds(20))
}

/// A node has to be bought, and what looks at the destination meanwhile finds it claimed.
pub(super) fn abandoned_long_ago() -> Scenario {
    let about = "the same with a job that comes later: it is known before the first attempt, which takes the claim over";
    taken_over("abandoned-long-ago", about, minutes(8))
}

/// Nobody sees the deletion before the program has answered it with an exit of 0: exit and deletion are read together.
pub(super) fn exits_zero_unseen() -> Scenario {
    let liar = Program { runs_for: 300, exit_code: 0, on_sigterm: OnSigterm::ExitZero };
    let lost = Step { when: running("train", seconds(30)), act: Act::LoseLeader };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[liar, Program::ok(60)])],
        // The sidecar is still at work when the operator is back, so the pod is there to be read.
        script: Script { stage: minutes(3), ..Script::default() },
        steps: vec![lost, Step { when: running("train", seconds(32)), act: Act::DeletePod("train") }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 1..=2, pool: true },
        horizon: minutes(40),
        replicas: 2,
        ..base("exits-zero-unseen", "a pod is deleted while no operator leads, and its program exits 0 on SIGTERM: that is no success")
    }
}

/// Whoever found the node idle must not take it from the job that has come meanwhile.
pub(super) fn last_moment() -> Scenario {
    let mut second = job_without_results("second", &[Program::ok(60)]);
    second["spec"]["suspend"] = json!(true);
    // The program runs for 60 s, the pool's window is two minutes.
    let step = Step { when: running("first", seconds(181)), act: Act::Suspend("second", false) };
    let done = |name| JobExpect { delivered: None, ..succeeds(name, 1..=1) };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job_without_results("first", &[Program::ok(60)]), second],
        steps: vec![step],
        expect: Expect { jobs: vec![done("first"), done("second")], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(30),
        ..base("last-moment", "a job comes a second after its node was found idle for the whole window and its end was asked for")
    }
}
