//! A node is there and paid for, and the cluster keeps the pod from its program.

use super::catalog::{ONE, SPOT, base, machine, minutes, succeeds};
use super::objects::{job, job_without_results, namespace, pool, quota};
use super::{Act, End, Expect, JobExpect, Scenario, Step, When};
use crate::world::{Machine, Program, Script};
use std::collections::BTreeMap;

/// The pod is refused for five minutes, then the attempt ends; six more minutes pass before anything is bought again.
pub(super) fn quota_full() -> Scenario {
    Scenario {
        objects: vec![namespace(), quota(0), pool(ONE, SPOT), job("train", &[Program::ok(60)])],
        steps: vec![Step { when: When::After(minutes(9)), act: Act::DeleteQuota }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("quota-full", "the namespace has no room for a pod: the node is not kept for it, and the job runs when there is room")
    }
}

/// The second attempt goes to another node, though the first one's is free.
pub(super) fn unprepared() -> Scenario {
    Scenario {
        script: machine(0, Machine { no_volumes: true, ..Machine::default() }),
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("unprepared", "the first node cannot give the pod its volumes: another one can")
    }
}

/// Two nodes say the same: it is the job.
pub(super) fn without_volumes() -> Scenario {
    let bad = || Machine { no_volumes: true, ..Machine::default() };
    let end = JobExpect { name: "train", end: End::Failed("PodNotStarted"), attempts: 2..=2, failures: 0, delivered: None };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job_without_results("train", &[Program::ok(60)])],
        script: Script { machines: (0..9).map(|n| (n, bad())).collect::<BTreeMap<_, _>>(), ..Script::default() },
        expect: Expect { jobs: vec![end], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("without-volumes", "no node can give the pod its volumes: the job is given up after the second, and says where to look")
    }
}
