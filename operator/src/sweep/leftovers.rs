//! Disks and templates.

use super::plan::{World, removable};
use crate::cloud::scopes;
use crate::context::{ApiError, Ctx, within};
use futures::StreamExt;
use gpujob_crds::{GpuNode, GpuPool};
use gpujob_provider_core::{Leftover, ProviderError, Scope};
use kube::api::{Api, ListParams};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often a scope is swept though nothing has ended.
const EVERY: Duration = Duration::from_secs(300);
/// How soon after the end of a GpuNode or pool: its disk goes a little after its instance.
const AFTER_AN_END: Duration = Duration::from_secs(30);
/// How often it is looked whether something has ended.
const LOOK: Duration = Duration::from_secs(5);
/// A scope without a user is swept for as long as its instances are.
const LONG: Duration = Duration::from_secs(3600);
/// How many are removed at a time.
const AT_ONCE: usize = 4;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Provider(#[from] ProviderError),
}

/// When a scope is swept next, and when somebody last used it.
struct Due {
    at: Instant,
    used: Instant,
}

/// Sweeps every scope, each in its own task and never two of one scope, until `shutdown`.
pub async fn run(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let mut due: BTreeMap<Scope, Due> = BTreeMap::new();
    let (mut before, mut tasks) = (BTreeSet::new(), JoinSet::new());
    let mut running: BTreeSet<Scope> = BTreeSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(done) = tasks.join_next() => {
                if let Ok(scope) = done {
                    running.remove(&scope);
                }
                continue;
            }
            () = tokio::time::sleep(LOOK) => {}
        }
        let now = Instant::now();
        let all = uids(&ctx);
        let ended = before.iter().any(|uid| !all.contains(uid));
        before = all;
        for scope in scopes(&ctx) {
            due.entry(scope).and_modify(|d| d.used = now).or_insert(Due { at: now + AFTER_AN_END, used: now });
        }
        due.retain(|_, d| now.duration_since(d.used) < LONG);
        for (scope, due) in &mut due {
            if ended {
                due.at = due.at.min(now + AFTER_AN_END);
            }
            if now < due.at || !ctx.leader.is_leader() || !running.insert(scope.clone()) {
                continue;
            }
            due.at = now + EVERY;
            let (ctx, scope) = (ctx.clone(), scope.clone());
            tasks.spawn(async move {
                if let Err(error) = sweep(&ctx, &scope).await {
                    tracing::warn!(?scope, %error, "sweeping disks and templates: tried again later");
                }
                scope
            });
        }
    }
}

/// Everything whose end may leave something behind.
fn uids(ctx: &Ctx) -> BTreeSet<String> {
    let nodes = ctx.stores.nodes.state().into_iter().filter_map(|n| n.metadata.uid.clone());
    nodes.chain(ctx.stores.pools.state().into_iter().filter_map(|p| p.metadata.uid.clone())).collect()
}

async fn sweep(ctx: &Ctx, scope: &Scope) -> Result<(), Error> {
    let provider = ctx.clouds.machines(scope).await?;
    let leftovers = provider.leftovers(&ctx.settings.cluster).await?;
    if leftovers.is_empty() {
        return Ok(());
    }
    let nodes = within(Api::<GpuNode>::all(ctx.client.clone()).list(&ListParams::default())).await?;
    let pools = within(Api::<GpuPool>::all(ctx.client.clone()).list(&ListParams::default())).await?;
    let world = World {
        nodes: nodes.items.into_iter().map(Arc::new).collect(),
        pools: pools.items.into_iter().map(Arc::new).collect(),
        used: ctx.prefetch.used(),
    };
    if !ctx.leader.is_leader() {
        return Ok(());
    }
    let provider = &provider;
    let gone: Vec<Leftover> = removable(&leftovers, &world, ctx.clock.now()).into_iter().cloned().collect();
    let removals = gone.into_iter().map(|one| async move {
        tracing::info!(?scope, kind = ?one.kind, id = one.id, name = one.name, "removing what nobody owns");
        if let Err(error) = provider.remove(&one).await {
            tracing::warn!(id = one.id, %error, "removing it failed, the next sweep tries again");
        }
    });
    futures::stream::iter(removals).buffer_unordered(AT_ONCE).collect::<()>().await;
    Ok(())
}
