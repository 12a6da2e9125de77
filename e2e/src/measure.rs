//! How quick the installed operator is. Prints figures; `gpujob-lab measure` on a lab that is up and installed.

use crate::demo::{Sample, exit_moment};
use crate::lab::Lab;
use crate::progress::until;
use crate::{cluster, install};
use anyhow::{Context, Result, bail, ensure};
use gpujob_crds::conditions::{find, job::SUCCEEDED, pool::READY};
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const LAUNCHES: usize = 20;
const RUNS: usize = 7;
const NAMESPACE: &str = "default";
/// After the last change, so that what the start allocated has settled.
const SETTLE: Duration = Duration::from_secs(60);

/// Measures and prints.
///
/// # Errors
/// The lab is not up and installed, or something does not come.
pub async fn run() -> Result<()> {
    let lab = Lab::default();
    let client = lab.client().await?;
    let launches = launches(&lab, &client).await?;
    print("apply to CreateFleet", &launches);
    let (by_log, by_status) = exits(&lab, &client).await?;
    print("the program's last line to Succeeded", &by_log);
    print("its end in the pod's status (whole seconds) to Succeeded", &by_status);
    println!(
        "the operator's writes for one job with inputs and results, from apply to deletion and zero nodes: {}",
        writes(&lab, &client).await?
    );
    eprintln!("  …  {} s of quiet", SETTLE.as_secs());
    tokio::time::sleep(SETTLE).await;
    println!("operator RSS, idle: {:.1} MiB", resident(operator()?)? / 1024.0);
    Ok(())
}

fn print(what: &str, seconds: &[f64]) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let milli = |index: usize| sorted.get(index).map_or(f64::NAN, |seconds| seconds * 1e3);
    let (last, middle) = (sorted.len().saturating_sub(1), sorted.len() / 2);
    println!("{what}: median {:.0} ms, least {:.0} ms, most {:.0} ms (of {})", milli(middle), milli(0), milli(last), sorted.len());
}

/// From just before the POST of a GpuJob to the arrival of its CreateFleet, by one clock: both are on this machine.
async fn launches(lab: &Lab, client: &kube::Client) -> Result<Vec<f64>> {
    pool(lab, client).await?;
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

/// A pool of its own, as the sample pool but by another name.
async fn pool(lab: &Lab, client: &kube::Client) -> Result<()> {
    cluster::apply(client, &install::pool(&lab.paths)?.replace("name: lab}", "name: measure}")).await?;
    let pools: Api<GpuPool> = Api::all(client.clone());
    until("the pool to be ready", Duration::from_secs(60), || async {
        let conditions = pools.get("measure").await?.status.map(|status| status.conditions).unwrap_or_default();
        ensure!(find(&conditions, READY).is_some_and(|ready| ready.status == "True"), "{conditions:?}");
        Ok(())
    })
    .await
}

fn last_call(calls: &Value) -> u64 {
    calls.as_array().into_iter().flatten().filter_map(|call| call["seq"].as_u64()).max().unwrap_or(0)
}

/// From the program's end to Succeeded, twice: by the program's last line, and by the whole seconds of the pod's status.
async fn exits(lab: &Lab, client: &kube::Client) -> Result<(Vec<f64>, Vec<f64>)> {
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

/// The operator's writes to the API server, Lease left out, while the sample job comes, runs on a node of its own, and is deleted.
async fn writes(lab: &Lab, client: &kube::Client) -> Result<f64> {
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

/// The operator's process, seen from this machine: its pod runs here.
///
/// # Errors
/// There is none.
pub fn operator() -> Result<u32> {
    let is_operator = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"/gpujob-operator\0"));
    let mut pids = std::fs::read_dir("/proc")?.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(is_operator).context("no operator runs on this machine")
}

/// Resident memory in KiB.
fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
