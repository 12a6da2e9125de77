//! The installed operator as this machine sees it: which replica leads, and its process. Replicas run on the system node, so here.

use crate::fault::OPERATOR_NAMESPACE;
use crate::process;
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use gpujob_crds::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::Duration;

/// How many the lab installs.
pub const REPLICAS: u32 = 2;
/// What selects their pods.
const SELECTOR: &str = "app.kubernetes.io/name=gpujob,app.kubernetes.io/component=operator";

/// One replica.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Replica {
    /// Its pod, which is its name in the Lease.
    pub pod: String,
    /// Its process on this machine.
    pub pid: u32,
}

/// How an operator is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// SIGKILL; its kubelet starts the container again.
    Killed,
    /// SIGKILL, and its pod is gone too, as when its machine dies: only the other replica can follow.
    Lost,
    /// Its pod is deleted: SIGTERM, and time to hand over.
    Stopped,
}

/// Who holds the Lease; nobody when it was given up.
///
/// # Errors
/// There is no Lease: nobody ever led.
pub async fn holder(client: &kube::Client) -> Result<Option<String>> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let record = leases.get(names::LEASE).await.context("the operator's Lease")?.spec;
    Ok(record.and_then(|spec| spec.holder_identity).filter(|holder| !holder.is_empty()))
}

/// The replica that leads.
///
/// # Errors
/// None does, or its process is not here.
pub async fn leader(client: &kube::Client) -> Result<Replica> {
    let pod = holder(client).await?.context("nobody leads")?;
    let pid = process(&pod).with_context(|| format!("{pod} leads, and its process is not on this machine"))?;
    Ok(Replica { pod, pid })
}

/// The process of a replica: its environment carries the pod's name.
fn process(pod: &str) -> Option<u32> {
    let is_operator = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/gpujob-operator\0"));
    let name = format!("POD_NAME={pod}");
    let is_named = |pid: u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == name.as_bytes())
    };
    let pids = std::fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.into_iter().find(|pid| is_operator(*pid) && is_named(*pid))
}

/// Ends this replica.
///
/// # Errors
/// The API server does not answer.
pub async fn end(client: &kube::Client, replica: &Replica, how: End) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    if how != End::Stopped {
        process::kill(replica.pid);
    }
    let parameters = match how {
        End::Killed => return Ok(()),
        End::Lost => DeleteParams::default().grace_period(0),
        End::Stopped => DeleteParams::default(),
    };
    pods.delete(&replica.pod, &parameters).await.map(drop).with_context(|| format!("deleting pod {}", replica.pod))
}

/// Waits until every replica is Ready and one of them leads.
///
/// # Errors
/// That does not come in time.
pub async fn whole(client: &kube::Client, limit: Duration) -> Result<Replica> {
    until("all operators", limit, || async {
        let ready = ready(client).await?;
        ensure!(ready.len() == REPLICAS as usize, "ready are {ready:?}");
        let leader = leader(client).await?;
        ensure!(ready.contains(&leader.pod), "{} leads, and ready are {ready:?}", leader.pod);
        Ok(())
    })
    .await?;
    leader(client).await
}

/// The pods that are Ready and not on their way out.
async fn ready(client: &kube::Client) -> Result<Vec<String>> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let is_ready = |pod: &Pod| {
        let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
        pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    let all = pods.list(&ListParams::default().labels(SELECTOR)).await?;
    Ok(all.iter().filter(|pod| is_ready(pod)).map(ResourceExt::name_any).collect())
}

/// Whether there is an operator in this cluster, however many replicas it has.
///
/// # Errors
/// The API server does not answer.
pub async fn installed(client: &kube::Client) -> Result<bool> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    Ok(!deployments.list(&ListParams::default()).await.context("listing operators")?.items.is_empty())
}

/// Sets the number of operators; where none is installed there is nothing to do.
///
/// # Errors
/// The API server does not answer.
pub async fn scale(client: &kube::Client, replicas: u32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    for deployment in deployments.list(&ListParams::default()).await.context("listing operators")? {
        let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
        deployments.patch_scale(&deployment.name_any(), &PatchParams::default(), &patch).await?;
    }
    Ok(())
}
