//! Performs a job's plan: the status first, then the actions in order, stopping at the first that does not go through.
//! Leader only. Every write carries a precondition, so that what was planned on an old view is refused.

mod create;
mod finish;

use super::events::transitions;
use super::observe::{JobWorld, around, observe};
use super::plan::{self, Action, Plan};
use super::pod::{Image, PodError};
use crate::context::{ApiError, Ctx, within};
use gpujob_crds::{GpuJob, GpuJobStatus, GpuNode};
use gpujob_transfer::receipt::Holder;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// The field manager of everything that this controller applies.
pub const MANAGER: &str = "gpujob/job";
/// When to look again after somebody else wrote first: the watch usually brings the newer version before that.
const AFTER_CONFLICT: Duration = Duration::from_secs(1);

/// Why a pass over a job did not end well.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed: try again later.
    #[error("{what}: {source}")]
    Api {
        /// What was being done.
        what: &'static str,
        /// The answer.
        source: ApiError,
    },
    /// A pod could not be made for a reason that may pass, such as a full quota: it is tried again, and people are told.
    #[error("making a pod: {0}")]
    NotMade(ApiError),
    /// The job cannot be run as it is: it ends with this reason, there is nothing to retry.
    #[error("{reason}: {message}")]
    Refused {
        /// One CamelCase word.
        reason: &'static str,
        /// A sentence for people.
        message: String,
    },
}

impl From<PodError> for Error {
    fn from(error: PodError) -> Self {
        Error::Refused { reason: "InvalidTemplate", message: error.to_string() }
    }
}

/// Names what a call was for.
fn during(what: &'static str) -> impl FnOnce(ApiError) -> Error {
    move |source| Error::Api { what, source }
}

/// One pass: observe, plan, act. Returns when to come back if nothing changes before; `None`: not at all.
///
/// # Errors
/// The API server's. The caller tries again with backoff.
pub async fn reconcile(job: &ObjectRef<GpuJob>, ctx: &Ctx) -> Result<Option<Duration>, Error> {
    if !ctx.leader.is_leader() {
        return Ok(None);
    }
    finish::orphans(ctx, job).await?;
    let Some(mut world) = observe(job, &ctx.stores) else { return Ok(None) };
    if let Some(wait) = ctx.outdated.wait(world.job.as_ref()) {
        return Ok(Some(wait));
    }
    world.draining = ctx.leader.is_draining();
    confirm(ctx, &mut world).await?;
    let now = ctx.clock.now();
    let plan = plan::plan(&world, now);
    tracing::debug!(job = %job, why = plan.why, actions = plan.actions.len(), "plan");
    match perform(ctx, &world, &plan).await {
        Ok(()) => {}
        Err(Error::Api { source, .. }) if source.is_conflict() => return Ok(Some(AFTER_CONFLICT)),
        Err(Error::Refused { reason, message }) => {
            // What the API server or the template says no to, it will say no to again: the job ends, with those words.
            tracing::info!(job = %job, reason, message, "refused");
            let plan = plan::refused(&world, ctx.clock.now(), reason, &message);
            match write_status(ctx, &world, &plan).await {
                Err(Error::Api { source, .. }) if source.is_conflict() => return Ok(Some(AFTER_CONFLICT)),
                other => other?,
            }
        }
        Err(Error::NotMade(why)) => {
            world.not_made = Some(why.words());
            match write_status(ctx, &world, &plan::plan(&world, now)).await {
                Err(Error::Api { source, .. }) if source.is_conflict() => return Ok(Some(AFTER_CONFLICT)),
                other => other?,
            }
            return Err(Error::NotMade(why));
        }
        Err(error) => return Err(error),
    }
    Ok(plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or(Duration::ZERO).max(Duration::from_millis(10))))
}

/// Reads from the API server what no cache may decide: whether what the open attempt has on record and the caches do not show is
/// gone (a fresh leader's caches may be older than the status, and a pod or node taken for vanished would have the attempt run
/// again), and whether the job that holds this one's destination is.
async fn confirm(ctx: &Ctx, world: &mut JobWorld) -> Result<(), Error> {
    missing(ctx, world).await?;
    if let Some(holder) = world.suspect(&ctx.settings.cluster)
        && gone(ctx, &holder).await?
    {
        tracing::info!(job = %world.job.name_any(), holder = holder.job, uid = holder.uid, "its destination is held by a job that is gone");
        world.gone.push(holder.uid);
    }
    Ok(())
}

/// Whether a job of this cluster is no more. Its UID counts: the same name may be another job's by now. A name is an object's for life,
/// so nothing else has to be read.
async fn gone(ctx: &Ctx, holder: &Holder) -> Result<bool, Error> {
    let Some((namespace, name)) = holder.job.split_once('/').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty()) else {
        return Ok(false);
    };
    let api: Api<GpuJob> = Api::namespaced(ctx.client.clone(), namespace);
    let live = within(api.get_opt(name)).await.map_err(during("reading the job that holds the destination"))?;
    Ok(live.and_then(|job| job.uid()).as_ref() != Some(&holder.uid))
}

async fn missing(ctx: &Ctx, world: &mut JobWorld) -> Result<(), Error> {
    let (node, pod) = (world.missing_node(), world.missing_pod());
    if node.is_none() && pod.is_none() {
        return Ok(());
    }
    let (mut nodes, mut pods) = around(&world.job, &ctx.stores);
    if let Some(name) = &node
        && let Some(there) = within(Api::<GpuNode>::all(ctx.client.clone()).get_opt(name)).await.map_err(during("reading a GpuNode"))?
    {
        nodes.push(Arc::new(there));
    }
    if let Some(name) = &pod {
        let api: Api<Pod> = Api::namespaced(ctx.client.clone(), &world.job.namespace().unwrap_or_default());
        if let Some(there) = within(api.get_opt(name)).await.map_err(during("reading a pod"))? {
            pods.push(Arc::new(there));
        }
    }
    *world = JobWorld { draining: world.draining, ..JobWorld::new(world.job.clone(), &nodes, &pods) };
    Ok(())
}

async fn perform(ctx: &Ctx, world: &JobWorld, plan: &Plan) -> Result<(), Error> {
    // What the pod needs is on record before it is planned. That it is being made is said with its UID a moment later, and why it
    // cannot be made by the caller: one write less of every attempt, and none to and fro while it is refused.
    let made = |a: &Action| matches!(a, Action::CreateAttemptPod(_) | Action::CreateStoragePod { .. });
    let held_back = plan.actions.iter().any(made) && only_words(&world.recorded(), &plan.status);
    if !held_back {
        write_status(ctx, world, plan).await?;
    }
    for action in &plan.actions {
        tracing::info!(job = %world.job.name_any(), namespace = world.job.namespace(), ?action, "act");
        if let Err(error) = act(ctx, world, action).await {
            if held_back && matches!(error, Error::Api { .. }) {
                write_status(ctx, world, plan).await?;
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Whether two statuses differ in nothing but what they say to people: the state's word, and conditions' reasons and messages.
fn only_words(old: &GpuJobStatus, new: &GpuJobStatus) -> bool {
    let silent = |status: &GpuJobStatus| {
        let mut status = status.clone();
        status.state = None;
        for condition in &mut status.conditions {
            (condition.reason, condition.message) = Default::default();
        }
        status
    };
    silent(old) == silent(new)
}

/// Applies this controller's part of the status, whole, unless it is there already. With the version that was observed:
/// the same field manager never conflicts with itself, so nothing else would stop an older view from undoing a newer one.
async fn write_status(ctx: &Ctx, world: &JobWorld, plan: &Plan) -> Result<(), Error> {
    let recorded = world.recorded();
    if plan.status == recorded {
        return Ok(());
    }
    let job = &world.job;
    let body = json!({
        "apiVersion": GpuJob::api_version(&()), "kind": GpuJob::kind(&()),
        "metadata": {"name": job.name_any(), "namespace": job.namespace(), "uid": job.uid(), "resourceVersion": job.resource_version()},
        "status": plan.status,
    });
    let api: Api<GpuJob> = Api::namespaced(ctx.client.clone(), &job.namespace().unwrap_or_default());
    let params = PatchParams::apply(MANAGER).force();
    match within(api.patch_status(&job.name_any(), &params, &Patch::Apply(&body))).await {
        Err(error) if error.is_not_found() => return Ok(()),
        Err(error) => {
            if error.is_conflict() {
                ctx.outdated.refused(job.as_ref());
            }
            return Err(during("writing the status")(error));
        }
        Ok(written) => ctx.outdated.wrote(&written),
    }
    if recorded.completion_time.is_none() && plan.status.completion_time.is_some() {
        ctx.metrics.job_ended(if plan.status.state.as_deref() == Some("Succeeded") { "succeeded" } else { "failed" });
    }
    let reference = job.object_ref(&());
    for event in transitions(&recorded, &plan.status) {
        // Telling is best effort: it must not fail what it tells of.
        if tokio::time::timeout(Duration::from_secs(2), ctx.recorder.publish(&event, &reference)).await.is_err() {
            tracing::debug!(reason = event.reason, "event not published");
        }
    }
    Ok(())
}

fn image(ctx: &Ctx) -> Image {
    Image {
        name: ctx.settings.transfer_image.clone(),
        pull_policy: ctx.settings.transfer_image_pull_policy.clone(),
        cluster: ctx.settings.cluster.clone(),
    }
}

async fn act(ctx: &Ctx, world: &JobWorld, action: &Action) -> Result<(), Error> {
    match action {
        Action::AddJobFinalizer => finish::add_job_finalizer(ctx, world).await,
        Action::RemoveJobFinalizer => finish::remove_job_finalizer(ctx, world).await,
        Action::CreateAttemptPod(target) => create::attempt_pod(ctx, world, target).await,
        Action::SaveLog { pod, container } => create::save_log(ctx, world, pod, container.as_deref()).await,
        Action::CreateStoragePod { target, task, pod_uid } => create::storage_pod(ctx, world, target, *task, pod_uid).await,
        Action::DeletePod { name, uid, grace } => finish::delete_pod(ctx, world, name, uid, *grace).await,
        Action::Release { node, resource_version, remaining } => finish::release(ctx, node, resource_version, remaining).await,
        Action::RemovePodFinalizer { name, uid, position } => {
            finish::remove_pod_finalizer(ctx, &world.job.namespace().unwrap_or_default(), name, uid, *position).await
        }
        Action::DeleteJob => finish::delete_job(ctx, world).await,
    }
}
