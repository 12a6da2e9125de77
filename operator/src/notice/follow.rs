//! What follows from a notice, in a task for each node: its pods are asked for a checkpoint, then it goes on record.

use super::plan::Action;
use crate::context::{ApiError, Ctx, within};
use crate::events;
use gpujob_crds::{GpuNode, names};
use gpujob_provider_core::{MachineProvider, Notice, NoticeSource};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::EventType;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long the pods of a node may take to be asked. The seconds of a notice are few, and a namespace's webhooks may hang.
const ASKED: Duration = Duration::from_secs(2);
/// From a pod's annotation to the file that its sidecar reads: 0.3 s were measured. Deleted before, it would never see it.
const SEEN: Duration = Duration::from_secs(1);
/// Records at a time, of all sources: nothing but the API server stands in their way.
const AT_ONCE: usize = 16;
/// How often a record is tried against others who write the same GpuNode.
const TRIES: usize = 5;

/// The right to write a record.
#[derive(Debug)]
pub(super) struct Turns(Semaphore);

impl Default for Turns {
    fn default() -> Self {
        Turns(Semaphore::new(AT_ONCE))
    }
}

/// The nodes of one source whose notices are being followed.
#[derive(Debug)]
pub(super) struct Following {
    turns: Arc<Turns>,
    shutdown: CancellationToken,
    /// By node, and whether it goes on record: that one is taken back is news to one that might be.
    tasks: BTreeMap<(String, bool), JoinHandle<()>>,
}

impl Following {
    /// Nothing is followed after `shutdown`. What was begun outlives the source: after its record a node is no reason to read it.
    pub(super) fn new(turns: &Arc<Turns>, shutdown: CancellationToken) -> Self {
        Following { turns: turns.clone(), shutdown, tasks: BTreeMap::new() }
    }

    /// Does all that this notice asks for, and has its queue forget it once that is on record. One that comes again meanwhile is left to
    /// come once more.
    pub(super) fn begin(
        &mut self,
        ctx: &Arc<Ctx>,
        provider: &Arc<dyn MachineProvider>,
        source: &NoticeSource,
        notice: Notice,
        actions: Vec<Action>,
    ) {
        self.tasks.retain(|_, task| !task.is_finished());
        let recorded = actions.iter().any(|action| matches!(action, Action::Record { .. }));
        let Some(node) = actions.first().map(|action| action.node().to_owned()) else { return };
        let (ctx, provider, source) = (ctx.clone(), provider.clone(), source.clone());
        let (turns, shutdown) = (self.turns.clone(), self.shutdown.clone());
        self.tasks.entry((node, recorded)).or_insert_with(|| {
            tokio::spawn(async move {
                let follow = async {
                    if follow(&ctx, actions, &turns).await
                        && notice.receipt.is_some()
                        && let Err(error) = provider.acknowledge(&source, std::slice::from_ref(&notice)).await
                    {
                        tracing::warn!(instance = notice.instance, %error, "acknowledging a notice; it comes again");
                    }
                };
                tokio::select! {
                    biased;
                    () = shutdown.cancelled() => {}
                    () = follow => {}
                }
            })
        });
    }
}

/// Does all of it, whatever becomes of a part. Returns whether every part went well.
async fn follow(ctx: &Arc<Ctx>, actions: Vec<Action>, turns: &Turns) -> bool {
    let (first, then): (Vec<_>, Vec<_>) = actions.into_iter().partition(|action| matches!(action, Action::Checkpoint { .. }));
    let last_words = first.iter().any(|action| matches!(action, Action::Checkpoint { taken_at: Some(_), .. }));
    let asked = first.iter().map(|action| async move {
        let answer = tokio::time::timeout(ASKED, act(ctx, action)).await;
        went_well(action, answer.unwrap_or(Err(ApiError::Timeout)))
    });
    let mut well = futures::future::join_all(asked).await.into_iter().all(|well| well);
    if last_words {
        tokio::time::sleep(SEEN).await;
    }
    for action in &then {
        let _turn = turns.0.acquire().await;
        well &= went_well(action, act(ctx, action).await);
    }
    well
}

fn went_well(action: &Action, answer: Result<(), ApiError>) -> bool {
    if let Err(error) = &answer {
        tracing::warn!(?action, %error, "a notice could not be followed; it comes again");
    }
    answer.is_ok()
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
