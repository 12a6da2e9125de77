//! A pod's own endpoints: binding, eviction and log.

use super::delete::{Options, delete};
use super::path::{Query, Target};
use super::refusal::{Refusal, details};
use super::store::{Actor, State};
use super::write::{Proposal, replace, written};
use serde_json::{Value, json};

fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

/// The scheduler's word.
pub(crate) fn bind(state: &mut State, actor: &Actor, target: &Target, body: &Value) -> Result<Value, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    let live = state.get(resource, namespace, name).cloned().ok_or_else(|| Refusal::not_found(resource, name))?;
    let node = body["target"]["name"].as_str().unwrap_or_default();
    let taken = |why: String| {
        let mut refusal = Refusal::conflict(resource, name, &why);
        refusal.details = details(name, "", "pods/binding");
        refusal.message = format!("Operation cannot be fulfilled on pods/binding {name:?}: {why}");
        refusal
    };
    if live.deleting() {
        return Err(taken(format!("pod {name} is being deleted, cannot be assigned to a host")));
    }
    match live.value["spec"]["nodeName"].as_str().unwrap_or_default() {
        "" => {}
        there => return Err(taken(format!("pod {name} is already assigned to node {there:?}"))),
    }
    let mut object = Value::clone(&live.value);
    object["spec"]["nodeName"] = Value::from(node);
    let condition = json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": written(actor.now)});
    match object["status"]["conditions"].as_array_mut() {
        Some(all) => {
            all.retain(|c| c["type"] != "PodScheduled");
            all.push(condition);
        }
        None => object["status"]["conditions"] = json!([condition]),
    }
    let generation = live.value["metadata"]["generation"].as_i64().unwrap_or(1);
    object["metadata"]["generation"] = Value::from(generation + 1);
    state.put(actor, resource, (namespace.clone(), name.clone()), object);
    Ok(success())
}

/// A deletion that says that it was none of the pod's doing. There are no disruption budgets here.
pub(crate) fn evict(state: &mut State, actor: &Actor, target: &Target, body: &Value) -> Result<Value, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    let pod = Target { subresource: String::new(), ..target.clone() };
    let live = state.get(resource, namespace, name).cloned().ok_or_else(|| Refusal::not_found(resource, name))?;
    let options = Options::read(&body["deleteOptions"], &Query::default());
    let mut object = Value::clone(&live.value);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
        "lastProbeTime": null, "lastTransitionTime": written(actor.now),
    });
    match object["status"]["conditions"].as_array_mut() {
        Some(all) => all.push(condition),
        None => object["status"]["conditions"] = json!([condition]),
    }
    let over = matches!(live.value["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    if !live.deleting() && !over && !options.dry {
        let status = Actor { subresource: "status".to_owned(), ..actor.clone() };
        replace(state, &status, &pod, &live, Proposal { object, strict: false, owners: None })?;
    }
    let actor = Actor { dry: options.dry || actor.dry, ..actor.clone() };
    delete(state, &actor, &pod, &options)?;
    Ok(success())
}

/// What a container has said, as far as the kubelets of the simulation have told.
pub(crate) fn log(state: &State, target: &Target, query: &Query) -> Result<String, Refusal> {
    let Target { resource, namespace, name, .. } = target;
    let live = state.get(resource, namespace, name).ok_or_else(|| Refusal::not_found(resource, name))?;
    let first = live.value["spec"]["containers"][0]["name"].as_str().unwrap_or_default();
    let container = query.get("container").unwrap_or(first);
    let lists = ["containers", "initContainers"].iter().flat_map(|l| live.value["spec"][l].as_array().into_iter().flatten());
    if !lists.into_iter().any(|c| c["name"] == container) {
        return Err(Refusal::bad_request(format!("container {container} is not valid for pod {name}")));
    }
    if live.value["spec"]["nodeName"].as_str().is_none_or(str::is_empty) {
        return Ok(String::new());
    }
    let key = (namespace.clone(), name.clone(), container.to_owned());
    let text = state.logs.get(&key).map(String::as_str).unwrap_or_default();
    let Some(lines) = query.get("tailLines").and_then(|n| n.parse::<usize>().ok()) else { return Ok(text.to_owned()) };
    let all: Vec<&str> = text.split_inclusive('\n').collect();
    Ok(all[all.len().saturating_sub(lines)..].concat())
}
