//! Instances.

use super::plan::unowned;
use crate::context::{Ctx, within};
use futures::StreamExt;
use gpujob_crds::GpuNode;
use gpujob_provider_core::{Instance, Listing, MachineProvider, Scope};
use kube::api::{Api, ListParams};
use std::sync::Arc;

pub use super::plan::is_owned;

/// How many are told to end at a time.
const AT_ONCE: usize = 16;

/// Ends what `listing` shows alive and nobody owns. An incomplete listing serves as well: what is in it is there.
pub async fn sweep(ctx: &Ctx, scope: &Scope, provider: &Arc<dyn MachineProvider>, listing: &Listing) {
    if !ctx.leader.is_leader() {
        return;
    }
    let cluster = &ctx.settings.cluster;
    // The cache is asked first only to spare the API server a list when all is well: it may not condemn.
    if unowned(&listing.instances, &ctx.stores.nodes.state(), cluster).is_empty() {
        return;
    }
    let live = match within(Api::<GpuNode>::all(ctx.client.clone()).list(&ListParams::default())).await {
        Ok(list) => list.items.into_iter().map(Arc::new).collect::<Vec<_>>(),
        Err(error) => return tracing::warn!(%error, "sweep: reading GpuNodes"),
    };
    let orphans: Vec<Instance> = unowned(&listing.instances, &live, cluster).into_iter().cloned().collect();
    let ends = orphans.into_iter().map(|instance| async move {
        tracing::warn!(id = instance.id, tags = ?instance.tags, "ending an instance that no GpuNode owns");
        ctx.metrics.orphan_found(&scope.provider);
        if let Err(error) = provider.terminate(&instance.id).await {
            tracing::warn!(id = instance.id, %error, "sweep: ending it failed, the next listing tries again");
        }
    });
    futures::stream::iter(ends).buffer_unordered(AT_ONCE).collect::<()>().await;
}
