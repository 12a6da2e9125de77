//! Kubelets without machines: they register a Node for each instance that a GpuNode records, with its GPUs, and say that the pods
//! bound to it run, and later that they have ended. What is written is what a kubelet's first minute writes, without heartbeats:
//! the controller manager is told not to mind ([`super::cluster`]).

use anyhow::Result;
use futures::{StreamExt, TryStreamExt};
use gpujob_crds::{GpuNode, names};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use tokio::sync::{Semaphore, watch};

/// So many requests at once: a fleet of kubelets, not one that queues.
const AT_ONCE: usize = 32;

/// The played kubelets. They stop when this is dropped.
#[derive(Debug)]
pub(super) struct Kubelets {
    finish: watch::Sender<bool>,
    tasks: tokio::task::JoinSet<()>,
}

impl Kubelets {
    /// Starts playing.
    pub(super) fn start(client: &Client) -> Self {
        let (finish, finished) = watch::channel(false);
        let mut tasks = tokio::task::JoinSet::new();
        let (c, slots) = (client.clone(), Arc::new(Semaphore::new(AT_ONCE)));
        let s = slots.clone();
        tasks.spawn(async move { retry("GpuNodes", || register_all(c.clone(), s.clone())).await });
        let c = client.clone();
        tasks.spawn(async move { retry("pods", || run_all(c.clone(), slots.clone(), finished.clone())).await });
        Self { finish, tasks }
    }

    /// Lets every program end with exit code 0: those that run, and those to come.
    pub(super) fn finish(&self) {
        self.finish.send_replace(true);
    }

    /// Whether both still play: a load test over dead kubelets would wait for ever.
    pub(super) fn alive(&self) -> bool {
        self.tasks.len() == 2
    }
}

async fn retry<F: Future<Output = Result<()>>>(what: &str, play: impl Fn() -> F) {
    loop {
        if let Err(error) = play().await {
            eprintln!("  kubelets: {what}: {error:#}");
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
}

async fn register_all(client: Client, slots: Arc<Semaphore>) -> Result<()> {
    let known: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut changes = watcher(Api::<GpuNode>::all(client.clone()), watcher::Config::default()).default_backoff().applied_objects().boxed();
    while let Some(node) = changes.try_next().await? {
        let instance = node.status.as_ref().and_then(|s| s.instance.clone());
        let Some((dns, ip, id)) = instance.and_then(|i| Some((i.private_dns_name?, i.private_ip?, i.provider_id?))) else { continue };
        if node.metadata.deletion_timestamp.is_some() || !known.lock().expect("no panic holds this lock").insert(id.clone()) {
            continue;
        }
        let (client, slots, known) = (client.clone(), slots.clone(), known.clone());
        tokio::spawn(async move {
            let _slot = slots.acquire().await;
            if let Err(error) = register(&client, &node, &dns, &ip, &id).await {
                eprintln!("  kubelets: registering {dns}: {error:#}");
                known.lock().expect("no panic holds this lock").remove(&id);
            }
        });
    }
    Ok(())
}

/// A Node as an instance's kubelet registers it, then its first status with the GPUs in it.
async fn register(client: &Client, node: &GpuNode, dns: &str, ip: &str, provider_id: &str) -> Result<()> {
    let nodes = Api::<Node>::all(client.clone());
    let made: Node = serde_json::from_value(json!({
        "metadata": {"name": dns, "labels": {names::POOL_LABEL: node.spec.pool, "kubernetes.io/hostname": dns}},
        "spec": {"providerID": provider_id, "taints": [
            {"key": names::UNREGISTERED_TAINT, "value": "true", "effect": "NoExecute"},
            {"key": names::GPU_TAINT, "value": "true", "effect": "NoSchedule"},
        ]},
    }))?;
    match nodes.create(&PostParams::default(), &made).await {
        Err(kube::Error::Api(answer)) if answer.code == 409 => {}
        other => drop(other?),
    }
    let now = Timestamp::now();
    let resources = json!({"cpu": "8", "memory": "32Gi", "pods": "110", node.spec.resource_name.as_str(): node.spec.gpus.to_string()});
    let ready = json!({"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now, "lastTransitionTime": now});
    let addresses =
        json!([{"type": "InternalIP", "address": ip}, {"type": "InternalDNS", "address": dns}, {"type": "Hostname", "address": dns}]);
    let status = json!({"status": {"capacity": resources, "allocatable": resources, "conditions": [ready], "addresses": addresses}});
    nodes.patch_status(dns, &PatchParams::default(), &Patch::Merge(&status)).await?;
    // The API server taints every new Node, and the node lifecycle controller, which is off here, lifts that once it is ready. The
    // operator lifts a taint of its own at the same time.
    loop {
        let mut there = nodes.get(dns).await?;
        let taints = there.spec.get_or_insert_default().taints.get_or_insert_default();
        taints.retain(|taint| taint.key != "node.kubernetes.io/not-ready");
        match nodes.replace(dns, &PostParams::default(), &there).await {
            Err(kube::Error::Api(answer)) if answer.code == 409 => {}
            other => return other.map(drop).map_err(Into::into),
        }
    }
}

async fn run_all(client: Client, slots: Arc<Semaphore>, finished: watch::Receiver<bool>) -> Result<()> {
    let ours = watcher::Config::default().labels(&format!("{}={}", names::MANAGED_BY, names::MANAGER));
    let running: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut changes = watcher(Api::<Pod>::all(client.clone()), ours).default_backoff().applied_objects().boxed();
    while let Some(pod) = changes.try_next().await? {
        let uid = pod.uid().unwrap_or_default();
        let bound = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let deleting = pod.metadata.deletion_timestamp.is_some();
        let key = if deleting { format!("{uid} ends") } else { uid };
        if !bound || !running.lock().expect("no panic holds this lock").insert(key) {
            continue;
        }
        let (client, slots, mut finished) = (client.clone(), slots.clone(), finished.clone());
        tokio::spawn(async move {
            let pods = Api::<Pod>::namespaced(client, &pod.namespace().unwrap_or_default());
            let result = async {
                if deleting {
                    let _slot = slots.acquire().await;
                    return gone(pods.delete(&pod.name_any(), &DeleteParams { grace_period_seconds: Some(0), ..Default::default() }).await);
                }
                let started = Timestamp::now();
                tell(&pods, &pod, &slots, "Running", json!({"running": {"startedAt": started}})).await?;
                let _ = finished.wait_for(|done| *done).await;
                let ended = json!({"exitCode": 0, "reason": "Completed", "startedAt": started, "finishedAt": Timestamp::now()});
                tell(&pods, &pod, &slots, "Succeeded", json!({"terminated": ended})).await
            };
            if let Err(error) = result.await {
                eprintln!("  kubelets: pod {}: {error:#}", pod.name_any());
            }
        });
    }
    Ok(())
}

async fn tell(pods: &Api<Pod>, pod: &Pod, slots: &Semaphore, phase: &str, state: Value) -> Result<()> {
    let _slot = slots.acquire().await;
    let names = pod.spec.iter().flat_map(|spec| &spec.containers).map(|container| (&container.name, &container.image));
    let statuses: Vec<Value> = names
        .map(|(name, image)| json!({"name": name, "image": image, "imageID": "", "ready": phase == "Running", "restartCount": 0, "state": state}))
        .collect();
    let status = json!({"status": {"phase": phase, "containerStatuses": statuses}});
    gone(pods.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&status)).await)
}

/// A pod that is gone needs nothing any more.
fn gone<T>(answer: kube::Result<T>) -> Result<()> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => Ok(other.map(drop)?),
    }
}
