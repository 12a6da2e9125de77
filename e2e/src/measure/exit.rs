//! From the program's end to the job's.

use super::NAMESPACE;
use crate::demo::{Sample, exit_moment};
use crate::lab::Lab;
use anyhow::{Context, Result, bail};
use gpujob_crds::GpuJob;
use gpujob_crds::conditions::{find, job::SUCCEEDED};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use std::time::{Duration, Instant};

const RUNS: usize = 7;

/// From the program's end to Succeeded, twice: by the program's last line, and by the whole seconds of the pod's status.
pub(super) async fn exits(lab: &Lab, client: &kube::Client) -> Result<(Vec<f64>, Vec<f64>)> {
    let sample = Sample::digits(&lab.paths);
    sample.prepare(lab, client).await?;
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let (mut by_log, mut by_status) = (vec![], vec![]);
    for number in 0..RUNS {
        let mut job: GpuJob = serde_saphyr::from_str(&std::fs::read_to_string(&sample.manifest)?)?;
        let name = format!("measure-exit-{number}");
        job.metadata.name = Some(name.clone());
        job.spec.results.as_mut().context("the sample has results")?.to = format!("s3://{}/runs/{name}/", sample.bucket);
        for key in lab.s3().list(&sample.bucket, &format!("runs/{name}/")).await? {
            lab.s3().delete(&sample.bucket, &key).await?;
        }
        jobs.create(&PostParams::default(), &job).await?;
        let started = Instant::now();
        let succeeded = loop {
            let status = jobs.get(&name).await?.status.unwrap_or_default();
            match find(&status.conditions, SUCCEEDED).map(|c| (c.status.as_str(), c.message.as_str())) {
                Some(("True", _)) => break jiff::Timestamp::now().as_duration().as_secs_f64(),
                Some(("False", message)) => bail!("{name} failed: {message}"),
                _ if started.elapsed() > Duration::from_secs(180) => bail!("{name} does not end"),
                _ => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let selected = ListParams::default().labels(&format!("gpujob.dev/job={name},gpujob.dev/role=attempt"));
        let pod = pods.list(&selected).await?.items.pop().context("the attempt's pod is there")?;
        let main = pod.spec.as_ref().and_then(|spec| spec.containers.first()).context("it has a container")?.name.clone();
        by_log.extend(exit_moment(&pods, &pod.name_any(), &main).await.map(|end| succeeded - end));
        let ended = pod.status.and_then(|status| status.container_statuses).into_iter().flatten();
        let ended = ended.filter_map(|container| container.state?.terminated?.finished_at);
        by_status.extend(ended.map(|end| succeeded - end.0.as_duration().as_secs_f64()));
        jobs.delete(&name, &Default::default()).await?;
    }
    Ok((by_log, by_status))
}
