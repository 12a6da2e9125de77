//! The demo but for the lab: apply, follow, check, zero, receipt.

use super::delivered::{Delivered, fetch};
use super::sample::Sample;
use super::share::{exit_moment, shares};
use super::show::Show;
use super::sight::{Sight, now, sights};
use super::timeline::{Row, Step, Timeline, bytes, count};
use super::zero;
use crate::command;
use crate::lab::Lab;
use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use gpujob_crds::{GpuJob, GpuNode};
use gpujob_transfer::receipt::Ended;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// From apply to zero.
const LIMIT: Duration = Duration::from_secs(240);

/// What a flow left to look at.
#[derive(Debug, Clone)]
pub struct Run {
    /// The job at its end.
    pub job: GpuJob,
    /// The GpuNode as last seen; it is gone.
    pub node: GpuNode,
    /// The results.
    pub delivered: Delivered,
    /// Where they were downloaded to.
    pub folder: PathBuf,
    /// The instance, as EC2 billed it.
    pub dollars: f64,
}

/// Whose zero is waited for.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    /// The whole cluster's: nothing else is at work.
    Cluster,
    /// That of the job's own GpuNode: others are at work beside it.
    Node,
}

impl Scope {
    fn node(self, line: &Timeline) -> Option<&str> {
        match self {
            Scope::Cluster => None,
            Scope::Node => line.node.as_ref()?.metadata.name.as_deref(),
        }
    }
}

/// Runs the sample from an installed operator to zero, and shows it. Everything that is claimed is checked.
///
/// # Errors
/// Anything that did not hold; the error says what.
pub async fn flow(lab: &Lab, sample: &Sample, scope: Scope, show: &mut Show) -> Result<Run> {
    let client = lab.client().await?;
    sample.prepare(lab, &client).await?;
    let (line, exit) = follow(lab, &client, sample, scope, show).await?;
    let (job, node) = (line.job.clone().context("the job was seen")?, line.node.clone().context("its GpuNode was seen")?);

    show.heading("Results");
    let delivered = fetch(&lab.s3(), &sample.bucket, &sample.results).await?;
    let (name, total) = (&sample.name, i64::try_from(delivered.manifest.totals.bytes)?);
    agrees(&job, &delivered)?;
    let folder = download(lab, name, &delivered)?;
    show.held(
        "files",
        &format!("{} ({}), size, SHA-256 and CRC-64/NVME as the manifest says", count(delivered.files.len() as i64, "file"), bytes(total)),
    );
    show.held("accuracy", &accuracy(&job, &delivered)?);
    show.held("downloaded", &folder.display().to_string());

    show.heading("Zero");
    ensure!(Api::<GpuNode>::all(client.clone()).get_opt(&node.name_any()).await?.is_none(), "GpuNode {} is still there", node.name_any());
    let kube_node = node.status.as_ref().and_then(|status| status.node_name.clone()).context("the GpuNode had a Node")?;
    ensure!(Api::<Node>::all(client.clone()).get_opt(&kube_node).await?.is_none(), "Node {kube_node} is still there");
    show.held("EC2 has", "no instance, no volume and no address of it left");
    show.held("the cluster has", "no GpuNode and no Node of it");

    let dollars = receipt(show, &line, &job, exit)?;
    Ok(Run { job, node, delivered, folder, dollars })
}

/// Applies the job as a user does and tells what is seen until nothing is left.
async fn follow(lab: &Lab, client: &kube::Client, sample: &Sample, scope: Scope, show: &mut Show) -> Result<(Timeline, Option<f64>)> {
    let mut line = Timeline::default();
    let (started, began) = (Instant::now(), now());
    let mut seen = sights(client, lab.ec2(), &sample.namespace, &sample.name);
    let mut kubectl = Command::new(lab.paths.bin("kubectl"));
    kubectl.args(["apply", "--filename"]).arg(&sample.manifest).envs(lab.environment());
    let mut applied = Box::pin(command::output(kubectl));
    let mut is_applied = false;
    show.start(began);
    let mut exit = None;
    loop {
        let (at, sight) = tokio::select! {
            said = &mut applied, if !is_applied => {
                said?;
                is_applied = true;
                continue;
            }
            next = seen.next() => next.context("watching goes on for ever")?,
        };
        for row in line.see(at, &sight) {
            show.row(&row);
        }
        if let Sight::Tick = sight {
            show.moving(at, line.dollars, &line.doing());
        }
        if exit.is_none() && line.verdict() == Some(true) {
            // While the node is up: later its logs are gone.
            exit = Some(main_exit(client, sample).await);
        }
        if line.verdict().is_some() && line.released && line.moments.contains_key(&Step::Terminate) {
            let left = zero::left(lab, scope.node(&line)).await?;
            if left.is_empty() {
                show.row(&Row {
                    at: now(),
                    dollars: line.dollars,
                    word: Step::Zero.word(),
                    what: "EC2, asked as its customer, has nothing left".into(),
                });
                break;
            }
        }
        if started.elapsed() > LIMIT {
            bail!("{}", stuck(lab, &line, scope).await);
        }
    }
    ensure!(line.verdict() == Some(true), "the job failed: {}", failure(&line));
    Ok((line, exit.flatten()))
}

async fn main_exit(client: &kube::Client, sample: &Sample) -> Option<f64> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), &sample.namespace);
    let all = pods
        .list(&kube::api::ListParams::default().labels(&format!("gpujob.dev/job={},gpujob.dev/role=attempt", sample.name)))
        .await
        .ok()?;
    let pod = all.items.first()?;
    let main = pod.spec.as_ref()?.containers.first()?.name.clone();
    exit_moment(&pods, &pod.name_any(), &main).await
}

fn failure(line: &Timeline) -> String {
    let conditions = line.job.as_ref().and_then(|job| job.status.as_ref()).map(|status| status.conditions.clone()).unwrap_or_default();
    let told = conditions.iter().filter(|c| c.type_ == "Succeeded").map(|c| format!("{}: {}", c.reason, c.message));
    told.collect::<Vec<_>>().join("; ")
}

async fn stuck(lab: &Lab, line: &Timeline, scope: Scope) -> String {
    let left = zero::left(lab, scope.node(line)).await.unwrap_or_default().join(", ");
    let last = line.moments.keys().next_back().map_or("nothing", |step| step.word());
    format!("no end after {} s. Last step: {last}. The job says: {}. EC2 has: {left}", LIMIT.as_secs(), line.doing())
}

/// The status must say what the store shows.
fn agrees(job: &GpuJob, delivered: &Delivered) -> Result<()> {
    let status = job.status.as_ref().context("the job has a status")?;
    let receipt = status.receipt.as_ref().context("the job has a receipt")?;
    ensure!(delivered.manifest.outcome == Ended::Succeeded, "the manifest says {:?}", delivered.manifest.outcome);
    ensure!(Some(&delivered.manifest.job.uid) == job.metadata.uid.as_ref(), "the manifest is another job's");
    ensure!(receipt.manifest_sha256.as_deref() == Some(&delivered.manifest_sha256), "the receipt names another manifest");
    ensure!(receipt.files == delivered.files.len() as i64, "the receipt counts {} files", receipt.files);
    ensure!(u64::try_from(receipt.bytes)? == delivered.manifest.totals.bytes, "the receipt counts {} bytes", receipt.bytes);
    Ok(())
}

/// From the delivered metrics.json, which status.summary must equal.
fn accuracy(job: &GpuJob, delivered: &Delivered) -> Result<String> {
    let metrics: serde_json::Value = serde_json::from_slice(delivered.file("metrics.json").context("metrics.json is delivered")?)?;
    let summary = job.status.as_ref().and_then(|status| status.summary.as_ref()).context("the status has a summary")?;
    ensure!(*summary == metrics, "status.summary is {summary}, metrics.json is {metrics}");
    let accuracy = metrics["accuracy"].as_f64().context("metrics have an accuracy")?;
    ensure!(accuracy > 0.9, "the network learned nothing: accuracy {accuracy}");
    let on = metrics["gpu_name"].as_str().or(metrics["device"].as_str()).unwrap_or("?");
    Ok(format!("{:.1} % of {} digits that it had not seen, trained on {on}", accuracy * 100.0, metrics["tested_on"]))
}

fn download(lab: &Lab, name: &str, delivered: &Delivered) -> Result<PathBuf> {
    let folder = lab.paths.repository.join("target/demo").join(name);
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => fs::create_dir_all(&folder)?,
    }
    for file in &delivered.files {
        let place = folder.join(&file.path);
        fs::create_dir_all(place.parent().unwrap_or(&folder))?;
        fs::write(place, &file.content)?;
    }
    Ok(folder)
}

fn receipt(show: &mut Show, line: &Timeline, job: &GpuJob, exit: Option<f64>) -> Result<f64> {
    let receipt = job.status.as_ref().and_then(|status| status.receipt.clone()).context("the job has a receipt")?;
    let bill = line.bill.as_ref().context("EC2 billed an instance")?;
    let dollars = bill["cost"].as_f64().context("a bill has a cost")?;
    show.heading("Receipt");
    let seconds = |value: i64| format!("{value} s");
    show.figure("queue", &seconds(receipt.queue_seconds), "until the GPU was reserved");
    show.figure("start", &seconds(receipt.start_seconds), "launch, boot, pull, inputs");
    show.figure("run", &seconds(receipt.run_seconds), "the program");
    show.figure("delivery", &seconds(receipt.delivery_seconds), "until the manifest was stored");
    show.figure(
        "the job",
        &format!("${:.6}", receipt.dollars.map_or(0.0, |price| price.dollars())),
        "from reservation to end, by the second",
    );
    let what = format!(
        "{} {} for {:.1} s, as EC2 bills, idle window included",
        bill["market"].as_str().unwrap_or("?"),
        bill["type"].as_str().unwrap_or("?"),
        bill["seconds"].as_f64().unwrap_or_default()
    );
    show.figure("the instance", &format!("${dollars:.6}"), &what);
    show.heading("The operator's own share");
    for share in shares(line, exit) {
        show.figure("", &format!("{:.3} s", share.seconds), share.what);
    }
    Ok(dollars)
}
