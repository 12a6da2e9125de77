//! The writes on a GpuNode's reservations: one more, or some fewer. All carry the version that was read: whoever reserves or releases on an
//! older view is refused by the API server and looks again.

use crate::context::{ApiError, Ctx, within};
use gpujob_crds::{GpuNode, Reservation};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;

/// Adds a reservation to a live GpuNode and stops its idle clock.
///
/// # Errors
/// A conflict when the GpuNode has changed since it was read, or is being deleted (that changes its version too).
pub async fn add(ctx: &Ctx, node: &GpuNode, reservation: &Reservation) -> Result<GpuNode, ApiError> {
    let mut all = node.reservations().to_vec();
    all.push(reservation.clone());
    write(ctx, &node.name_any(), &node.resource_version().unwrap_or_default(), &all, serde_json::Value::Null).await
}

/// Drops every reservation of this job and, if none is left, starts the idle clock.
///
/// # Errors
/// As [`add`].
pub async fn release(ctx: &Ctx, node: &GpuNode, job_uid: &str) -> Result<GpuNode, ApiError> {
    let rest: Vec<Reservation> = node.reservations().iter().filter(|r| r.job_uid != job_uid).cloned().collect();
    keep(ctx, &node.name_any(), &node.resource_version().unwrap_or_default(), &rest).await
}

/// Leaves only `rest` on the GpuNode of this name and version and, if that is nothing, starts the idle clock.
///
/// # Errors
/// As [`add`].
pub async fn keep(ctx: &Ctx, node: &str, version: &str, rest: &[Reservation]) -> Result<GpuNode, ApiError> {
    let idle = if rest.is_empty() { json!(ctx.clock.now()) } else { serde_json::Value::Null };
    write(ctx, node, version, rest, idle).await
}

async fn write(ctx: &Ctx, node: &str, version: &str, all: &[Reservation], idle_since: serde_json::Value) -> Result<GpuNode, ApiError> {
    let patch = json!({
        "metadata": {"resourceVersion": version},
        "status": {"assignments": all, "idleSince": idle_since},
    });
    let api = Api::<GpuNode>::all(ctx.client.clone());
    let written = within(api.patch_status(node, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    ctx.outdated.wrote(&written);
    Ok(written)
}
