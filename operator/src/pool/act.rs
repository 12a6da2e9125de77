//! Looks at one pool: checks, lists, reports.

use super::plan::{Checked, FINALIZER, status};
use crate::capacity::{FailedCheck, PoolOffers};
use crate::context::{ApiError, Ctx, within};
use crate::watch::sorted;
use gpujob_crds::{GpuPool, GpuPoolStatus};
use gpujob_provider_core::{ErrorClass, MachineProvider, Offer, Prepared, ProviderError, Scope};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// How often offers are listed. Describe calls are free, and a price that is older than this may be refused.
const REFRESH: Duration = Duration::from_secs(60);
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

/// One look at one pool. Returns when to look again. Followers list offers too, and write nothing.
///
/// # Errors
/// When a write failed: look again later.
pub async fn reconcile(name: &str, ctx: &Arc<Ctx>) -> Result<Option<Duration>, Error> {
    let Some(pool) = ctx.stores.pools.get(&kube::runtime::reflector::ObjectRef::new(name)) else {
        ctx.capacity.forget_pool(name);
        return Ok(None);
    };
    let leads = ctx.leader.is_leader();
    let scope = Scope { provider: pool.spec.provider().into(), region: pool.spec.region().into() };
    let nodes = sorted(&ctx.stores.nodes);
    if pool.metadata.deletion_timestamp.is_some() || ctx.leader.is_draining() {
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
    let fresh = ctx.capacity.offers(name).filter(|known| {
        let same = pool.metadata.uid.as_deref() == Some(&known.uid) && pool.metadata.generation == Some(known.generation);
        same && now.duration_since(known.listed) < jiff::SignedDuration::from_secs(55)
    });
    // Looks come with every change of a GpuNode, to count it; the provider is asked once a minute.
    let refused = ctx
        .capacity
        .failed_check(name)
        .filter(|f| pool.metadata.uid.as_deref() == Some(&f.uid) && pool.metadata.generation == Some(f.generation) && now < f.until);
    // Looks come with every change of a GpuNode, to count it, and after every write; the provider is asked once a minute.
    let (checked, age) = match (fresh, refused) {
        (Some(known), _) => (Ok(Some((known.prepared, known.offers))), now.duration_since(known.listed)),
        (None, Some(failed)) => (Err(failed.error), jiff::SignedDuration::ZERO),
        (None, None) => {
            let checked = check(ctx, &pool, &scope, leads).await;
            let failed = checked.as_ref().err().map(|error| FailedCheck {
                uid: pool.uid().unwrap_or_default(),
                generation: pool.metadata.generation.unwrap_or(1),
                error: error.clone(),
                until: now.saturating_add(error.class.first_wait().min(REFRESH)).unwrap_or(now),
            });
            ctx.capacity.checked(name, failed);
            (checked, jiff::SignedDuration::ZERO)
        }
    };
    let mut wanted = match &checked {
        Ok(None) => return Ok(Some(Duration::from_secs(5))), // a follower, and the leader has not prepared it yet
        Ok(Some((prepared, offers))) => {
            if age.is_zero() {
                let before = ctx.capacity.offers(name);
                let first = before.is_none();
                if before.is_some_and(|b| Some(b.generation) != pool.metadata.generation || b.prepared != *prepared) {
                    ctx.capacity.unblock_pool(name); // what was refused was another setting
                }
                let known = PoolOffers {
                    uid: pool.uid().unwrap_or_default(),
                    generation: pool.metadata.generation.unwrap_or(1),
                    prepared: prepared.clone(),
                    offers: offers.clone(),
                    listed: now,
                };
                ctx.capacity.set_offers(name, known);
                if first {
                    let _ = ctx.queues.scheduler.send(());
                }
            }
            status(&pool, &nodes, &Checked::Accepted { prepared, offers }, now)
        }
        Err(error) => {
            tracing::debug!(pool = name, class = error.class.reason(), %error, "checking the pool");
            status(&pool, &nodes, &Checked::Refused(error), now)
        }
    };
    wanted.memory = ctx.capacity.remembered(name, pool.spec.region(), kept, now);
    if leads && pool.status.as_ref() != Some(&wanted) {
        write(ctx, &pool, &wanted).await?;
    }
    let age = Duration::try_from(age).unwrap_or_default();
    Ok(Some(checked.as_ref().err().map_or(REFRESH.saturating_sub(age), |e| e.class.first_wait().min(REFRESH))))
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
    let left = nodes.iter().filter(|n| Some(&n.spec.pool_uid) == pool.metadata.uid.as_ref()).count();
    if left > 0 {
        tracing::info!(pool = name, left, "waiting for its nodes to go");
        return Ok(Some(Duration::from_secs(5)));
    }
    // Never accepted, so nothing was made for it: a pool with a wrong region or no credentials must be deletable.
    if pool.status.as_ref().is_some_and(|s| s.prepared.is_some()) {
        ctx.clouds.machines(scope).await?.release(&pool.uid().unwrap_or_default(), &ctx.settings.cluster).await?;
    }
    finalizers(ctx, pool, false).await.map(|()| None)
}

/// What the provider makes of the settings now, and what it sells. Followers do not prepare: that writes in the cloud.
async fn check(ctx: &Ctx, pool: &GpuPool, scope: &Scope, leads: bool) -> Result<Option<(Prepared, Arc<Vec<Offer>>)>, ProviderError> {
    let provider: Arc<dyn MachineProvider> = ctx.clouds.machines(scope).await?;
    let prepared = if leads {
        provider.prepare(pool, &ctx.settings.cluster).await?
    } else {
        match pool.status.as_ref().and_then(|s| s.prepared.clone()) {
            Some(value) => Prepared(value),
            None => return Ok(None),
        }
    };
    let offers = provider.offers(pool, &prepared).await?;
    if offers.iter().any(|o| o.gpus <= 0) {
        return Err(ProviderError::new(ErrorClass::Invalid, "the provider offers an instance without a GPU"));
    }
    Ok(Some((prepared, Arc::new(offers))))
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
