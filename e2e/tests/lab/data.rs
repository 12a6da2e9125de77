//! The data path on a real cluster: a job whose data cannot be had is told while its instance boots, and one that is interrupted goes
//! on from its checkpoint.

use crate::endings::{Trying, ended, released};
use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuJob;
use gpujob_crds::conditions::{find, job as condition};
use gpujob_crds::job_status::Outcome;
use gpujob_e2e::progress::until;
use gpujob_e2e::soak::given;
use jiff::Timestamp;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};

/// The pool of the job that is interrupted.
const POOL: &str = "data";
/// A pool of the doomed job alone, of a type that no other case buys: its instances never come to join, however slowly the rest of
/// the machine looks at the data.
const SLOW: (&str, &str) = ("slow", "gr6.4xlarge");
/// How long EC2 leaves the instance after its notice; two minutes in earnest.
const NOTICE: Duration = Duration::from_secs(30);
/// From the job's creation, with three other cases beside it.
const TOLD_WITHIN: f64 = 60.0;

/// Nobody waits for the instance: the job is told, and its launch is cancelled.
pub(crate) async fn doomed(given: Given) -> Result<()> {
    given.lab.ec2().fault(&json!({"kind": "node", "type": SLOW.1, "slow_boot_seconds": 3600})).await?;
    given::pool(&given.lab, &given.client, SLOW.0, &json!({"instances": {"types": [SLOW.1], "models": null}})).await?;
    // The bucket is there for the others; this job wants one that is not.
    let doomed = Trying { bucket: "gpujob-nowhere", pool: Some(SLOW.0), ..Trying::new("doomed") };
    doomed.apply(&given).await?;
    let (job, _) = ended(&given, doomed.name, Duration::from_secs(150)).await?;
    let told = Timestamp::now();
    let status = job.status.clone().context("a status")?;
    let verdict = find(&status.conditions, condition::SUCCEEDED).context("a verdict")?;
    ensure!(verdict.status == "False" && verdict.reason == "BucketNotFound", "{verdict:?}");
    let looked = find(&status.conditions, condition::STORAGE_READY).context("somebody looked")?;
    ensure!(looked.status == "False" && looked.reason == "BucketNotFound", "{looked:?}");
    ensure!(status.start_time.is_none() && status.attempts.iter().all(|a| a.pod_uid.is_none()), "a pod was made: {:?}", status.attempts);
    let took = told.duration_since(job.creation_timestamp().context("it was made")?.0).as_secs_f64();
    ensure!(took < TOLD_WITHIN, "told after {took:.0} s");
    eprintln!("a doomed job was told {took:.1} s after it was applied");
    released(&given, &job).await
}

/// The GpuNode under a job, and its instance.
async fn on(given: &Given, job: &str) -> Result<(String, String)> {
    let name = given::status(&given.client, given::NAMESPACE, job).await?.node.context("it runs on a GpuNode")?;
    let node = given::nodes(&given.client, POOL).await?.into_iter().find(|node| node.name_any() == name).context("which is there")?;
    Ok((name, node.status.and_then(|status| status.instance).context("and has an instance")?.id))
}

/// EC2 takes its spot instance back in the middle: the sample goes on from its checkpoint on the next one, and the checkpoint is gone once
/// the results are delivered.
pub(crate) async fn resumed(given: Given) -> Result<()> {
    given::pool(&given.lab, &given.client, POOL, &json!({"limits": {"nodes": 2}})).await?;
    let arguments = json!([
        "--input",
        "/data",
        "--results",
        "/results",
        "--checkpoints",
        "/checkpoints",
        "--checkpoint-every",
        "5",
        "--epochs",
        "4000"
    ]);
    let sample = Trying { arguments, pool: Some(POOL), checkpoints: Some("/checkpoints"), ..Trying::new("resumed") };
    sample.apply(&given).await?;
    let name = sample.name;
    given::state(&given.client, "default", name, &["Running"], Duration::from_secs(150)).await?;
    let store = given.lab.s3();
    let below = format!("runs/{name}/.gpujob/checkpoints/");
    until("a checkpoint", Duration::from_secs(60), || async {
        let there = store.list(sample.bucket, &below).await?;
        ensure!(there.iter().any(|key| key.ends_with("/head")), "{there:?}");
        Ok(())
    })
    .await?;
    let (first, instance) = on(&given, name).await?;
    given.lab.ec2().post(&format!("instances/{instance}/interrupt"), &json!({"notice": NOTICE.as_secs()})).await?;
    let noticed = Instant::now();
    // Before the old node is dead; three times the 5 s within which a notice is seen, for the three cases beside this one.
    until("the replacement", NOTICE.min(Duration::from_secs(15)), || async {
        let nodes = given::nodes(&given.client, POOL).await?;
        ensure!(nodes.iter().any(|node| node.name_any() != first), "there is none");
        Ok(())
    })
    .await?;
    eprintln!("  replaced {:.1} s after the notice", noticed.elapsed().as_secs_f64());
    let (job, _) = ended(&given, name, Duration::from_secs(300)).await?;
    let status = job.status.clone().context("a status")?;
    ensure!(status.state.as_deref() == Some("Succeeded"), "{:?}", status.conditions);
    ensure!(status.attempts.len() == 2 && status.interruptions == Some(1) && status.failures.is_none(), "{:?}", status.attempts);
    let [one, two] = &status.attempts[..] else { unreachable!("there are two") };
    ensure!(one.outcome == Some(Outcome::Interrupted) && one.node != two.node, "{one:?} {two:?}");
    // The program says so itself; its log keeps the last 5,000 lines, and this run writes more.
    let resumed = status.summary.as_ref().and_then(|summary| summary["resumed_from"].as_u64());
    ensure!(resumed.is_some_and(|epoch| epoch > 0), "it began anew: {:?}", status.summary);
    ensure!(store.list(sample.bucket, &below).await?.is_empty(), "checkpoints of a delivered job are left");
    let jobs: Api<GpuJob> = Api::namespaced(given.client.clone(), "default");
    jobs.delete(name, &Default::default()).await?;
    Ok(())
}
