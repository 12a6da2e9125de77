//! What one job costs the API server.

use super::NAMESPACE;
use crate::demo::Sample;
use crate::lab::Lab;
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use gpujob_crds::conditions::{find, job::SUCCEEDED};
use gpujob_crds::{GpuJob, GpuNode};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use std::time::Duration;

/// The operator's writes to the API server, Lease left out, while the sample job comes, runs on a node of its own, and is deleted.
pub(super) async fn writes(lab: &Lab, client: &kube::Client) -> Result<f64> {
    let sample = Sample::digits(&lab.paths);
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), NAMESPACE);
    let nodes: Api<GpuNode> = Api::all(client.clone());
    let zero = || async {
        let left = nodes.list(&ListParams::default()).await?.items.len();
        ensure!(left == 0, "{left} GpuNodes are left");
        Ok(())
    };
    until("the pool to be empty", Duration::from_secs(120), zero).await?;
    let mut job: GpuJob = serde_saphyr::from_str(&std::fs::read_to_string(&sample.manifest)?)?;
    let name = "measure-writes";
    job.metadata.name = Some(name.into());
    job.spec.results.as_mut().context("the sample has results")?.to = format!("s3://{}/runs/{name}/", sample.bucket);
    for key in lab.s3().list(&sample.bucket, &format!("runs/{name}/")).await? {
        lab.s3().delete(&sample.bucket, &key).await?;
    }
    let before = api_writes(client).await?;
    jobs.create(&PostParams::default(), &job).await?;
    until("the job to succeed", Duration::from_secs(180), || async {
        let status = jobs.get(name).await?.status.unwrap_or_default();
        ensure!(find(&status.conditions, SUCCEEDED).is_some_and(|c| c.status == "True"), "{:?}", status.conditions);
        Ok(())
    })
    .await?;
    jobs.delete(name, &Default::default()).await?;
    until("the pool to be empty again", Duration::from_secs(120), zero).await?;
    until("the job to be gone", Duration::from_secs(30), || async {
        ensure!(jobs.get_opt(name).await?.is_none(), "it is there");
        Ok(())
    })
    .await?;
    Ok(api_writes(client).await? - before)
}

/// What all replicas of the installed operator have written so far, by their own counters.
async fn api_writes(client: &kube::Client) -> Result<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), crate::fault::OPERATOR_NAMESPACE);
    let mut total = 0.0;
    for pod in pods.list(&ListParams::default().labels("app.kubernetes.io/name=gpujob")).await? {
        let path = format!("/api/v1/namespaces/{}/pods/{}:8080/proxy/metrics", crate::fault::OPERATOR_NAMESPACE, pod.name_any());
        let text = client.request_text(hyper::Request::get(path).body(vec![])?).await.context("the operator's metrics")?;
        total += crate::load::writes(&crate::load::parse(&text));
    }
    Ok(total)
}
