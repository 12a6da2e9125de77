//! Looks at one pool: checks, lists, reports.

use super::check::{Checks, no_answer};
use super::plan::{Checked, FINALIZER, leaving, status};
use crate::capacity::{FailedCheck, PoolOffers};
use crate::context::{ApiError, Ctx, within};
use crate::watch::sorted;
use gpujob_crds::{GpuPool, GpuPoolStatus};
use gpujob_provider_core::{ProviderError, Scope};
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How often offers are listed. Describe calls are free, and a price that is older than this may be refused.
pub(super) const REFRESH: Duration = Duration::from_secs(60);
/// An answer that is owed for so long is said to be.
const SLOW: Duration = Duration::from_secs(20);
/// How often it is looked for.
const OWED: Duration = Duration::from_secs(1);
/// How long taking away what was made for a pool may take, before that is said: less than a look may.
const RELEASE: Duration = Duration::from_secs(40);
const MANAGER: &str = "gpujob/pool";

/// Why a look at a pool failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The provider.
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// One look at one pool: what its provider said last, on record. Returns when to look again. Followers list offers too, and write nothing.
///
/// # Errors
/// When a write failed: look again later.
pub async fn reconcile(name: &str, ctx: &Arc<Ctx>, checks: &Checks) -> Result<Option<Duration>, Error> {
    let Some(pool) = ctx.stores.pools.get(&kube::runtime::reflector::ObjectRef::new(name)) else {
        checks.forget(name);
        ctx.capacity.forget_pool(name);
        return Ok(None);
    };
    let leads = ctx.leader.is_leader();
    let scope = Scope { provider: pool.spec.provider().into(), region: pool.spec.region().into() };
    let nodes = sorted(&ctx.stores.nodes);
    if pool.metadata.deletion_timestamp.is_some() || ctx.leader.is_draining() {
        checks.forget(name);
        return let_go(ctx, &pool, &scope, &nodes).await;
    }
    if leads && !pool.finalizers().iter().any(|f| f == FINALIZER) {
        // Before anything is made for it in the cloud.
        finalizers(ctx, &pool, true).await?;
        return Ok(Some(Duration::ZERO));
    }
    if leads && let Some(wait) = ctx.outdated.wait(pool.as_ref()) {
        return Ok(Some(wait));
    }
    let now = ctx.clock.now();
    // Before its offers are known, and so before anything can be bought of them.
    let kept = pool.status.as_ref().map(|s| s.memory.as_slice()).unwrap_or_default();
    ctx.capacity.restore(name, pool.spec.region(), kept, leads, now);
    // Looks come with every change of a GpuNode, to count it, and after every write; the provider is asked once a minute.
    let (mut fresh, mut refused) = known(ctx, &pool, now);
    let mut owed = None;
    if fresh.is_none() && refused.is_none() {
        owed = checks.ask(ctx, &pool, &scope, leads).await;
        (fresh, refused) = known(ctx, &pool, ctx.clock.now());
    }
    let blocked = ctx.capacity.launches_refused(name, now);
    let (mut wanted, wake) = match (&fresh, &refused, owed) {
        (Some(known), ..) => {
            let checked = Checked::Accepted { prepared: &known.prepared, offers: &known.offers, blocked: blocked.as_ref() };
            let age = Duration::try_from(now.duration_since(known.listed)).unwrap_or_default();
            (status(&pool, &nodes, &checked, now), REFRESH.saturating_sub(age))
        }
        (_, Some(failed), _) => {
            (status(&pool, &nodes, &Checked::Refused(&failed.error), now), failed.error.class.first_wait().min(REFRESH))
        }
        (.., Some(owed)) if owed >= SLOW => (status(&pool, &nodes, &Checked::Refused(&no_answer(SLOW)), now), OWED),
        (.., Some(_)) => return Ok(Some(OWED)),
        _ => return Ok(Some(Duration::from_secs(5))), // a follower, and the leader has not prepared it yet
    };
    wanted.memory = ctx.capacity.remembered(name, pool.spec.region(), kept, now);
    if leads && pool.status.as_ref() != Some(&wanted) {
        write(ctx, &pool, &wanted).await?;
    }
    Ok(Some(wake))
}

/// The last answer about these very settings, while it counts: what can be bought, or why nothing can.
fn known(ctx: &Ctx, pool: &GpuPool, now: Timestamp) -> (Option<PoolOffers>, Option<FailedCheck>) {
    let name = pool.name_any();
    let same = |uid: &str, generation: i64| pool.metadata.uid.as_deref() == Some(uid) && pool.metadata.generation == Some(generation);
    let fresh = |o: &PoolOffers| same(&o.uid, o.generation) && now.duration_since(o.listed) < jiff::SignedDuration::from_secs(55);
    let failed = ctx.capacity.failed_check(&name).filter(|f| same(&f.uid, f.generation) && now < f.until);
    (ctx.capacity.offers(&name).filter(fresh), failed)
}

/// The pool is deleted, or GpuJob is being drained: what was made for it in the cloud goes once its nodes are gone, then our finalizer.
/// After a drain the pool stays, as its owner's to keep or to delete, and is prepared anew by the next install.
async fn let_go(ctx: &Ctx, pool: &GpuPool, scope: &Scope, nodes: &[Arc<gpujob_crds::GpuNode>]) -> Result<Option<Duration>, Error> {
    let name = pool.name_any();
    ctx.capacity.forget_pool(&name);
    ctx.prefetch.forget(pool.metadata.uid.as_deref().unwrap_or_default());
    if !ctx.leader.is_leader() || !pool.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(None);
    }
    if let Some(wait) = ctx.outdated.wait(pool) {
        return Ok(Some(wait));
    }
    let left = nodes.iter().filter(|n| Some(&n.spec.pool_uid) == pool.metadata.uid.as_ref()).count();
    if left > 0 {
        tracing::info!(pool = name, left, "waiting for its nodes to go");
        say_leaving(ctx, pool, nodes, None).await?;
        return Ok(Some(Duration::from_secs(5)));
    }
    // Never accepted, so nothing was made for it: a pool with a wrong region or no credentials must be deletable.
    if pool.status.as_ref().is_some_and(|s| s.prepared.is_some()) {
        let release = async { ctx.clouds.machines(scope).await?.release(&pool.uid().unwrap_or_default(), &ctx.settings.cluster).await };
        if let Err(error) = tokio::time::timeout(RELEASE, release).await.unwrap_or_else(|_| Err(no_answer(RELEASE))) {
            say_leaving(ctx, pool, nodes, Some(&error)).await?;
            return Err(error.into());
        }
    }
    finalizers(ctx, pool, false).await.map(|()| None)
}

/// Says what a deleted pool still waits for. One that is only drained is as it was once that is over.
async fn say_leaving(ctx: &Ctx, pool: &GpuPool, nodes: &[Arc<gpujob_crds::GpuNode>], refused: Option<&ProviderError>) -> Result<(), Error> {
    let wanted = leaving(pool, nodes, refused, ctx.clock.now());
    if pool.metadata.deletion_timestamp.is_none() || pool.status.as_ref() == Some(&wanted) {
        return Ok(());
    }
    write(ctx, pool, &wanted).await
}

async fn finalizers(ctx: &Ctx, pool: &GpuPool, add: bool) -> Result<(), Error> {
    let mut all: Vec<String> = pool.finalizers().iter().filter(|f| *f != FINALIZER).cloned().collect();
    if add {
        all.push(FINALIZER.into());
    }
    let patch = json!({"metadata": {"uid": pool.uid(), "resourceVersion": pool.resource_version(), "finalizers": all}});
    match within(Api::<GpuPool>::all(ctx.client.clone()).patch(&pool.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_conflict() || error.is_not_found() => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// With the version that was read: one field manager never conflicts with itself, and a request that was long on its way would undo
/// what was said since (found by the simulator, seed 81). The pool's newer version brings another look.
async fn write(ctx: &Ctx, pool: &GpuPool, wanted: &GpuPoolStatus) -> Result<(), Error> {
    let metadata = json!({"name": pool.name_any(), "uid": pool.uid(), "resourceVersion": pool.resource_version()});
    let patch = json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuPool", "metadata": metadata, "status": wanted});
    let api = Api::<GpuPool>::all(ctx.client.clone());
    match within(api.patch_status(&pool.name_any(), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&patch))).await {
        Ok(written) => ctx.outdated.wrote(&written),
        Err(error) if error.is_conflict() => ctx.outdated.refused(pool),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
