//! Reads the sources: each in a task of its own.

use super::follow::Following;
use super::observe::{Source, observe, sources};
use super::plan::plan;
use crate::context::Ctx;
use crate::watch::sorted;
use gpujob_provider_core::{NoticeSource, ProviderError, Scope};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// From one question to the next: with the answer's own time a notice is seen within 5 s.
const EVERY: Duration = Duration::from_secs(4);
/// How soon a new spot instance makes its source worth reading.
const LOOK: Duration = Duration::from_secs(1);
/// After a queue that could not be read: unlike a question it has no pace of its own.
const AFTER_FAILURE: Duration = Duration::from_secs(2);

/// Reads every source that is worth it, each in its own task, until `shutdown`.
pub async fn run(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let mut tasks: BTreeMap<Source, CancellationToken> = BTreeMap::new();
    let turns = Arc::default();
    loop {
        let wanted = match ctx.leader.is_leader() {
            true => sources(&sorted(&ctx.stores.nodes), &sorted(&ctx.stores.pools)),
            false => Default::default(),
        };
        tasks.retain(|source, stop| {
            let keep = wanted.contains(source);
            if !keep {
                stop.cancel();
            }
            keep
        });
        for source in wanted {
            tasks.entry(source.clone()).or_insert_with(|| {
                let stop = shutdown.child_token();
                let following = Following::new(&turns, shutdown.clone());
                tokio::spawn(read(ctx.clone(), source, following, stop.clone()));
                stop
            });
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

async fn read(ctx: Arc<Ctx>, (scope, source): Source, mut following: Following, stop: CancellationToken) {
    let mut silent = false;
    loop {
        let asked = Instant::now();
        // Cancelled between questions only: an answer that came is acted on.
        match look(&ctx, &scope, &source, &mut following).await {
            Ok(()) => silent = false,
            Err(error) => {
                if !std::mem::replace(&mut silent, true) {
                    tracing::warn!(?scope, ?source, class = error.class.reason(), %error, "reading notices: said once until it works again");
                }
            }
        }
        let next = match &source {
            NoticeSource::Poll => asked + EVERY,
            NoticeSource::Queue(_) if silent => Instant::now() + AFTER_FAILURE,
            NoticeSource::Queue(_) => Instant::now(),
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(next.max(asked + Duration::from_millis(50))) => {}
        }
    }
}

/// One question. What follows from the answer has tasks of its own: one node's pods, whose API server or webhooks may not answer, delay no
/// other node's record, nor the next question.
async fn look(ctx: &Arc<Ctx>, scope: &Scope, source: &NoticeSource, following: &mut Following) -> Result<(), ProviderError> {
    let provider = ctx.clouds.machines(scope).await?;
    let notices = provider.notices(source).await?;
    if notices.is_empty() || !ctx.leader.is_leader() {
        return Ok(());
    }
    let mut nobodys = vec![];
    for (index, actions) in plan(&observe(ctx, scope), &notices, ctx.clock.now()).wanted {
        let Some(notice) = notices.get(index) else { continue };
        match actions.is_empty() {
            true => nobodys.push(notice.clone()),
            false => following.begin(ctx, &provider, source, notice.clone(), actions),
        }
    }
    nobodys.retain(|n| n.receipt.is_some());
    if !nobodys.is_empty() {
        provider.acknowledge(source, &nobodys).await?;
    }
    Ok(())
}
