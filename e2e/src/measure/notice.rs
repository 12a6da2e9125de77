//! From a spot notice to what is done about it.

use super::launch::last_call;
use crate::lab::Lab;
use crate::progress::until;
use crate::soak::given;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};

const RUNS: usize = 5;
/// Long enough for all of it; EC2 gives two minutes.
const NOTICE: u32 = 60;

/// Seconds after the notice.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// The Node takes nothing new.
    pub(super) cordoned: Vec<f64>,
    /// The replacement's CreateFleet has arrived.
    pub(super) replaced: Vec<f64>,
    /// The pod is told to end.
    pub(super) told: Vec<f64>,
}

/// Interrupts running jobs.
pub(super) async fn notices(lab: &Lab, client: &kube::Client) -> Result<Notices> {
    let (ec2, mut all) = (lab.ec2(), Notices::default());
    given::pool(lab, client, "measure", &json!({"limits": {"nodes": 3}})).await?;
    for number in 0..RUNS {
        let name = format!("measure-notice-{number}");
        crate::cluster::apply(client, &given::sleeper(super::NAMESPACE, &name, "measure").to_string()).await?;
        given::state(client, super::NAMESPACE, &name, &["Running"], Duration::from_secs(120)).await?;
        let status = given::status(client, super::NAMESPACE, &name).await?;
        let on = status.node.context("a running job names its GpuNode")?;
        let node = given::nodes(client, "measure").await?.into_iter().find(|n| n.name_any() == on).context("its GpuNode is there")?;
        let node = node.status.context("it has a status")?;
        let (instance, kube_node) = (node.instance.context("an instance")?.id, node.node_name.context("a Node")?);
        let last = last_call(&ec2.get("calls").await?);
        let (start, wall) = (Instant::now(), jiff::Timestamp::now().as_duration().as_secs_f64());
        ec2.post(&format!("instances/{instance}/interrupt"), &json!({"notice": NOTICE})).await?;
        let limit = Duration::from_secs(30);
        let (cordoned, replaced, told) = tokio::try_join!(
            async {
                let nodes: Api<Node> = Api::all(client.clone());
                until("the Node to be cordoned", limit, || async {
                    ensure!(nodes.get(&kube_node).await?.spec.and_then(|s| s.unschedulable) == Some(true), "it is not");
                    Ok(())
                })
                .await?;
                anyhow::Ok(start.elapsed().as_secs_f64())
            },
            async {
                let at = std::sync::Mutex::new(None);
                until("the replacement's CreateFleet", limit, || async {
                    let calls = ec2.get(&format!("calls?after={last}")).await?;
                    let found = calls.as_array().into_iter().flatten().find(|call| call["action"] == "CreateFleet");
                    let found = found.and_then(|call| call["at"].as_f64()).context("not called yet")?;
                    *at.lock().map_err(|_| anyhow::anyhow!("poisoned"))? = Some(found - wall);
                    Ok(())
                })
                .await?;
                at.into_inner().ok().flatten().context("it was called")
            },
            async {
                let pods: Api<Pod> = Api::namespaced(client.clone(), super::NAMESPACE);
                let selected = ListParams::default().labels(&format!("gpujob.dev/job={name},gpujob.dev/role=attempt"));
                until("the pod to be told to end", limit, || async {
                    let told = pods.list(&selected).await?.items.iter().any(|pod| pod.metadata.deletion_timestamp.is_some());
                    ensure!(told, "it is not");
                    Ok(())
                })
                .await?;
                anyhow::Ok(start.elapsed().as_secs_f64())
            },
        )?;
        all.cordoned.push(cordoned);
        all.replaced.push(replaced);
        all.told.push(told);
        given::forget(client, super::NAMESPACE, &name, Duration::from_secs(60)).await?;
    }
    given::close(client, "measure", Duration::from_secs(120)).await?;
    Ok(all)
}
