//! What the clouds list. One task per scope reads the listing: often while something is on its way, seldom when all is
//! settled. Each listing is kept, announced, and swept ([`crate::sweep`]).

use crate::context::Ctx;
use crate::watch::sorted;
use gpujob_crds::names;
use gpujob_provider_core::{Instance, InstanceState, Listing, MachineProvider, Scope};
use jiff::Timestamp;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// A listing and the time before which it was asked for: what is absent from it was absent then.
#[derive(Clone, Debug)]
pub struct Seen {
    /// What the cloud said.
    pub listing: Arc<Listing>,
    /// When it was asked.
    pub asked: Timestamp,
    /// Since when every listing has been complete, without a gap.
    pub complete_since: Option<Timestamp>,
    /// Positions in the listing, by the GpuNode's UID that an instance carries.
    owners: Arc<BTreeMap<String, Vec<usize>>>,
}

impl Seen {
    fn new(listing: Arc<Listing>, asked: Timestamp, complete_since: Option<Timestamp>) -> Self {
        let mut owners: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, instance) in listing.instances.iter().enumerate() {
            if let Some(uid) = instance.tags.get(names::NODE_UID_TAG) {
                owners.entry(uid.clone()).or_default().push(at);
            }
        }
        Seen { listing, asked, complete_since, owners: Arc::new(owners) }
    }

    /// The instances that carry this GpuNode's UID.
    pub fn of(&self, uid: &str) -> impl Iterator<Item = &Instance> {
        self.owners.get(uid).into_iter().flatten().map(|at| &self.listing.instances[*at])
    }
}

/// The last listing of each scope.
#[derive(Debug, Default)]
pub struct CloudView {
    seen: Mutex<BTreeMap<Scope, Seen>>,
    wanted: tokio::sync::watch::Sender<u64>,
}

impl CloudView {
    /// The last listing of this scope.
    #[must_use]
    pub fn seen(&self, scope: &Scope) -> Option<Seen> {
        self.seen.lock().expect("no panic holds this lock").get(scope).cloned()
    }

    /// Asks for a listing soon.
    pub fn refresh(&self) {
        // Counted, so that a wish which comes while a listing runs is not lost.
        self.wanted.send_modify(|n| *n += 1);
    }

    /// A listing failed: from here on absence must be shown anew.
    fn broken(&self, scope: &Scope) {
        if let Some(seen) = self.seen.lock().expect("no panic holds this lock").get_mut(scope) {
            seen.complete_since = None;
        }
    }

    fn store(&self, scope: &Scope, listing: Arc<Listing>, asked: Timestamp) -> Option<Seen> {
        let mut seen = self.seen.lock().expect("no panic holds this lock");
        let before = seen.get(scope).cloned();
        let complete_since = listing.complete.then(|| before.as_ref().and_then(|b| b.complete_since).unwrap_or(asked));
        seen.insert(scope.clone(), Seen::new(listing, asked, complete_since));
        before
    }
}

/// Lists every scope that any pool or GpuNode names, until `shutdown`. Followers list too, so that they are warm.
pub async fn run(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let mut tasks: BTreeMap<Scope, (CancellationToken, tokio::time::Instant)> = BTreeMap::new();
    loop {
        let wanted = scopes(&ctx);
        for scope in &wanted {
            let (_, used) = tasks.entry(scope.clone()).or_insert_with(|| {
                let stop = shutdown.child_token();
                tokio::spawn(poll(ctx.clone(), scope.clone(), stop.clone()));
                (stop, tokio::time::Instant::now())
            });
            *used = tokio::time::Instant::now();
        }
        // For an hour after its last user a scope is still swept: an answer that was lost may have left something there.
        tasks.retain(|_, (stop, used)| {
            let keep = used.elapsed() < Duration::from_secs(3600);
            if !keep {
                stop.cancel();
            }
            keep
        });
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// The scopes that any pool or GpuNode names.
pub(crate) fn scopes(ctx: &Ctx) -> BTreeSet<Scope> {
    let pools = ctx.stores.pools.state().into_iter().map(|p| Scope { provider: p.spec.provider().into(), region: p.spec.region().into() });
    let nodes = ctx.stores.nodes.state().into_iter().map(|n| Scope { provider: n.spec.provider.clone(), region: n.spec.region.clone() });
    pools.chain(nodes).collect()
}

async fn poll(ctx: Arc<Ctx>, scope: Scope, stop: CancellationToken) {
    let mut wishes = ctx.cloud_view.wanted.subscribe();
    let mut sweeping: Option<tokio::task::JoinHandle<()>> = None;
    loop {
        wishes.mark_unchanged();
        match list_once(&ctx, &scope).await {
            // Beside the listing: instances that do not end must not keep others from being seen. What this listing shows in vain,
            // the next one shows again.
            Ok((provider, listing)) if sweeping.as_ref().is_none_or(tokio::task::JoinHandle::is_finished) => {
                let (ctx, scope) = (ctx.clone(), scope.clone());
                sweeping = Some(tokio::spawn(async move { crate::sweep::sweep(&ctx, &scope, &provider, &listing).await }));
            }
            Ok(_) => {}
            Err(error) => {
                ctx.cloud_view.broken(&scope);
                tracing::warn!(?scope, %error, "listing instances");
            }
        }
        let pause = if moving(&ctx, &scope) { Duration::from_secs(2) } else { Duration::from_secs(15) };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = wishes.changed() => tokio::time::sleep(Duration::from_millis(200)).await,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether an instance of this scope is between states: then a fresh listing matters.
fn moving(ctx: &Ctx, scope: &Scope) -> bool {
    ctx.stores.nodes.state().iter().filter(|n| n.spec.provider == scope.provider && n.spec.region == scope.region).any(|node| {
        let status = node.status.as_ref();
        node.metadata.deletion_timestamp.is_some()
            || status.is_none_or(|s| s.instance.as_ref().is_none_or(|i| i.private_ip.is_none()) || s.node_name.is_none())
    })
}

async fn list_once(ctx: &Ctx, scope: &Scope) -> Result<(Arc<dyn MachineProvider>, Arc<Listing>), gpujob_provider_core::ProviderError> {
    let asked = ctx.clock.now();
    let provider = ctx.clouds.machines(scope).await?;
    let listing = Arc::new(provider.list(&ctx.settings.cluster).await?);
    let before = ctx.cloud_view.store(scope, listing.clone(), asked);
    announce(ctx, before.as_ref().map(|b| b.listing.as_ref()), &listing);
    Ok((provider, listing))
}

/// GpuNodes whose instance looks different from before are worth a look. So are those that wait for an absence.
fn announce(ctx: &Ctx, before: Option<&Listing>, now: &Listing) {
    let old: BTreeMap<&str, &Instance> = before.into_iter().flat_map(|l| &l.instances).map(|i| (i.id.as_str(), i)).collect();
    let new: BTreeMap<&str, &Instance> = now.instances.iter().map(|i| (i.id.as_str(), i)).collect();
    for node in sorted(&ctx.stores.nodes) {
        let id = node.status.as_ref().and_then(|s| s.instance.as_ref()).map(|i| i.id.as_str());
        let changed = id.is_none_or(|id| old.get(id) != new.get(id));
        if changed || node.metadata.deletion_timestamp.is_some() {
            let _ = ctx.queues.nodes.send(node.name_any());
        }
    }
}

/// Whether this instance costs money or soon may.
#[must_use]
pub fn is_alive(instance: &Instance) -> bool {
    matches!(instance.state, InstanceState::Pending | InstanceState::Running)
}
