//! From the answer that refuses one offer to the request for the next.

use super::launch::last_call;
use crate::lab::Lab;
use crate::progress::until;
use crate::soak::given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuPool;
use kube::Api;
use serde_json::{Value, json};
use std::time::Duration;

/// Another one each time: what was refused is remembered for half a minute and more, and the next job would not ask again.
const TYPES: [&str; 7] = ["g4dn.xlarge", "g4dn.2xlarge", "g5.xlarge", "g5.2xlarge", "g6.xlarge", "g6.2xlarge", "gr6.4xlarge"];

/// Spot can not be had: from the arrival of the CreateFleet that is refused for it to that of the one for on-demand, by the layer's
/// log. The layer answers the first within milliseconds, so that this is the operator's own time.
pub(super) async fn refusals(lab: &Lab, client: &kube::Client) -> Result<Vec<f64>> {
    let ec2 = lab.ec2();
    ec2.fault(&json!({"kind": "node", "slow_boot_seconds": 3600})).await?;
    ec2.fault(&json!({"kind": "capacity", "available": 0, "market": "spot"})).await?;
    let mut seconds = vec![];
    for (number, kind) in TYPES.into_iter().enumerate() {
        given::pool(lab, client, "measure", &json!({"instances": {"types": [kind], "models": null}})).await?;
        let name = format!("measure-refusal-{number}");
        let last = last_call(&ec2.get("calls").await?);
        crate::cluster::apply(client, &given::sleeper(super::NAMESPACE, &name, "measure").to_string()).await?;
        let asked = std::sync::Mutex::new(vec![]);
        until("a second CreateFleet", Duration::from_secs(30), || async {
            let calls = ec2.get(&format!("calls?after={last}")).await?;
            let fleets = calls.as_array().into_iter().flatten().filter(|call| call["action"] == "CreateFleet");
            let at: Vec<f64> = fleets.filter_map(|call: &Value| call["at"].as_f64()).collect();
            ensure!(at.len() >= 2, "{} so far", at.len());
            *asked.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = at;
            Ok(())
        })
        .await?;
        let asked = asked.into_inner().map_err(|_| anyhow::anyhow!("poisoned"))?;
        let [first, second, ..] = asked.as_slice() else { anyhow::bail!("no second request") };
        seconds.push(second - first);
        let bought = given::nodes(client, "measure").await?;
        bought.first().context("a GpuNode is there")?;
        given::forget(client, super::NAMESPACE, &name, Duration::from_secs(60)).await?;
        Api::<GpuPool>::all(client.clone()).delete("measure", &Default::default()).await?;
        until("the pool's end", Duration::from_secs(120), || async {
            ensure!(Api::<GpuPool>::all(client.clone()).get_opt("measure").await?.is_none(), "it is there");
            Ok(())
        })
        .await?;
    }
    ec2.delete("faults").await?;
    Ok(seconds)
}
