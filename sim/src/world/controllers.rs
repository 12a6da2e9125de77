//! kube-controller-manager's part: a Node whose kubelet is silent becomes unreachable, its pods are evicted, pods of a Node
//! that is gone are collected. Source: `pkg/controller/{nodelifecycle,tainteviction,podgc}`.

use super::Inner;
use super::kubelet::{Host, is_terminal};
use super::scheduler::toleration;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The taint of a Node that nobody hears of.
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// The taint of a Node that has registered and was never Ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";

impl Inner {
    /// Its machine is off: the kubelet with it.
    pub(super) fn lost_power(self: &Arc<Self>, node: &str) {
        let host = self.hosts.lock().expect("no panic holds this lock").remove(node);
        if let Some(host) = host {
            host.link.send_replace(false);
            self.missed(&host);
        }
    }

    /// From now on nobody hears of this kubelet: after a while its Node is called unreachable.
    pub(super) fn missed(self: &Arc<Self>, host: &Arc<Host>) {
        if !self.script.controllers {
            return;
        }
        let (world, host) = (self.clone(), host.clone());
        self.spawn_on(&self.stop, async move {
            let mut link = host.link.subscribe();
            tokio::select! {
                biased;
                () = heard(&mut link) => return,
                () = sleep(world.script.node_grace) => {}
            }
            unreachable(&world, &host.name).await;
            evict(&world, &host.name, &mut link).await;
        });
    }

    /// The kubelet is back: it reports, and the taints go.
    pub(super) async fn back(self: &Arc<Self>, host: &Host) {
        let api: Api<Node> = Api::all(self.client.clone());
        let Ok(Some(node)) = api.get_opt(&host.name).await else { return };
        let status = ready(&node, "True", "KubeletReady", self);
        super::kubelet::patch_status(self, host, json!({"status": {"conditions": status}})).await;
        self.heard_of(&host.name).await;
    }

    /// Its kubelet says that it is Ready: the taints of the time before go. `not-ready` is an admission plugin's, at registration.
    pub(super) async fn heard_of(&self, node: &str) {
        if self.script.controllers {
            taint(self, node, |taints| taints.retain(|t| t.key != UNREACHABLE && t.key != NOT_READY)).await;
        }
    }

    /// A Node object is gone: pods that are bound to it are collected after a while.
    pub(super) fn node_gone(self: &Arc<Self>, node: &str) {
        let (world, node) = (self.clone(), node.to_owned());
        self.spawn_on(&self.stop, async move {
            sleep(world.script.pod_gc).await;
            if world.mirror.lock().expect("no panic holds this lock").nodes.contains_key(&node) {
                return;
            }
            for pod in world.pods_on(&node) {
                collect(&world, &pod).await;
            }
        });
    }
}

async fn heard(link: &mut crate::signal::Receiver<bool>) {
    if link.wait_for(|connected| *connected).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The Node's conditions with this word about Ready.
fn ready(node: &Node, value: &str, reason: &str, world: &Inner) -> Vec<Value> {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut all: Vec<Value> = conditions.filter(|c| c.type_ != "Ready").filter_map(|c| serde_json::to_value(c).ok()).collect();
    let now = world.clock.now();
    all.push(
        json!({"type": "Ready", "status": value, "reason": reason, "message": "", "lastTransitionTime": now, "lastHeartbeatTime": now}),
    );
    all
}

async fn unreachable(world: &Inner, name: &str) {
    let api: Api<Node> = Api::all(world.client.clone());
    let Ok(Some(node)) = api.get_opt(name).await else { return };
    let status = json!({"status": {"conditions": ready(&node, "Unknown", "NodeStatusUnknown", world)}});
    if let Err(error) = api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status)).await {
        tracing::debug!(name, %error, "node lifecycle");
    }
    let now = world.clock.now();
    taint(world, name, |taints| {
        for (effect, time_added) in [("NoSchedule", None), ("NoExecute", Some(Time(now)))] {
            taints.push(Taint { key: UNREACHABLE.into(), effect: effect.into(), value: None, time_added });
        }
    })
    .await;
}

/// Changes a Node's taints, over the version that was read: the operator changes them too.
async fn taint(world: &Inner, name: &str, change: impl Fn(&mut Vec<Taint>)) {
    let api: Api<Node> = Api::all(world.client.clone());
    loop {
        let Ok(Some(node)) = api.get_opt(name).await else { return };
        let before = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let mut taints = before.clone();
        change(&mut taints);
        if taints == before {
            return;
        }
        let patch = json!({"metadata": {"resourceVersion": node.resource_version()}, "spec": {"taints": taints}});
        match api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return tracing::debug!(name, %error, "node lifecycle"),
            Ok(_) => return,
        }
    }
}

/// Taint eviction: pods go when their toleration of the taint is over, unless the kubelet is heard of before.
async fn evict(world: &Arc<Inner>, node: &str, link: &mut crate::signal::Receiver<bool>) {
    let taint = Taint { key: UNREACHABLE.into(), effect: "NoExecute".into(), value: None, time_added: None };
    let mut due: BTreeMap<u64, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in world.pods_on(node).into_iter().filter(|p| !is_terminal(p)) {
        match toleration(&pod, &taint) {
            // Without a number: for ever. DefaultTolerationSeconds, an admission plugin, gives every other pod 300 s.
            Some(t) => match t.toleration_seconds {
                Some(seconds) => due.entry(u64::try_from(seconds).unwrap_or(0)).or_default().push(pod),
                None => continue,
            },
            None => due.entry(300).or_default().push(pod),
        }
    }
    let mut waited = 0;
    for (seconds, pods) in due {
        tokio::select! {
            biased;
            () = heard(link) => return,
            () = sleep(Duration::from_secs(seconds - waited)) => {}
        }
        waited = seconds;
        for pod in pods {
            disrupt(world, &pod, "DeletionByTaintManager", None).await;
            delete(world, &pod, None).await;
        }
    }
}

/// PodGC: a pod whose Node is gone has failed, and goes without any grace.
async fn collect(world: &Inner, pod: &Pod) {
    if !is_terminal(pod) {
        disrupt(world, pod, "DeletionByPodGC", Some("Failed")).await;
    }
    delete(world, pod, Some(0)).await;
}

async fn disrupt(world: &Inner, pod: &Pod, reason: &str, phase: Option<&str>) {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &pod.namespace().unwrap_or_default());
    let name = pod.name_any();
    loop {
        let Ok(Some(there)) = api.get_opt(&name).await else { return };
        if there.uid() != pod.uid() {
            return;
        }
        let old = there.status.iter().flat_map(|s| s.conditions.iter().flatten());
        let mut all: Vec<Value> = old.filter(|c| c.type_ != "DisruptionTarget").filter_map(|c| serde_json::to_value(c).ok()).collect();
        all.push(json!({
            "type": "DisruptionTarget", "status": "True", "reason": reason, "message": "", "lastTransitionTime": world.clock.now(),
        }));
        let mut status = json!({"conditions": all});
        if let Some(phase) = phase {
            status["phase"] = json!(phase);
        }
        let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": there.resource_version()}, "status": status});
        match api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            _ => return,
        }
    }
}

async fn delete(world: &Inner, pod: &Pod, grace: Option<u32>) {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &pod.namespace().unwrap_or_default());
    let params = DeleteParams {
        grace_period_seconds: grace,
        preconditions: Some(Preconditions { uid: pod.uid(), resource_version: None }),
        ..DeleteParams::default()
    };
    if let Err(error) = api.delete(&pod.name_any(), &params).await {
        tracing::debug!(pod = pod.name_any(), %error, "controllers: deleting");
    }
}
