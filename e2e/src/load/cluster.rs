//! The lab's cluster made ready for a load test: CRDs, a pool, and a controller manager that does not wait for heartbeats.

use crate::host::{AWS_ENDPOINT, HOST_IP, Paths};
use crate::process::Daemon;
use crate::progress::{step, until};
use crate::services::control_plane;
use crate::{cluster, http, install, operator, up};
use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use gpujob_crds::conditions::{find, job::SUCCEEDED, pool::READY};
use gpujob_crds::{GpuJob, GpuNode, GpuPool};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use std::process::Command;
use std::time::Duration;

/// Where the Lease is.
pub(super) const SYSTEM: &str = "gpujob-load-system";
/// Where the jobs are.
pub(super) const NAMESPACE: &str = "gpujob-load";
/// The pool that they use.
const POOL: &str = "load";
/// An EC2 of its own, without a hook: its instances run by themselves.
const EC2_PORT: &str = "4570";
const EC2: &str = "load-ec2";
/// So many requests at once when jobs are made or deleted: what `kubectl apply` of a big file and a GitOps tool come to.
const AT_ONCE: usize = 16;

/// Brings up what a load test needs. Returns an administrator's client.
pub(super) async fn prepare(paths: &Paths) -> Result<Client> {
    up::up(paths).await?;
    // Two operators would serve the same jobs, and the installed one buys instances that boot.
    let installed = operator::installed(&cluster::client(paths).await?).await?;
    ensure!(!installed, "GpuJob is installed in this lab, and a load test brings its own operator: run `cargo lab down` first");
    let client = step("controller manager without node lifecycle", async {
        control_plane::without_node_lifecycle(paths).await?;
        cluster::client(paths).await
    })
    .await?;
    step("CRDs and namespaces", async {
        for (_, yaml) in gpujob_crds::generate::all() {
            cluster::apply(&client, &yaml).await?;
        }
        for name in [SYSTEM, NAMESPACE] {
            let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            cluster::apply(&client, &namespace.to_string()).await?;
        }
        // A new kind is served a moment after its CRD is taken.
        let one = ListParams::default().limit(1);
        until("the new kinds", Duration::from_secs(30), || async {
            Api::<GpuJob>::all(client.clone()).list(&one).await?;
            Api::<GpuNode>::all(client.clone()).list(&one).await?;
            Api::<GpuPool>::all(client.clone()).list(&one).await?;
            Ok(())
        })
        .await
    })
    .await?;
    Ok(client)
}

/// Starts an EC2 whose instances boot nothing; its address. Its token buckets are those of AWS (requests a second, burst).
pub(super) async fn ec2(paths: &Paths) -> Result<String> {
    let daemon = Daemon::server(paths, EC2);
    daemon.stop(Duration::from_secs(5)).await;
    let mut command = Command::new(paths.venv("python"));
    command.args(["-m", "ec2", "--bind", HOST_IP, "--port", EC2_PORT]).arg("--state-dir").arg(paths.state.join(EC2));
    command.current_dir(paths.repository.join("e2e")).env("PYTHONDONTWRITEBYTECODE", "1");
    daemon.start(&command)?;
    let address = AWS_ENDPOINT.replace("4566", EC2_PORT);
    until("EC2", Duration::from_secs(30), || async {
        daemon.living()?;
        http::get_json(&format!("{address}/_lab/health")).await.map(drop)
    })
    .await?;
    // Karpenter's model of EC2's limits (kwok/ec2/ratelimiting.go): mutating calls 5/s, burst 50; ends 5/s, burst 100.
    for (action, rate, burst) in [("CreateFleet", 5, 50), ("TerminateInstances", 5, 100), ("DescribeInstances", 20, 100)] {
        let row = json!({"kind": "throttle", "action": action, "rate": rate, "burst": burst});
        http::send_json(hyper::Method::POST, &format!("{address}/_lab/faults"), &row).await?;
    }
    Ok(address)
}

/// Ends that EC2.
pub(super) async fn end_ec2(paths: &Paths) {
    Daemon::server(paths, EC2).stop(Duration::from_secs(5)).await;
}

/// The pool, with this limit of nodes.
pub(super) async fn pool(paths: &Paths, client: &Client, nodes: i64) -> Result<()> {
    let text = install::pool(paths)?
        .replace("name: lab}", &format!("name: {POOL}}}"))
        .replace("limits: {nodes: 8, pricePerHour: \"20.00\"}", &format!("limits: {{nodes: {nodes}}}"))
        .replace("idleAfter: 10s", "idleAfter: 30s")
        .replace("instances: {models: [T4, A10G, L4]}", "instances: {types: [g6.xlarge, g5.xlarge, g4dn.xlarge]}");
    ensure!(text.contains(&format!("nodes: {nodes}")) && text.contains("30s"), "the sample pool has changed: {text}");
    cluster::apply(client, &text).await
}

/// Waits until the pool may buy.
pub(super) async fn pool_ready(client: &Client) -> Result<()> {
    let pools: Api<GpuPool> = Api::all(client.clone());
    until("the pool to be ready", Duration::from_secs(120), || async {
        let conditions = pools.get(POOL).await?.status.map(|status| status.conditions).unwrap_or_default();
        ensure!(find(&conditions, READY).is_some_and(|ready| ready.status == "True"), "{conditions:?}");
        Ok(())
    })
    .await
}

/// Makes so many jobs of one GPU each, without inputs and results.
pub(super) async fn create_jobs(client: &Client, count: usize) -> Result<()> {
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), NAMESPACE);
    let made = futures::stream::iter(0..count).map(|number| {
        let jobs = jobs.clone();
        async move {
            let container = json!({"name": "main", "image": "train:1", "command": ["python", "train.py", "--epochs", "10"],
                "env": [{"name": "RUN", "value": number.to_string()}], "resources": {"requests": {"cpu": "2", "memory": "8Gi"}}});
            let job: GpuJob = serde_json::from_value(json!({
                "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": format!("load-{number:05}")},
                "spec": {"gpu": {"count": 1}, "pools": [POOL], "template": {"spec": {"containers": [container]}}},
            }))?;
            jobs.create(&PostParams::default(), &job).await.with_context(|| format!("job {number}"))?;
            anyhow::Ok(())
        }
    });
    let answers: Vec<Result<()>> = made.buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().collect()
}

/// How many jobs have succeeded, as the API server says.
pub(super) async fn succeeded(client: &Client) -> Result<usize> {
    let jobs = Api::<GpuJob>::namespaced(client.clone(), NAMESPACE).list(&ListParams::default()).await?;
    let done = |job: &&GpuJob| job.status.as_ref().and_then(|s| find(&s.conditions, SUCCEEDED)).is_some_and(|c| c.status == "True");
    Ok(jobs.items.iter().filter(done).count())
}

/// Deletes all jobs and waits until they and all GpuNodes are gone.
pub(super) async fn delete_jobs(client: &Client) -> Result<()> {
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), NAMESPACE);
    let names: Vec<String> = jobs.list(&ListParams::default()).await?.iter().map(ResourceExt::name_any).collect();
    let deleted = futures::stream::iter(names).map(|name| {
        let jobs = jobs.clone();
        async move { jobs.delete(&name, &DeleteParams::default()).await.map(drop) }
    });
    let _: Vec<_> = deleted.buffer_unordered(AT_ONCE).collect().await;
    until("all jobs and nodes to be gone", Duration::from_secs(900), || async {
        let (jobs, nodes) = (jobs.list(&ListParams::default().limit(1)).await?, nodes(client).await?);
        ensure!(jobs.items.is_empty() && nodes == 0, "jobs or {nodes} GpuNodes are left");
        Ok(())
    })
    .await
}

/// How many GpuNodes there are.
pub(super) async fn nodes(client: &Client) -> Result<usize> {
    Ok(Api::<GpuNode>::all(client.clone()).list_metadata(&ListParams::default()).await?.items.len())
}
