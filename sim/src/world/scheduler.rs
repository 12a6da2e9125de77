//! kube-scheduler: binds pods to Nodes that fit, or says why none does. [`place`] is pure.

use super::Inner;
use super::kubelet::{is_terminal, label};
use k8s_openapi::api::core::v1::{Binding, Node, NodeSelectorRequirement, ObjectReference, Pod, Taint, Toleration};
use kube::ResourceExt;
use kube::api::{Api, ObjectMeta, Patch, PatchParams, PostParams};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is used or there, by resource: CPU in millicores, the rest in units.
type Amounts = BTreeMap<String, i64>;

/// A quantity in units; CPU in millis. 0 for what cannot be read.
pub(super) fn amount(resource: &str, text: &str) -> i64 {
    let scale = if resource == "cpu" { 1000.0 } else { 1.0 };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: f64 = match &text[digits.len()..] {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1_048_576.0,
        "Gi" => 1_073_741_824.0,
        "Ti" => 1_099_511_627_776.0,
        _ => return 0,
    };
    #[allow(clippy::cast_possible_truncation)]
    digits.parse::<f64>().map_or(0, |n| (n * unit * scale).round() as i64)
}

/// What a pod asks for: the sum of its containers and sidecars, at least the largest init container.
fn asks(pod: &Pod) -> Amounts {
    let mut all = Amounts::from([("pods".to_owned(), 1)]);
    let spec = pod.spec.as_ref();
    let inits = spec.iter().flat_map(|s| s.init_containers.iter().flatten());
    let (sidecars, inits): (Vec<_>, Vec<_>) = inits.partition(|c| c.restart_policy.as_deref() == Some("Always"));
    for container in spec.iter().flat_map(|s| &s.containers).chain(sidecars) {
        for (name, quantity) in container.resources.iter().flat_map(|r| r.requests.iter().flatten()) {
            *all.entry(name.clone()).or_default() += amount(name, &quantity.0);
        }
    }
    for container in inits {
        for (name, quantity) in container.resources.iter().flat_map(|r| r.requests.iter().flatten()) {
            let entry = all.entry(name.clone()).or_default();
            *entry = (*entry).max(amount(name, &quantity.0));
        }
    }
    all
}

fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let exists = toleration.operator.as_deref() == Some("Exists");
    (key == taint.key || (key.is_empty() && exists))
        && toleration.effect.as_deref().is_none_or(|e| e.is_empty() || e == taint.effect)
        && (exists || toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default())
}

/// The toleration of this pod that covers this taint, if it has one.
pub(super) fn toleration<'a>(pod: &'a Pod, taint: &Taint) -> Option<&'a Toleration> {
    pod.spec.as_ref()?.tolerations.iter().flatten().find(|t| tolerates(t, taint))
}

fn matches(node: &Node, requirement: &NodeSelectorRequirement) -> bool {
    let value = node.labels().get(&requirement.key);
    let among = value.is_some_and(|v| requirement.values.iter().flatten().any(|w| w == v));
    match requirement.operator.as_str() {
        "In" => among,
        "NotIn" => !among,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        _ => false,
    }
}

/// Why this pod cannot be on this Node, in kube-scheduler's words; `Ok`: how much the pod would like it.
fn fit(pod: &Pod, node: &Node, used: &Amounts) -> Result<i32, String> {
    let spec = node.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) {
        return Err("node(s) were unschedulable".into());
    }
    let selector = pod.spec.iter().flat_map(|s| s.node_selector.iter().flatten());
    if selector.into_iter().any(|(k, v)| node.labels().get(k) != Some(v)) {
        return Err("node(s) didn't match Pod's node affinity/selector".into());
    }
    for taint in spec.taints.iter().flatten().filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute") {
        if toleration(pod, taint).is_none() {
            return Err(format!("node(s) had untolerated taint {{{}: {}}}", taint.key, taint.value.as_deref().unwrap_or_default()));
        }
    }
    let there = node.status.as_ref().and_then(|s| s.allocatable.as_ref());
    for (name, wanted) in asks(pod) {
        let all = there.and_then(|a| a.get(&name)).map_or(0, |q| amount(&name, &q.0));
        if wanted > 0 && used.get(&name).copied().unwrap_or(0) + wanted > all {
            return Err(format!("Insufficient {name}"));
        }
    }
    let affinity = pod.spec.as_ref().and_then(|s| s.affinity.as_ref()).and_then(|a| a.node_affinity.as_ref());
    let preferred = affinity.iter().flat_map(|a| a.preferred_during_scheduling_ignored_during_execution.iter().flatten());
    let liked = preferred.filter(|p| p.preference.match_expressions.iter().flatten().all(|r| matches(node, r))).map(|p| p.weight);
    Ok(liked.sum())
}

/// The Node for this pod, or why there is none. `pods`: all that are bound, ended ones included.
fn place(pod: &Pod, nodes: &[Arc<Node>], used: &BTreeMap<String, Amounts>) -> Result<String, String> {
    let empty = Amounts::new();
    let mut best: Option<(i32, String)> = None;
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes {
        match fit(pod, node, used.get(&node.name_any()).unwrap_or(&empty)) {
            Ok(score) if best.as_ref().is_none_or(|(old, _)| score > *old) => best = Some((score, node.name_any())),
            Ok(_) => {}
            Err(why) => *reasons.entry(why).or_default() += 1,
        }
    }
    best.map(|(_, name)| name).ok_or_else(|| {
        let list: Vec<String> = reasons.into_iter().map(|(why, n)| format!("{n} {why}")).collect();
        format!("0/{} nodes are available: {}.", nodes.len(), list.join(", "))
    })
}

/// Plans whenever pods or Nodes have changed, for ever.
pub(super) async fn run(world: Arc<Inner>) {
    // Bound by us, and not seen in the watch yet: by UID.
    let mut assumed: BTreeMap<String, String> = BTreeMap::new();
    loop {
        world.schedule.notified().await;
        let (pods, nodes) = {
            let mirror = world.mirror.lock().expect("no panic holds this lock");
            (mirror.pods.values().cloned().collect::<Vec<_>>(), mirror.nodes.values().cloned().collect::<Vec<_>>())
        };
        let bound = |p: &Pod| p.spec.as_ref().and_then(|s| s.node_name.clone());
        assumed.retain(|uid, _| pods.iter().any(|p| p.uid().as_deref() == Some(uid) && bound(p).is_none()));
        let mut used: BTreeMap<String, Amounts> = BTreeMap::new();
        for pod in pods.iter().filter(|p| !is_terminal(p)) {
            if let Some(node) = bound(pod).or_else(|| assumed.get(&pod.uid().unwrap_or_default()).cloned()) {
                take(&mut used, &node, pod);
            }
        }
        let mut waiting: Vec<&Arc<Pod>> = pods
            .iter()
            .filter(|p| bound(p).is_none() && p.metadata.deletion_timestamp.is_none() && !is_terminal(p))
            .filter(|p| !assumed.contains_key(&p.uid().unwrap_or_default()))
            .collect();
        waiting.sort_by_key(|p| (p.creation_timestamp().map(|t| t.0), label(p)));
        for pod in waiting {
            match place(pod, &nodes, &used) {
                Ok(node) => {
                    if bind(&world, pod, &node).await {
                        assumed.insert(pod.uid().unwrap_or_default(), node.clone());
                        take(&mut used, &node, pod);
                    }
                }
                Err(why) => unschedulable(&world, pod, &why).await,
            }
        }
    }
}

fn take(used: &mut BTreeMap<String, Amounts>, node: &str, pod: &Pod) {
    let entry = used.entry(node.to_owned()).or_default();
    for (name, wanted) in asks(pod) {
        *entry.entry(name).or_default() += wanted;
    }
}

async fn bind(world: &Inner, pod: &Pod, node: &str) -> bool {
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &pod.namespace().unwrap_or_default());
    let binding = Binding {
        metadata: ObjectMeta { name: pod.metadata.name.clone(), uid: pod.uid(), ..ObjectMeta::default() },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.to_owned()), ..ObjectReference::default() },
    };
    let answer: kube::Result<serde_json::Value> =
        api.create_subresource("binding", &pod.name_any(), &PostParams::default(), &binding).await;
    match answer {
        Ok(_) => true,
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => false,
        Err(error) => {
            tracing::warn!(pod = label(pod), %error, "binding");
            false
        }
    }
}

/// Whether two of our messages give the same reasons: how many Nodes there are changes all the time.
fn same(one: &str, other: &str) -> bool {
    let words = |text: &str| text.replace(|c: char| c.is_ascii_digit(), "");
    words(one) == words(other)
}

/// Says why, unless it is said already.
async fn unschedulable(world: &Inner, pod: &Pod, why: &str) {
    let old = pod.status.iter().flat_map(|s| s.conditions.iter().flatten()).collect::<Vec<_>>();
    if old.iter().any(|c| c.type_ == "PodScheduled" && c.message.as_deref().is_some_and(|said| same(said, why))) {
        return;
    }
    let mut conditions: Vec<serde_json::Value> =
        old.iter().filter(|c| c.type_ != "PodScheduled").filter_map(|c| serde_json::to_value(c).ok()).collect();
    let since =
        old.iter().find(|c| c.type_ == "PodScheduled").and_then(|c| c.last_transition_time.as_ref()).map_or(world.clock.now(), |t| t.0);
    conditions
        .push(json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": why, "lastTransitionTime": since}));
    let patch = json!({"metadata": {"uid": pod.uid(), "resourceVersion": pod.resource_version()}, "status": {"conditions": conditions}});
    let api: Api<Pod> = Api::namespaced(world.client.clone(), &pod.namespace().unwrap_or_default());
    // A conflict brings a newer pod through the watch, and with it another look.
    if let Err(error) = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::debug!(pod = label(pod), %error, "unschedulable");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, gpus: &str, taint: Option<&str>) -> Arc<Node> {
        let taints: Vec<_> = taint.map(|key| json!({"key": key, "value": "true", "effect": "NoSchedule"})).into_iter().collect();
        let node = json!({
            "metadata": {"name": name, "labels": {"n": name}}, "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": "3920m", "memory": "14Gi", "pods": "29", "nvidia.com/gpu": gpus}},
        });
        Arc::new(serde_json::from_value(node).expect("a Node"))
    }

    fn pod(gpus: &str, on: Option<&str>) -> Pod {
        let selector = on.map_or(json!({}), |n| json!({"n": n}));
        let pod = json!({"spec": {
            "nodeSelector": selector, "tolerations": [{"key": "gpu", "operator": "Exists"}],
            "containers": [{"name": "main", "resources": {"requests": {"nvidia.com/gpu": gpus, "memory": "1Gi"}}}],
        }});
        serde_json::from_value(pod).expect("a Pod")
    }

    #[test]
    fn one_gpu_holds_one_pod() {
        let nodes = [node("a", "1", Some("gpu")), node("b", "0", None)];
        let mut used = BTreeMap::new();
        assert_eq!(place(&pod("1", None), &nodes, &used), Ok("a".into()));
        take(&mut used, "a", &pod("1", None));
        let why = place(&pod("1", None), &nodes, &used).expect_err("no room");
        assert_eq!(why, "0/2 nodes are available: 2 Insufficient nvidia.com/gpu.");
    }

    #[test]
    fn selectors_and_taints_are_obeyed() {
        let nodes = [node("a", "1", Some("other")), node("b", "1", None)];
        let used = BTreeMap::new();
        assert_eq!(place(&pod("1", None), &nodes, &used), Ok("b".into()));
        let why = place(&pod("1", Some("a")), &nodes, &used).expect_err("tainted");
        assert!(why.contains("untolerated taint {other: true}") && why.contains("didn't match"), "{why}");
    }

    #[test]
    fn quantities() {
        assert_eq!(
            (amount("cpu", "50m"), amount("cpu", "2"), amount("memory", "64Mi"), amount("nvidia.com/gpu", "8")),
            (50, 2000, 64 << 20, 8)
        );
    }
}
