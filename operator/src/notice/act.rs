//! Reads the sources, and writes what follows.

use super::observe::{Source, observe, sources};
use super::plan::{Action, plan};
use crate::context::{ApiError, Ctx, within};
use crate::events;
use crate::watch::sorted;
use futures::StreamExt;
use gpujob_crds::{GpuNode, names};
use gpujob_provider_core::{Notice, NoticeSource, ProviderError, Scope};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
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
/// From a pod's annotation to the file that its sidecar reads: 0.3 s were measured. Deleted before, it would never see it.
const SEEN: Duration = Duration::from_secs(1);
/// Writes at a time.
const AT_ONCE: usize = 8;
/// How often a record is tried against others who write the same GpuNode.
const TRIES: usize = 5;

/// Reads every source that is worth it, each in its own task, until `shutdown`.
pub async fn run(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let mut tasks: BTreeMap<Source, CancellationToken> = BTreeMap::new();
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
                tokio::spawn(read(ctx.clone(), source, stop.clone()));
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

async fn read(ctx: Arc<Ctx>, (scope, source): Source, stop: CancellationToken) {
    let mut silent = false;
    loop {
        let asked = Instant::now();
        // Cancelled between questions only: an answer that came is acted on.
        match look(&ctx, &scope, &source).await {
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

/// One question, and all that follows from the answer.
async fn look(ctx: &Arc<Ctx>, scope: &Scope, source: &NoticeSource) -> Result<(), ProviderError> {
    let provider = ctx.clouds.machines(scope).await?;
    let notices = provider.notices(source).await?;
    if notices.is_empty() || !ctx.leader.is_leader() {
        return Ok(());
    }
    let wanted = plan(&observe(ctx, scope), &notices, ctx.clock.now()).wanted;
    let all: Vec<usize> = wanted.keys().copied().collect();
    let (first, then): (Vec<_>, Vec<_>) = wanted
        .into_iter()
        .flat_map(|(index, actions)| actions.into_iter().map(move |action| (index, action)))
        .partition(|(_, action)| matches!(action, Action::Checkpoint { .. }));
    let last_words = first.iter().any(|(_, action)| matches!(action, Action::Checkpoint { taken_at: Some(_), .. }));
    let mut failed = act_all(ctx, first).await;
    if last_words {
        tokio::time::sleep(SEEN).await;
    }
    failed.extend(act_all(ctx, then).await);
    let done = all.iter().filter(|index| !failed.contains(index));
    let forget: Vec<Notice> = done.filter_map(|index| notices.get(*index)).filter(|n| n.receipt.is_some()).cloned().collect();
    // Only what is on record, or nobody's here.
    if !forget.is_empty() {
        provider.acknowledge(source, &forget).await?;
    }
    Ok(())
}

/// Does all of it, whatever becomes of a part. Returns the notices of which some part failed.
async fn act_all(ctx: &Arc<Ctx>, actions: Vec<(usize, Action)>) -> BTreeSet<usize> {
    let all = futures::stream::iter(actions).map(|(index, action)| async move {
        let answer = act(ctx, &action).await;
        (index, action, answer)
    });
    let mut failed = BTreeSet::new();
    let mut answers = all.buffer_unordered(AT_ONCE);
    while let Some((index, action, answer)) = answers.next().await {
        if let Err(error) = answer {
            tracing::warn!(?action, %error, "a notice could not be recorded; it comes again");
            failed.insert(index);
        }
    }
    failed
}

async fn act(ctx: &Arc<Ctx>, action: &Action) -> Result<(), ApiError> {
    match action {
        Action::Record { node, instance, taken_at, code } => record(ctx, node, instance, *taken_at, code).await,
        Action::Checkpoint { namespace, pod, uid, node, taken_at } => checkpoint(ctx, namespace, pod, uid, node, *taken_at).await,
    }
}

/// Records the notice on the very instance that it is about. By compare-and-set: the node controller and the reservations write
/// the same status, and what they wrote meanwhile must stand.
async fn record(ctx: &Arc<Ctx>, name: &str, instance: &str, taken_at: Timestamp, code: &str) -> Result<(), ApiError> {
    let api = Api::<GpuNode>::all(ctx.client.clone());
    for _ in 0..TRIES {
        let Some(node) = within(api.get_opt(name)).await? else { return Ok(()) };
        let known = node.status.as_ref().and_then(|s| s.instance.as_ref());
        let Some(known) = known.filter(|i| i.id == instance && !node.is_leaving()) else { return Ok(()) };
        let now = ctx.clock.now();
        let patch = json!({
            "metadata": {"uid": node.uid(), "resourceVersion": node.resource_version()},
            "status": {"interrupted": Time(now), "takenAt": Time(taken_at)},
        });
        match within(api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
            Ok(_) => {}
            Err(error) if error.is_conflict() => continue,
            Err(error) if error.is_not_found() => return Ok(()),
            Err(error) => return Err(error),
        }
        tracing::warn!(node = name, instance, code, %taken_at, "the cloud takes an instance back");
        ctx.capacity.interrupted(&node.spec.region, known.market, &known.instance_type, &known.zone, now);
        let _ = ctx.queues.pools.send(node.spec.pool.clone()); // it keeps what was taken back
        let left = taken_at.duration_since(now).as_secs().max(0);
        tell(
            ctx,
            &node,
            "Interrupted",
            &format!("The cloud takes {instance} back in {left} s ({code}): its work ends, and goes on elsewhere."),
        );
        return Ok(());
    }
    Err(ApiError::Timeout)
}

/// Has the pod of an attempt save a checkpoint and go on: its sidecar sees the annotation through the downward API.
async fn checkpoint(
    ctx: &Arc<Ctx>,
    namespace: &str,
    name: &str,
    uid: &str,
    node: &str,
    taken_at: Option<Timestamp>,
) -> Result<(), ApiError> {
    let api: Api<Pod> = Api::namespaced(ctx.client.clone(), namespace);
    let now = ctx.clock.now();
    let mut patch = json!({"metadata": {"uid": uid, "annotations": {names::CHECKPOINT: now.to_string()}}});
    if let Some(at) = taken_at {
        patch["metadata"]["annotations"][names::TAKEN_AT] = json!(at.to_string());
    }
    match within(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(pod) => {
            tracing::info!(pod = name, namespace, node, "asked to save a checkpoint");
            let (recorder, about) = (ctx.recorder.clone(), pod.object_ref(&()));
            let note = match taken_at {
                Some(at) => format!("{node} is taken back at {at}: a checkpoint is saved."),
                None => format!("{node} is likely to be taken back: a checkpoint is saved, the program goes on."),
            };
            tokio::spawn(async move { events::tell(&recorder, &about, EventType::Normal, "CheckpointAsked", "Checkpoint", &note).await });
            Ok(())
        }
        // Gone, or another pod of that name: nobody is left to save anything.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Tells of it beside the work: an event must not hold up the next record.
fn tell(ctx: &Ctx, node: &GpuNode, reason: &'static str, note: &str) {
    let (recorder, about, note) = (ctx.recorder.clone(), node.object_ref(&()), note.to_owned());
    tokio::spawn(async move { events::tell(&recorder, &about, EventType::Warning, reason, "Drain", &note).await });
}
