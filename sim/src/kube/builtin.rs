//! What the server adds to, and refuses in, objects of the core kinds: as much of it as our side ever sees.

use super::refusal::{Cause, Refusal};
use super::resource::{Resource, named};
use super::store::{Actor, State, metadata};
use super::write::written;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Defaults and admission of a new object.
pub(crate) fn created(state: &State, resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
    match resource.plural.as_str() {
        "pods" => pod(state, resource, object),
        "namespaces" => {
            let name = object["metadata"]["name"].clone();
            metadata(object)["labels"]["kubernetes.io/metadata.name"] = name;
            object["spec"] = json!({"finalizers": ["kubernetes"]});
            object["status"] = json!({"phase": "Active"});
            Ok(())
        }
        "resourcequotas" => {
            // Its controller's part: until the limits are in its status, nothing is held to them.
            let used = pods_of(state, object["metadata"]["namespace"].as_str().unwrap_or_default());
            object["status"] = json!({"hard": object["spec"]["hard"], "used": {"pods": used.to_string()}});
            Ok(())
        }
        "secrets" => {
            // `stringData` is for writing: it is kept as bytes.
            if let Some(text) = object.as_object_mut().and_then(|o| o.shift_remove("stringData")) {
                for (name, value) in text.as_object().into_iter().flatten() {
                    object["data"][name] = Value::from(base64(value.as_str().unwrap_or_default().as_bytes()));
                }
            }
            if object["type"].is_null() {
                object["type"] = Value::from("Opaque");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn pod(state: &State, resource: &Resource, object: &mut Value) -> Result<(), Refusal> {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
    let spec = &mut object["spec"];
    let account = spec["serviceAccountName"].as_str().filter(|a| !a.is_empty()).unwrap_or("default").to_owned();
    if state.get(named("serviceaccounts").expect("accounts are served"), &namespace, &account).is_none() {
        let why = format!("error looking up service account {namespace}/{account}: serviceaccount {account:?} not found");
        return Err(Refusal::forbidden(resource, &name, &why));
    }
    let mut causes = vec![];
    if spec["containers"].as_array().is_none_or(Vec::is_empty) {
        causes.push(Cause::required("spec.containers", ""));
    }
    for (field, value) in [
        ("restartPolicy", json!("Always")),
        ("terminationGracePeriodSeconds", json!(30)),
        ("dnsPolicy", json!("ClusterFirst")),
        ("securityContext", json!({})),
        ("schedulerName", json!("default-scheduler")),
        ("serviceAccountName", json!(account)),
        ("serviceAccount", json!(account)),
        ("priority", json!(0)),
        ("enableServiceLinks", json!(true)),
        ("preemptionPolicy", json!("PreemptLowerPriority")),
    ] {
        if spec[field].is_null() {
            spec[field] = value;
        }
    }
    tolerate(spec);
    for list in ["containers", "initContainers"] {
        for (at, container) in spec[list].as_array_mut().into_iter().flatten().enumerate() {
            if container["image"].as_str().is_none_or(str::is_empty) {
                causes.push(Cause::required(&format!("spec.{list}[{at}].image"), ""));
            }
            contain(container);
        }
        if spec[list].is_null()
            && let Some(map) = spec.as_object_mut()
        {
            map.shift_remove(list);
        }
    }
    if !causes.is_empty() {
        return Err(Refusal::invalid(resource, &name, &causes));
    }
    object["status"] = json!({"phase": "Pending", "qosClass": quality(&object["spec"])});
    quota(state, resource, &namespace, &name)
}

/// The last word in admission: whether the namespace has room for one more pod. No other limit is looked at.
fn quota(state: &State, pods: &Resource, namespace: &str, name: &str) -> Result<(), Refusal> {
    let used = pods_of(state, namespace);
    let quotas = named("resourcequotas").expect("quotas are served");
    for ((_, quota), stored) in state.of(quotas).iter().filter(|((of, _), _)| of == namespace) {
        let hard = &stored.value["status"]["hard"]["pods"];
        let limit = hard.as_str().and_then(|n| n.parse::<usize>().ok()).unwrap_or(usize::MAX);
        if used >= limit {
            let why = format!("exceeded quota: {quota}, requested: pods=1, used: pods={used}, limited: pods={limit}");
            return Err(Refusal::forbidden(pods, name, &why));
        }
    }
    Ok(())
}

/// How many pods of a namespace count: those that have not ended.
fn pods_of(state: &State, namespace: &str) -> usize {
    let pods = state.of(named("pods").expect("pods are served"));
    let over = |phase: &Value| matches!(phase.as_str(), Some("Succeeded" | "Failed"));
    pods.iter().filter(|((of, _), pod)| of == namespace && !over(&pod.value["status"]["phase"])).count()
}

fn contain(container: &mut Value) {
    for (field, value) in
        [("terminationMessagePath", json!("/dev/termination-log")), ("terminationMessagePolicy", json!("File")), ("resources", json!({}))]
    {
        if container[field].is_null() {
            container[field] = value;
        }
    }
    if container["imagePullPolicy"].is_null() {
        let image = container["image"].as_str().unwrap_or_default();
        let tag = image.rsplit('/').next().and_then(|last| last.split_once(':'));
        let always = !image.contains('@') && tag.is_none_or(|(_, tag)| tag == "latest");
        container["imagePullPolicy"] = Value::from(if always { "Always" } else { "IfNotPresent" });
    }
    // What is limited is requested, unless it says otherwise.
    for (name, limit) in container["resources"]["limits"].as_object().cloned().unwrap_or_default() {
        if container["resources"]["requests"][&name].is_null() {
            container["resources"]["requests"][&name] = limit;
        }
    }
}

/// Admission's five minutes on a node that is not ready or not reachable.
fn tolerate(spec: &mut Value) {
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    let Some(all) = spec["tolerations"].as_array_mut() else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covers = |t: &Value| {
            (t["key"] == key || t["key"].as_str().is_none_or(str::is_empty)) && (t["effect"].is_null() || t["effect"] == "NoExecute")
        };
        if !all.iter().any(covers) {
            all.push(json!({"effect": "NoExecute", "key": key, "operator": "Exists", "tolerationSeconds": 300}));
        }
    }
}

fn quality(spec: &Value) -> &'static str {
    let containers: Vec<&Value> = ["containers", "initContainers"].iter().flat_map(|l| spec[l].as_array().into_iter().flatten()).collect();
    let amount = |container: &Value, of: &str, name: &str| container["resources"][of][name].clone();
    let some = |c: &&Value| ["limits", "requests"].iter().any(|of| ["cpu", "memory"].iter().any(|n| !amount(c, of, n).is_null()));
    let all = |c: &&Value| {
        ["cpu", "memory"].iter().all(|n| !amount(c, "limits", n).is_null() && amount(c, "limits", n) == amount(c, "requests", n))
    };
    if containers.iter().all(all) {
        "Guaranteed"
    } else if containers.iter().any(some) {
        "Burstable"
    } else {
        "BestEffort"
    }
}

/// The first time that is not written with six digits, where only that is read: Go is strict about `MicroTime`.
pub(crate) fn crooked_time(object: &Value) -> Option<&str> {
    let micro = |text: &str| text.rsplit_once('.').is_some_and(|(_, fraction)| fraction.len() == 7 && fraction.ends_with('Z'));
    ["/spec/renewTime", "/spec/acquireTime", "/eventTime", "/series/lastObservedTime"]
        .iter()
        .filter_map(|place| object.pointer(place)?.as_str())
        .find(|text| !micro(text))
}

/// What of an object of a core kind may not change.
pub(crate) fn changed(resource: &Resource, subresource: &str, object: &Value, was: &Value) -> Result<(), Refusal> {
    let name = was["metadata"]["name"].as_str().unwrap_or_default();
    if resource.is("pods") && subresource.is_empty() && frozen(&object["spec"]) != frozen(&was["spec"]) {
        let why = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
        return Err(Refusal::invalid(resource, name, &[Cause::forbidden("spec", why)]));
    }
    if (resource.is("configmaps") || resource.is("secrets"))
        && was["immutable"] == true
        && (object["data"] != was["data"] || object["immutable"] != true)
    {
        return Err(Refusal::invalid(resource, name, &[Cause::forbidden("data", "field is immutable when `immutable` is set")]));
    }
    Ok(())
}

/// A pod's spec without what may change.
fn frozen(spec: &Value) -> Value {
    let mut spec = spec.clone();
    if let Some(map) = spec.as_object_mut() {
        map.retain(|name, _| !matches!(name.as_str(), "activeDeadlineSeconds" | "tolerations"));
    }
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            container["image"] = Value::Null;
        }
    }
    spec
}

/// The account that the controller manager makes in every namespace; here at once, so that pods need not wait for it.
pub(crate) fn default_account(state: &mut State, namespace: &str, now: Timestamp) {
    let accounts = named("serviceaccounts").expect("accounts are served");
    let key = (namespace.to_owned(), "default".to_owned());
    let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {
        "name": "default", "namespace": namespace, "uid": state.uid(accounts, &key), "creationTimestamp": written(now),
    }});
    state.put(&Actor::controller("kube-controller-manager", "create", now), accounts, key, object);
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let letters = |chunk: &[u8]| {
        let bits = chunk.iter().fold(0u32, |bits, b| bits << 8 | u32::from(*b)) << (8 * (3 - chunk.len()));
        (0..4).map(|n| if n > chunk.len() { '=' } else { char::from(ALPHABET[(bits >> (18 - 6 * n) & 63) as usize]) }).collect::<String>()
    };
    bytes.chunks(3).map(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn bytes_are_written_as_secrets_keep_them() {
        for (text, expected) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(text.as_bytes()), expected);
        }
    }
}
