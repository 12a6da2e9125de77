//! `cargo lab up`: from any state to a running lab, doing only what is missing.

use crate::host::{Paths, prerequisites};
use crate::instance;
use crate::lock::Lock;
use crate::process::Daemon;
use crate::progress::{step, until};
use crate::services::{control_plane, dns, ec2, object_store, registry};
use crate::{cluster, down, images, network, packages, pki};
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use std::fs;
use std::time::Duration;

/// Brings the lab up. What runs is left running.
///
/// # Errors
/// A prerequisite is missing (the error says what to do), or a part does not come up (it ends with its last words).
pub async fn up(paths: &Paths) -> Result<()> {
    prerequisites()?;
    let _lock = Lock::take()?;
    if Daemon::server(paths, ec2::SERVER).was_lost() {
        // Instances are in the memory of that process alone: over the old data, the cluster would have Nodes and GpuNodes of
        // instances that nobody knows, and pools whose settings name nothing.
        eprintln!("  …  the last lab ended without `down`: it is cleared away first");
        down::clear(paths).await?;
    }
    fs::create_dir_all(paths.state.join("run"))?;
    step("packages", packages::system()).await?;
    tokio::try_join!(
        step("kubebox (Kubernetes in one program)", packages::kubebox(paths)),
        step("python environment", packages::python(paths)),
    )?;
    step("keys and network", async {
        packages::programs(paths)?;
        pki::ensure(paths)?;
        network::ensure(paths).await
    })
    .await?;
    // The slowest first: both need seconds before their first answer, and nothing else needs them.
    object_store::start(paths)?;
    tokio::try_join!(
        step("control plane and system node", with_system_node(paths)),
        step("registry", with_pause(paths)),
        step("EC2, IAM, SQS, SSM, Pricing", async {
            ec2::start(paths)?;
            ec2::ready(paths).await
        }),
        step("object storage", object_store::ready(paths)),
    )?;
    Ok(())
}

async fn with_pause(paths: &Paths) -> Result<()> {
    registry::ensure_running(paths).await?;
    let stamp = paths.state.join("run/pause-pushed");
    if !stamp.exists() {
        images::push_pause(paths).await?;
        fs::write(stamp, "")?;
    }
    Ok(())
}

async fn with_system_node(paths: &Paths) -> Result<()> {
    let client = control_plane::ensure_running(paths).await?;
    cluster::ensure_objects(&client, paths).await?;
    dns::ensure_running(paths)?;
    instance::boot_system_node(paths).await?;
    let nodes: Api<Node> = Api::all(client);
    let name = format!("ip-{}.ec2.internal", crate::host::SYSTEM_NODE_IP.replace('.', "-"));
    until("the system node", Duration::from_secs(60), || async {
        ensure!(ready(&nodes.get(&name).await?), "the system node is not Ready; see {}", paths.instance(instance::SYSTEM).display());
        Ok(())
    })
    .await?;
    // A kubelet may not give itself a role; only people's eyes need this one.
    let role = json!({"metadata": {"labels": {"node-role.kubernetes.io/system": ""}}});
    nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&role)).await.context("labelling the system node")?;
    Ok(())
}

/// Whether a node's kubelet says that it is ready.
pub fn ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.is_some_and(|all| all.iter().any(|one| one.type_ == "Ready" && one.status == "True"))
}
