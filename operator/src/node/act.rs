//! Does what the plan of a GpuNode says. The status is written first, by compare-and-set; then each action, each safe to
//! repeat. Nothing here waits for a provider.

use super::end::terminate;
use super::observe::{NodeWorld, observe};
use super::plan::{Action, Failed, NEVER_JOINED, NO_GPU, SILENT, plan};
use super::send::Launches;
use crate::context::{ApiError, Ctx, within};
use gpujob_crds::node::GpuNodeStatus;
use gpujob_crds::{GpuJob, GpuNode, names};
use gpujob_provider_core::{ErrorClass, ProviderError, Refusal};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// Why a look at a GpuNode failed. A provider's failures are not among them: its calls have tasks of their own.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
}

/// One look at one GpuNode. Returns when to look again.
///
/// # Errors
/// When a write or call failed: look again later.
pub async fn reconcile(name: &str, ctx: &Arc<Ctx>, launches: &Arc<Launches>) -> Result<Option<Duration>, Error> {
    let Some(node) = ctx.stores.nodes.get(&kube::runtime::reflector::ObjectRef::new(name)) else {
        launches.forget(name);
        return Ok(None);
    };
    if let Some(wait) = ctx.outdated.wait(node.as_ref()) {
        return Ok(Some(wait));
    }
    if node.metadata.deletion_timestamp.is_some() {
        launches.give_up(&node);
    }
    let now = ctx.clock.now();
    let world = observe(ctx, node, launches, now);
    let plan = plan(&world, now);
    if !ctx.leader.is_leader() {
        return Ok(None);
    }
    let mut version = world.node.resource_version().unwrap_or_default();
    if world.node.status.as_ref() != Some(&plan.status) {
        match write_status(ctx, &world.node, &plan.status, &version).await {
            Ok(written) => {
                ctx.outdated.wrote(&written);
                version = written.resource_version().unwrap_or_default();
            }
            // Somebody reserved or released meanwhile: the watch brings the newer version, and with it another look.
            Err(error) if error.is_conflict() => {
                ctx.outdated.refused(world.node.as_ref());
                return Ok(ctx.outdated.wait(world.node.as_ref()));
            }
            Err(error) if error.is_not_found() => return Ok(Some(Duration::from_millis(100))),
            Err(error) => return Err(error.into()),
        }
    }
    for action in &plan.actions {
        tracing::debug!(node = name, ?action, "acting");
        act(ctx, launches, &world, action, &version).await?;
    }
    Ok(plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_millis(50))))
}

async fn act(ctx: &Arc<Ctx>, launches: &Arc<Launches>, world: &NodeWorld, action: &Action, version: &str) -> Result<(), Error> {
    let (node, name) = (&world.node, world.node.name_any());
    let nodes = Api::<GpuNode>::all(ctx.client.clone());
    match action {
        Action::Launch => launches.send(ctx, node),
        Action::VerifyReservation(uid) => verify_reservation(ctx, node, uid, version).await?,
        Action::Adopt(kube_node) => adopt(ctx, world, kube_node).await?,
        Action::Reclaim(why) => {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: node.uid(), resource_version: Some(version.to_owned()) }),
                ..Default::default()
            };
            match within(nodes.delete(&name, &params)).await {
                Ok(_) => {
                    tracing::info!(node = name, why, "giving the instance back");
                    count_given_up(ctx, node, why);
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {} // not the version that was seen empty
                Err(error) => return Err(error.into()),
            }
        }
        Action::Blame(failed) => blame(ctx, node, failed),
        Action::Cordon(kube_node) => cordon(ctx, world, kube_node).await?,
        Action::Terminate(id) => terminate(ctx, launches, world, id),
        Action::DeleteNode(kube_node) => {
            let api = Api::<k8s_openapi::api::core::v1::Node>::all(ctx.client.clone());
            // Another machine may have got the address, and with it the name, since this was seen.
            let uid = world.claimants.iter().find(|n| n.name_any() == *kube_node).and_then(|n| n.uid());
            let preconditions = uid.map(|uid| Preconditions { uid: Some(uid), resource_version: None });
            ignore_absent(within(api.delete(kube_node, &DeleteParams { preconditions, ..DeleteParams::default() })).await.map(|_| ()))?;
        }
        Action::RemoveFinalizer => {
            let rest: Vec<&String> = node.finalizers().iter().filter(|f| *f != names::NODE_FINALIZER).collect();
            let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": version, "finalizers": rest}});
            ignore_absent(within(nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await.map(|_| ()))?;
            launches.forget(&name);
        }
    }
    Ok(())
}

/// The next instance is another offer's; and none is bought before a person has had time to act, where the provider says that one has to.
fn blame(ctx: &Ctx, node: &GpuNode, failed: &Failed) {
    let (now, instance) = (ctx.clock.now(), &failed.instance);
    let refusal = Refusal {
        instance_type: instance.instance_type.clone(),
        zone: instance.zone.clone(),
        market: instance.market,
        code: failed.said.clone(),
        class: ErrorClass::Capacity,
    };
    tracing::warn!(node = node.name_any(), id = instance.id, said = failed.said, "made and failed");
    ctx.capacity.refused(&node.spec.pool, &node.spec.region, &[refusal], &failed.said, now);
    if failed.class == ErrorClass::Invalid {
        let said = format!("{} was made, and ended at once: {}. Correct what that speaks of", instance.id, failed.said);
        ctx.capacity.block_pool(&node.spec.pool, &ProviderError::new(ErrorClass::Invalid, said), now);
    }
    ctx.metrics.gave_up("failed", "unknown", &instance.instance_type, &instance.zone);
}

/// Counts an instance that did not become what was bought, by what a person would look for: the image, the type, the zone.
fn count_given_up(ctx: &Ctx, node: &GpuNode, why: &str) {
    let Some(step) = [(NEVER_JOINED, "join"), (NO_GPU, "gpu"), (SILENT, "silent")].iter().find(|(text, _)| *text == why).map(|(_, s)| s)
    else {
        return;
    };
    let offers = ctx.capacity.offers(&node.spec.pool);
    let image = offers.as_ref().and_then(|o| o.prepared.image()).unwrap_or("unknown");
    let instance = node.status.as_ref().and_then(|s| s.instance.as_ref());
    let (instance_type, zone) = instance.map_or(("unknown", "unknown"), |i| (i.instance_type.as_str(), i.zone.as_str()));
    ctx.metrics.gave_up(step, image, instance_type, zone);
}

fn ignore_absent(result: Result<(), ApiError>) -> Result<(), ApiError> {
    result.or_else(|error| if error.is_not_found() || error.is_conflict() { Ok(()) } else { Err(error) })
}

/// The whole status of this controller, by merge patch on the version that was read. `assignments` travels along as read:
/// a conflict says that somebody changed it.
async fn write_status(ctx: &Ctx, node: &GpuNode, status: &GpuNodeStatus, version: &str) -> Result<GpuNode, ApiError> {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for field in ["idleSince", "nodeName", "instance"] {
        if value.get(field).is_none() {
            value[field] = serde_json::Value::Null; // a merge patch keeps what it does not name
        }
    }
    let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": version}, "status": value});
    let api = Api::<GpuNode>::all(ctx.client.clone());
    within(api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await
}

async fn verify_reservation(ctx: &Ctx, node: &GpuNode, uid: &str, version: &str) -> Result<(), Error> {
    let Some(reservation) = node.reservation_of(uid) else { return Ok(()) };
    // The cache may be behind: only a live GET shows that a job is gone.
    let live = within(Api::<GpuJob>::namespaced(ctx.client.clone(), &reservation.namespace).get_opt(&reservation.name)).await?;
    if live.is_some_and(|job| job.metadata.uid.as_deref() == Some(uid)) {
        return Ok(());
    }
    tracing::info!(node = node.name_any(), job = reservation.name, "dropping the reservation of a job that is gone");
    let mut node = node.clone();
    node.metadata.resource_version = Some(version.to_owned());
    ignore_absent(crate::reservation::release(ctx, &node, uid).await.map(|_| ()))?;
    Ok(())
}

async fn adopt(ctx: &Ctx, world: &NodeWorld, name: &str) -> Result<(), Error> {
    let Some(kube_node) = world.claimants.iter().find(|n| n.name_any() == *name) else { return Ok(()) };
    let taints: Vec<_> =
        kube_node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.key != names::UNREGISTERED_TAINT).cloned().collect();
    let patch = json!({
        "metadata": {"resourceVersion": kube_node.resource_version(), "labels": {names::NODE_LABEL: world.node.name_any()}},
        "spec": {"taints": taints},
    });
    let api = Api::<k8s_openapi::api::core::v1::Node>::all(ctx.client.clone());
    match within(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => tracing::info!(node = world.node.name_any(), kube_node = name, "joined"),
        // Its kubelet wrote meanwhile: what it wrote is on its way here, and brings another look.
        Err(error) if error.is_conflict() => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Nothing new is put on a Node that is being taken back. Safe to repeat; a Node that is gone needs none, and one of another UID is
/// another machine's.
async fn cordon(ctx: &Ctx, world: &NodeWorld, name: &str) -> Result<(), Error> {
    let Some(uid) = world.claimants.iter().find(|n| n.name_any() == name).and_then(|n| n.uid()) else { return Ok(()) };
    let api = Api::<k8s_openapi::api::core::v1::Node>::all(ctx.client.clone());
    let patch = json!({"metadata": {"uid": uid}, "spec": {"unschedulable": true}});
    ignore_absent(within(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await.map(|_| ()))?;
    Ok(())
}
