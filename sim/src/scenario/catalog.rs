//! All scenarios. The first ten are the ones that are run with a crash after every single write.

use super::by_cloud::{created_but_failed, forgotten_end, rebalanced, template_gone};
use super::by_cluster::{quota_full, unprepared, without_volumes};
use super::by_hand::{abandoned, abandoned_long_ago, exits_zero_unseen, last_moment, replaced};
use super::late::{late, late_committing, late_sealing};
use super::objects::{job, job_without_results, namespace, pool};
use super::{Act, End, Expect, JobExpect, Scenario, Step, When};
use crate::cloud::{Boot, FakeCloud, Place, Places, ZONES};
use crate::world::{Machine, NO_SUCH_BUCKET, OnSigterm, Program, Script};
use gpujob_crds::{Market, names};
use gpujob_transfer::receipt::Ended;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The cluster of what is in the account and is not ours.
pub const OTHERS: &str = "another-cluster";
/// One type, so that what is bought is known.
pub(super) const ONE: &[&str] = &["g6.xlarge"];
pub(super) const SPOT: &[&str] = &["spot"];
const BOTH: &[&str] = &["spot", "on-demand"];

pub(super) fn minutes(n: u64) -> Duration {
    Duration::from_secs(60 * n)
}

pub(super) fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A job that delivers in one attempt, and nothing else.
pub(super) fn base(name: &'static str, about: &'static str) -> Scenario {
    Scenario {
        name,
        about,
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(60)])],
        script: Script::default(),
        cloud: |_| {},
        steps: vec![],
        expect: Expect { jobs: vec![succeeds("train", 1..=1)], instances_at_end: 0, launches: 1..=1, pool: true },
        horizon: minutes(15),
        replicas: 1,
    }
}

pub(super) fn succeeds(name: &'static str, attempts: RangeInclusive<i32>) -> JobExpect {
    JobExpect { name, end: End::Succeeded, attempts, failures: 0, delivered: Some(Ended::Succeeded) }
}

fn gone(name: &'static str) -> JobExpect {
    JobExpect { name, end: End::Gone, attempts: 0..=9, failures: 0, delivered: None }
}

pub(super) fn running(job: &'static str, later: Duration) -> When {
    When::Runs { job, nth: 1, later }
}

pub(super) fn machine(n: usize, machine: Machine) -> Script {
    Script { machines: BTreeMap::from([(n, machine)]), ..Script::default() }
}

/// Every scenario.
#[must_use]
pub fn all() -> Vec<Scenario> {
    vec![
        base("plain", "a job runs, delivers, and its node is given back"),
        failing(),
        interrupted(),
        never_joins(),
        gpu_never_appears(),
        no_capacity(),
        delete_in_flight(),
        pool_deleted(),
        two_jobs_one_gpu(),
        leader_lost(),
        quota_then_on_demand(),
        namespace_deleted(),
        gpu_node_deleted(),
        node_deleted(),
        suspended(),
        fails_then_succeeds(),
        silent_kubelet(),
        exits_zero_when_told(),
        exits_zero_unseen(),
        no_results(),
        results_exist(),
        impostor(),
        doomed(),
        checkpoints(),
        late(),
        late_committing(),
        late_sealing(),
        replaced(),
        abandoned(),
        abandoned_long_ago(),
        last_moment(),
        forgotten_end(),
        created_but_failed(),
        template_gone(),
        rebalanced(),
        quota_full(),
        unprepared(),
        without_volumes(),
    ]
}

fn failing() -> Scenario {
    let mut train = job("train", &[Program::failing(20, 7)]);
    train["spec"]["backoffLimit"] = json!(1);
    let end =
        JobExpect { name: "train", end: End::Failed("BackoffLimitExceeded"), attempts: 2..=2, failures: 2, delivered: Some(Ended::Failed) };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), train],
        expect: Expect { jobs: vec![end], instances_at_end: 0, launches: 1..=1, pool: true },
        ..base("failing", "the program exits 7, twice: the job fails, and what it left is kept")
    }
}

fn interrupted() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(300), Program::ok(60)])],
        steps: vec![Step { when: running("train", seconds(30)), act: Act::Interrupt("train", minutes(2)) }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("interrupted", "the cloud takes the instance back while the program runs: a second attempt delivers")
    }
}

fn never_joins() -> Scenario {
    Scenario {
        script: machine(0, Machine { never_joins: true, ..Machine::default() }),
        expect: Expect { jobs: vec![succeeds("train", 1..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("never-joins", "the first instance never becomes a Node: it is replaced")
    }
}

fn gpu_never_appears() -> Scenario {
    Scenario {
        script: machine(0, Machine { no_gpu: true, ..Machine::default() }),
        expect: Expect { jobs: vec![succeeds("train", 1..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("gpu-never-appears", "the first Node is Ready without its GPU: waited for, never doubled, then replaced")
    }
}

fn no_capacity() -> Scenario {
    Scenario {
        cloud: |cloud| cloud.set_capacity(&Places::all(), Some(0)),
        steps: vec![Step { when: When::After(minutes(6)), act: Act::Cloud(|cloud| cloud.set_capacity(&Places::all(), None)) }],
        horizon: minutes(60),
        ..base("no-capacity", "nothing can be bought for six minutes, then it can")
    }
}

fn delete_in_flight() -> Scenario {
    Scenario {
        steps: vec![Step { when: running("train", seconds(20)), act: Act::DeleteJob("train") }],
        expect: Expect { jobs: vec![gone("train")], instances_at_end: 0, launches: 1..=1, pool: true },
        ..base("delete-in-flight", "the job is deleted while its program runs")
    }
}

fn pool_deleted() -> Scenario {
    Scenario {
        steps: vec![Step { when: running("train", seconds(20)), act: Act::DeletePool }],
        expect: Expect { jobs: vec![succeeds("train", 1..=2)], instances_at_end: 0, launches: 1..=1, pool: false },
        ..base("pool-deleted", "the pool is deleted while a job runs on its node: the job ends first")
    }
}

fn two_jobs_one_gpu() -> Scenario {
    let mut one = pool(ONE, SPOT);
    one["spec"]["limits"] = json!({"nodes": 1});
    Scenario {
        objects: vec![namespace(), one, job("first", &[Program::ok(60)]), job("second", &[Program::ok(60)])],
        expect: Expect {
            jobs: vec![succeeds("first", 1..=1), succeeds("second", 1..=1)],
            instances_at_end: 0,
            launches: 1..=1,
            pool: true,
        },
        horizon: minutes(20),
        ..base("two-jobs-one-gpu", "two jobs, and the pool may hold one node of one GPU: one after the other")
    }
}

fn leader_lost() -> Scenario {
    Scenario {
        steps: vec![Step { when: running("train", seconds(10)), act: Act::LoseLeader }],
        replicas: 2,
        ..base("leader-lost", "the leader loses the API server while a program runs: the other replica goes on")
    }
}

fn quota_then_on_demand() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, BOTH), job("train", &[Program::ok(60)])],
        cloud: |cloud| cloud.set_quota('g', Market::Spot, Some(0)),
        horizon: minutes(60),
        ..base("quota", "the spot quota is used up: on-demand is bought")
    }
}

fn namespace_deleted() -> Scenario {
    Scenario {
        steps: vec![Step { when: running("train", seconds(20)), act: Act::DeleteNamespace }],
        expect: Expect { jobs: vec![gone("train")], instances_at_end: 0, launches: 1..=1, pool: true },
        ..base("namespace-deleted", "the namespace is deleted while a program runs: nothing holds it, and the node is given back")
    }
}

fn gpu_node_deleted() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(120), Program::ok(60)])],
        steps: vec![Step { when: running("train", seconds(20)), act: Act::DeleteGpuNode("train") }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(30),
        ..base("gpunode-deleted", "somebody deletes the GpuNode under a running program: the attempt is interrupted, the next delivers")
    }
}

fn node_deleted() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(300), Program::ok(60)])],
        steps: vec![Step { when: running("train", seconds(20)), act: Act::DeleteNode("train") }],
        expect: Expect { jobs: vec![succeeds("train", 2..=3)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("node-deleted", "somebody deletes the Node object under a running program")
    }
}

fn suspended() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(120), Program::ok(60)])],
        steps: vec![
            Step { when: running("train", seconds(20)), act: Act::Suspend("train", true) },
            Step { when: running("train", minutes(10)), act: Act::Suspend("train", false) },
        ],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("suspended", "the job is suspended in flight and goes on ten minutes later; its node is given back meanwhile")
    }
}

fn fails_then_succeeds() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::failing(20, 1), Program::ok(30)])],
        expect: Expect {
            jobs: vec![JobExpect { failures: 1, ..succeeds("train", 2..=2) }],
            instances_at_end: 0,
            launches: 1..=1,
            pool: true,
        },
        ..base("fails-then-succeeds", "the first attempt fails and its results are thrown away; the second delivers, on the same node")
    }
}

fn silent_kubelet() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[Program::ok(120), Program::ok(60)])],
        steps: vec![Step { when: running("train", seconds(20)), act: Act::Silence("train", minutes(20)) }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("silent-kubelet", "a kubelet loses the API server and its zombie goes on to the end: it can neither commit nor overwrite")
    }
}

fn exits_zero_when_told() -> Scenario {
    let liar = Program { runs_for: 300, exit_code: 0, on_sigterm: OnSigterm::ExitZero };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job("train", &[liar, Program::ok(60)])],
        steps: vec![Step { when: running("train", seconds(30)), act: Act::DeleteGpuNode("train") }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("exits-zero-when-told", "a disturbed program exits 0 on SIGTERM: that is no success")
    }
}

fn no_results() -> Scenario {
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), job_without_results("train", &[Program::ok(60)])],
        expect: Expect {
            jobs: vec![JobExpect { delivered: None, ..succeeds("train", 1..=1) }],
            instances_at_end: 0,
            launches: 1..=1,
            pool: true,
        },
        ..base("no-results", "a job that keeps nothing")
    }
}

fn results_exist() -> Scenario {
    let mut second: Value = job("second", &[Program::ok(30)]);
    second["spec"]["results"]["to"] = json!(super::objects::destination("first"));
    let refused = JobExpect { name: "second", end: End::Failed("DestinationNotEmpty"), attempts: 1..=1, failures: 0, delivered: None };
    let mut one = pool(ONE, SPOT);
    one["spec"]["limits"] = json!({"nodes": 1});
    // Both are applied within one second, which is all that an age tells.
    let mut first = job("first", &[Program::ok(30)]);
    first["spec"]["priority"] = json!(1);
    Scenario {
        objects: vec![namespace(), one, first, second],
        expect: Expect { jobs: vec![succeeds("first", 1..=1), refused], instances_at_end: 0, launches: 1..=1, pool: true },
        horizon: minutes(20),
        ..base("results-exist", "the second job's destination holds the first one's results: refused, and nothing is touched")
    }
}

fn impostor() -> Scenario {
    Scenario {
        script: machine(0, Machine { impostor: Some("impostor".into()), ..Machine::default() }),
        expect: Expect { jobs: vec![succeeds("train", 1..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(60),
        ..base("impostor", "another Node claims the first instance's providerID: neither is accepted, and the instance is replaced")
    }
}

fn doomed() -> Scenario {
    let mut train = job("train", &[Program::ok(60)]);
    train["spec"]["results"]["to"] = json!(format!("{NO_SUCH_BUCKET}train/"));
    let end = JobExpect { name: "train", end: End::Failed("BucketNotFound"), attempts: 1..=1, failures: 0, delivered: None };
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), train],
        expect: Expect { jobs: vec![end], instances_at_end: 0, launches: 0..=1, pool: true },
        ..base("doomed", "the bucket does not exist: the job is told while its instance boots, and the launch is cancelled")
    }
}

fn checkpoints() -> Scenario {
    let mut train = job("train", &[Program::ok(300)]);
    train["spec"]["checkpoints"] = json!({"path": "/checkpoints", "interval": "1m"});
    Scenario {
        objects: vec![namespace(), pool(ONE, SPOT), train],
        steps: vec![Step { when: running("train", seconds(200)), act: Act::Interrupt("train", minutes(2)) }],
        expect: Expect { jobs: vec![succeeds("train", 2..=2)], instances_at_end: 0, launches: 2..=2, pool: true },
        horizon: minutes(40),
        ..base("checkpoints", "the cloud takes the instance back: the second attempt goes on where the first was told to end")
    }
}

/// The scenario of this name.
#[must_use]
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|s| s.name == name)
}

/// What a [`FakeCloud`] is before a scenario sets it up: everything on sale.
#[must_use]
pub fn cloud(clock: std::sync::Arc<dyn gpujob_operator::clock::Clock>, scenario: &Scenario) -> FakeCloud {
    let cloud = FakeCloud::new(clock);
    (scenario.cloud)(&cloud);
    // Somebody else's in the same account, which nobody here may touch. No scenario buys that type, and it never boots, so no Node comes.
    let place = Place { instance_type: "p5.48xlarge".into(), zone: ZONES[0].into(), market: Market::OnDemand };
    cloud.set_boot(&Places::of(&place.instance_type), Boot::Never);
    let tags = BTreeMap::from([(names::CLUSTER_TAG.to_owned(), OTHERS.to_owned()), (names::NODE_UID_TAG.to_owned(), "theirs".to_owned())]);
    let _ = cloud.plant(&place, tags.clone());
    let _ = cloud.plant_volume(tags);
    cloud
}
