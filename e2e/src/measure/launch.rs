//! From apply to the launch on the wire.

use super::NAMESPACE;
use crate::lab::Lab;
use crate::progress::until;
use crate::soak::given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;

const LAUNCHES: usize = 20;

/// From just before the POST of a GpuJob to the arrival of its CreateFleet, by one clock: both are on this machine.
pub(super) async fn launches(lab: &Lab, client: &kube::Client) -> Result<Vec<f64>> {
    given::pool(lab, client, "measure", &json!({})).await?;
    let ec2 = lab.ec2();
    // The instances are never needed: let them boot for ever, which costs the machine nothing.
    ec2.fault(&json!({"kind": "node", "slow_boot_seconds": 3600})).await?;
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let mut seconds = vec![];
    for number in 0..LAUNCHES {
        let name = format!("measure-launch-{number}");
        let job: GpuJob = serde_json::from_value(json!({
            "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": name},
            "spec": {"gpu": {"count": 1}, "pools": ["measure"], "template": {"spec": {"containers": [{"name": "main", "image": "cuda-sample"}]}}},
        }))?;
        let last = last_call(&ec2.get("calls").await?);
        let before = jiff::Timestamp::now().as_duration().as_secs_f64();
        jobs.create(&PostParams::default(), &job).await?;
        let at = std::sync::Mutex::new(None);
        until("CreateFleet", Duration::from_secs(20), || async {
            let calls = ec2.get(&format!("calls?after={last}")).await?;
            let found = calls.as_array().into_iter().flatten().find(|call| call["action"] == "CreateFleet");
            let found = found.and_then(|call| call["at"].as_f64()).context("not called yet")?;
            *at.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Some(found);
            Ok(())
        })
        .await?;
        let at = at.into_inner().ok().flatten().context("it was called")?;
        seconds.push(at - before);
        jobs.delete(&name, &Default::default()).await?;
        for node in nodes.list(&ListParams::default()).await? {
            if node.spec.pool == "measure" {
                nodes.delete(&node.name_any(), &Default::default()).await?;
            }
        }
        until("the end of a measured launch", Duration::from_secs(180), || async {
            ensure!(jobs.get_opt(&name).await?.is_none(), "the GpuJob is there");
            let rest = nodes.list(&ListParams::default()).await?;
            ensure!(rest.iter().all(|node| node.spec.pool != "measure"), "the GpuNode is there");
            Ok(())
        })
        .await?;
        // Out of the operator's pace windows, as a person's apply is.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    ec2.delete("faults").await?;
    Api::<GpuPool>::all(client.clone()).delete("measure", &Default::default()).await?;
    Ok(seconds)
}

pub(super) fn last_call(calls: &Value) -> u64 {
    calls.as_array().into_iter().flatten().filter_map(|call| call["seq"].as_u64()).max().unwrap_or(0)
}
