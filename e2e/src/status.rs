//! `cargo lab status`: parts, instances, nodes, pods and today's bill.

use crate::cluster;
use crate::host::Paths;
use crate::instance::SYSTEM;
use crate::process::Daemon;
use crate::services::{control_plane, dns, ec2, object_store, registry};
use anyhow::Result;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{Api, ResourceExt};
use serde_json::Value;
use std::fmt::Write;

/// The whole status as text. Parts that do not answer are said to be down; only writing can fail.
///
/// # Errors
/// None in practice.
pub async fn status(paths: &Paths) -> Result<String> {
    let mut text = String::from("PARTS\n");
    let others = [registry::SERVER, dns::SERVER, ec2::SERVER, object_store::SERVER];
    for name in control_plane::SERVERS.into_iter().chain(others) {
        let state = Daemon::server(paths, name).pid().map_or("down".to_owned(), |pid| format!("up, pid {pid}"));
        writeln!(text, "  {name:<26} {state}")?;
    }
    let system = Daemon::within(&paths.instance(SYSTEM), "supervisor").pid();
    writeln!(text, "  {:<26} {}", "system node", system.map_or("down".to_owned(), |pid| format!("up, pid {pid}")))?;
    if let Ok(instances) = ec2::Control::lab().instances().await {
        instances_table(&mut text, &instances)?;
    }
    if let Ok(client) = cluster::client(paths).await
        && let Ok(nodes) = Api::<Node>::all(client.clone()).list(&Default::default()).await
    {
        writeln!(text, "NODES\n  {:<32} {:<9} {:<5} PROVIDER ID", "NAME", "STATUS", "GPUS")?;
        for node in nodes {
            let ready = if crate::up::ready(&node) { "Ready" } else { "NotReady" };
            let allocatable = node.status.as_ref().and_then(|status| status.allocatable.as_ref());
            let gpus = allocatable.and_then(|all| all.get("nvidia.com/gpu")).map_or("0", |quantity| &quantity.0);
            let provider = node.spec.as_ref().and_then(|spec| spec.provider_id.as_deref()).unwrap_or("-");
            writeln!(text, "  {:<32} {ready:<9} {gpus:<5} {provider}", node.name_any())?;
        }
        writeln!(text, "PODS\n  {:<20} {:<44} {:<10} NODE", "NAMESPACE", "NAME", "PHASE")?;
        for pod in Api::<Pod>::all(client).list(&Default::default()).await? {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("-");
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("-");
            writeln!(text, "  {:<20} {:<44} {phase:<10} {node}", pod.namespace().unwrap_or_default(), pod.name_any())?;
        }
    }
    if let Ok(bill) = ec2::Control::lab().get("bill").await {
        writeln!(text, "BILL\n  today ${:.4}, running at ${:.4} an hour", number(&bill["today"]), number(&bill["running_per_hour"]))?;
    }
    Ok(text)
}

fn instances_table(text: &mut String, instances: &[Value]) -> Result<()> {
    writeln!(text, "INSTANCES\n  {:<20} {:<14} {:<14} {:<11} {:<10} NAME", "ID", "STATE", "TYPE", "ZONE", "MARKET")?;
    for instance in instances {
        let field = |name: &str| instance[name].as_str().unwrap_or("-").to_owned();
        let name = instance["tags"]["Name"].as_str().unwrap_or("-");
        let (id, state, kind) = (field("id"), field("state"), field("type"));
        writeln!(text, "  {id:<20} {state:<14} {kind:<14} {:<11} {:<10} {name}", field("zone"), field("market"))?;
    }
    Ok(())
}

fn number(value: &Value) -> f64 {
    value.as_f64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
}
