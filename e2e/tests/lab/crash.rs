//! The operator dies between a launch and its record. One instance in all, and the job does not notice.

use crate::endings::{Trying, ended, released};
use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuNode;
use gpujob_crds::conditions::{find, is_true, job as condition};
use gpujob_e2e::operator::{self, End};
use gpujob_e2e::progress::until;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::time::Duration;

/// EC2 launches at once and answers this late: the operator is killed meanwhile.
const LATE: u64 = 20;

pub(crate) async fn killed(given: Given) -> Result<()> {
    let ec2 = given.lab.ec2();
    let before = ec2.instances().await?.len();
    let calls = ec2.get("calls").await?;
    let last = rows(&calls).filter_map(|call| call["seq"].as_u64()).max().unwrap_or(0);
    ec2.fault(&json!({"kind": "call", "action": "CreateFleet", "when": "after", "delay": LATE, "times": 1})).await?;
    let trying = Trying::new("survives");
    trying.apply(&given).await?;
    until("CreateFleet", Duration::from_secs(30), || async {
        let calls = ec2.get(&format!("calls?after={last}")).await?;
        ensure!(rows(&calls).any(|call| call["action"] == "CreateFleet"), "it was not called");
        // The instance exists, and the operator does not know it yet.
        ensure!(ec2.instances().await?.len() == before + 1, "nothing is launched");
        Ok(())
    })
    .await?;
    let nodes: Api<GpuNode> = Api::all(given.client.clone());
    let ours = |node: &GpuNode| node.spec.launched_for.iter().any(|reservation| reservation.name == trying.name);
    let intent = nodes.list(&ListParams::default()).await?.items.into_iter().find(ours).context("the intent is written")?;
    ensure!(intent.status.is_none_or(|status| status.instance.is_none()), "it is on record already: this proves nothing");
    let leader = operator::leader(&given.client).await?;
    operator::end(&given.client, &leader, End::Killed).await?;
    ec2.delete("faults").await?;
    until("another operator", Duration::from_secs(60), || async {
        let now = operator::leader(&given.client).await?;
        ensure!(now.pid != leader.pid, "the old one is there");
        Ok(())
    })
    .await?;

    let (job, _) = ended(&given, trying.name, Duration::from_secs(150)).await?;
    let status = job.status.as_ref().context("a status")?;
    ensure!(is_true(&status.conditions, condition::SUCCEEDED), "{:?}", find(&status.conditions, condition::SUCCEEDED));
    ensure!(status.attempts.len() == 1, "{} attempts", status.attempts.len());
    released(&given, &job).await?;

    let all = ec2.instances().await?;
    ensure!(all.len() == before + 1, "{} instances were launched for one job", all.len() - before);
    let node = status.attempts[0].node.as_deref().context("the attempt names its GpuNode")?;
    let ours = all.iter().filter(|instance| instance["tags"]["gpujob.dev/node"] == node).count();
    ensure!(ours == 1, "{ours} instances carry the name of {node}");
    Ok(())
}

fn rows(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
