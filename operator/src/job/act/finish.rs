//! Writes that take something away: reservations, finalizers, pods, the job. Gone already is as good as done.

use super::{Error, during};
use crate::context::{ApiError, Ctx, within};
use crate::job::facts::PodFact;
use crate::job::observe::JobWorld;
use crate::reservation;
use gpujob_crds::{GpuJob, Reservation, names};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy};
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};

fn jobs(ctx: &Ctx, namespace: &str) -> Api<GpuJob> {
    Api::namespaced(ctx.client.clone(), namespace)
}

fn pods(ctx: &Ctx, namespace: &str) -> Api<Pod> {
    Api::namespaced(ctx.client.clone(), namespace)
}

/// Not there any more, or not in the state that was tested: a newer view is on its way.
fn stale(error: &ApiError) -> bool {
    let invalid = matches!(error, ApiError::Kube(e) if matches!(e.as_ref(), kube::Error::Api(s) if s.code == 422));
    error.is_not_found() || invalid
}

/// JSON patch operations as a patch. They test what they change, as nothing else ties them to a version.
fn patch<K: serde::Serialize>(operations: Value) -> Result<Patch<K>, Error> {
    let operations =
        serde_json::from_value(operations).map_err(|e| Error::Refused { reason: "Internal", message: format!("not a JSON patch: {e}") })?;
    Ok(Patch::Json(operations))
}

pub(super) async fn add_job_finalizer(ctx: &Ctx, world: &JobWorld) -> Result<(), Error> {
    let there = world.job.finalizers();
    let add = match there {
        [] => json!([
            {"op": "test", "path": "/metadata/finalizers", "value": null},
            {"op": "add", "path": "/metadata/finalizers", "value": [names::JOB_FINALIZER]},
        ]),
        _ => json!([
            {"op": "test", "path": "/metadata/finalizers", "value": there},
            {"op": "add", "path": "/metadata/finalizers/-", "value": names::JOB_FINALIZER},
        ]),
    };
    patch_job(ctx, world, add).await
}

pub(super) async fn remove_job_finalizer(ctx: &Ctx, world: &JobWorld) -> Result<(), Error> {
    let position = world.job.finalizers().iter().position(|f| f == names::JOB_FINALIZER);
    let Some(position) = position else { return Ok(()) };
    patch_job(ctx, world, remove(position, names::JOB_FINALIZER)).await
}

fn remove(position: usize, finalizer: &str) -> Value {
    let path = format!("/metadata/finalizers/{position}");
    json!([{"op": "test", "path": path, "value": finalizer}, {"op": "remove", "path": path}])
}

/// The UID is tested first: a job of the same name that was applied since is another job.
fn tested(uid: &str, operations: Value) -> Value {
    let mut all = vec![json!({"op": "test", "path": "/metadata/uid", "value": uid})];
    all.extend(operations.as_array().cloned().unwrap_or_default());
    Value::Array(all)
}

async fn patch_job(ctx: &Ctx, world: &JobWorld, operations: Value) -> Result<(), Error> {
    let api = jobs(ctx, &world.job.namespace().unwrap_or_default());
    let patch: Patch<GpuJob> = patch(tested(world.uid(), operations))?;
    match within(api.patch(&world.job.name_any(), &PatchParams::default(), &patch)).await {
        Err(error) if stale(&error) => Ok(()),
        other => other.map(drop).map_err(during("changing the job's finalizers")),
    }
}

pub(super) async fn remove_pod_finalizer(ctx: &Ctx, namespace: &str, name: &str, uid: &str, position: usize) -> Result<(), Error> {
    let patch: Patch<Pod> = patch(tested(uid, remove(position, names::POD_FINALIZER)))?;
    match within(pods(ctx, namespace).patch(name, &PatchParams::default(), &patch)).await {
        Err(error) if stale(&error) => Ok(()),
        other => other.map(drop).map_err(during("taking the finalizer off a pod")),
    }
}

pub(super) async fn delete_pod(ctx: &Ctx, world: &JobWorld, name: &str, uid: &str, grace: Option<u32>) -> Result<(), Error> {
    let params = DeleteParams { grace_period_seconds: grace, ..only(uid) };
    match within(pods(ctx, &world.job.namespace().unwrap_or_default()).delete(name, &params)).await {
        // A conflict here is another UID: the one that was meant is gone.
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map(drop).map_err(during("deleting a pod")),
    }
}

pub(super) async fn delete_job(ctx: &Ctx, world: &JobWorld) -> Result<(), Error> {
    let params = DeleteParams { propagation_policy: Some(PropagationPolicy::Background), ..only(world.uid()) };
    let api = jobs(ctx, &world.job.namespace().unwrap_or_default());
    match within(api.delete(&world.job.name_any(), &params)).await {
        Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
        other => other.map(drop).map_err(during("deleting the job")),
    }
}

fn only(uid: &str) -> DeleteParams {
    DeleteParams { preconditions: Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None }), ..DeleteParams::default() }
}

/// Writes the reservations that stay. With the version that they were read in: a reservation added since is not lost, the
/// API server refuses and we look again.
pub(super) async fn release(ctx: &Ctx, node: &str, resource_version: &str, remaining: &[Reservation]) -> Result<(), Error> {
    match reservation::keep(ctx, node, resource_version, remaining).await {
        Err(error) if error.is_not_found() => Ok(()),
        other => other.map(drop).map_err(during("releasing a reservation")),
    }
}

/// Pods whose job is no more, or is another one of that name: nobody will record their outcome, so they are let go. A live
/// read decides, never the cache.
pub(super) async fn orphans(ctx: &Ctx, job: &ObjectRef<GpuJob>) -> Result<(), Error> {
    let namespace = job.namespace.clone().unwrap_or_default();
    let known = ctx.stores.jobs.get(job).and_then(|j| j.uid());
    let suspects: Vec<_> = ctx
        .stores
        .pods_named(&namespace, &job.name)
        .into_iter()
        .filter(|p| p.labels().get(names::JOB_UID) != known.as_ref())
        .filter_map(|p| PodFact::of(&p).filter(PodFact::held).zip(p.labels().get(names::JOB_UID).cloned()))
        .collect();
    if suspects.is_empty() {
        return Ok(());
    }
    let live = within(jobs(ctx, &namespace).get_opt(&job.name)).await.map_err(during("reading the job"))?.and_then(|j| j.uid());
    for (pod, uid) in suspects.into_iter().filter(|(_, uid)| live.as_ref() != Some(uid)) {
        tracing::info!(pod = pod.name, job_uid = uid, "letting go of a pod whose job is gone");
        let position = pod.finalizers.iter().position(|f| f == names::POD_FINALIZER).unwrap_or(0);
        remove_pod_finalizer(ctx, &namespace, &pod.name, &pod.uid, position).await?;
    }
    Ok(())
}
