//! Does what the plan of a GpuNode says. The status is written first, by compare-and-set; then each action, each safe to
//! repeat.

use super::observe::{LaunchAnswer, NodeWorld, observe, scope};
use super::plan::{Action, NEVER_JOINED, NO_GPU, SILENT, plan};
use crate::context::{ApiError, Ctx, within};
use gpujob_crds::node::{GpuNodeStatus, InstanceStatus};
use gpujob_crds::{GpuJob, GpuNode, conditions, names};
use gpujob_provider_core::{ErrorClass, LaunchCall, Refusal, Terminated};
use jiff::SignedDuration;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PatchParams, Preconditions};
use serde_json::json;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What this process knows of launches beyond the API: those on the wire, and the answers that were no success. Lost in a
/// crash, and then learned again by sending the same request.
#[derive(Debug, Default)]
pub struct Launches(Mutex<HashMap<String, Sent>>);

#[derive(Clone, Debug, Default)]
struct Sent {
    on_the_wire: bool,
    /// It succeeded then: for a while its record may not have reached the cache.
    launched: Option<jiff::Timestamp>,
    tries: u32,
    /// A send was not answered: until a look at the cloud says otherwise it may have been obeyed.
    unsure: bool,
    answer: Option<LaunchAnswer>,
    /// When each instance was last told to end.
    ended: HashMap<String, jiff::Timestamp>,
}

/// Why a look at a GpuNode failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The provider.
    #[error(transparent)]
    Provider(#[from] gpujob_provider_core::ProviderError),
}

/// One look at one GpuNode. Returns when to look again.
///
/// # Errors
/// When a write or call failed: look again later.
pub async fn reconcile(name: &str, ctx: &Arc<Ctx>, launches: &Arc<Launches>) -> Result<Option<Duration>, Error> {
    let Some(node) = ctx.stores.nodes.get(&kube::runtime::reflector::ObjectRef::new(name)) else {
        return Ok(None);
    };
    let uid = node.uid().unwrap_or_default();
    let sent = launches.0.lock().expect("no panic holds this lock").get(&uid).cloned().unwrap_or_default();
    let now = ctx.clock.now();
    let settling = sent.launched.is_some_and(|at| now.duration_since(at) < SignedDuration::from_secs(30));
    let world = observe(ctx, node, sent.answer, sent.on_the_wire || settling);
    let plan = plan(&world, now);
    if !ctx.leader.is_leader() {
        return Ok(None);
    }
    let mut version = world.node.resource_version().unwrap_or_default();
    if world.node.status.as_ref() != Some(&plan.status) {
        match write_status(ctx, &world.node, &plan.status, &version).await {
            Ok(written) => version = written.resource_version().unwrap_or_default(),
            // Somebody reserved or released meanwhile: the watch brings the newer version, and with it another look.
            Err(error) if error.is_conflict() || error.is_not_found() => return Ok(Some(Duration::from_millis(100))),
            Err(error) => return Err(error.into()),
        }
    }
    for action in &plan.actions {
        tracing::debug!(node = name, ?action, "acting");
        act(ctx, launches, &world, action, &version).await?;
    }
    Ok(plan.wake.map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default().max(Duration::from_millis(50))))
}

async fn act(ctx: &Arc<Ctx>, launches: &Arc<Launches>, world: &NodeWorld, action: &Action, version: &str) -> Result<(), Error> {
    let (node, name) = (&world.node, world.node.name_any());
    let nodes = Api::<GpuNode>::all(ctx.client.clone());
    match action {
        Action::Launch => start_launch(ctx, launches, node),
        Action::VerifyReservation(uid) => verify_reservation(ctx, node, uid, version).await?,
        Action::Adopt(kube_node) => adopt(ctx, world, kube_node).await?,
        Action::Reclaim(why) => {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: node.uid(), resource_version: Some(version.to_owned()) }),
                ..Default::default()
            };
            match within(nodes.delete(&name, &params)).await {
                Ok(_) => {
                    tracing::info!(node = name, why, "giving the instance back");
                    count_given_up(ctx, node, why);
                }
                Err(error) if error.is_conflict() || error.is_not_found() => {} // not the version that was seen empty
                Err(error) => return Err(error.into()),
            }
        }
        Action::Terminate(id) if told_lately(ctx, launches, node, id) => {}
        Action::Terminate(id) => {
            let provider = ctx.clouds.machines(&scope(node)).await?;
            let call = ctx.metrics.provider_call(&node.spec.provider, "terminate");
            let answer = call.done(provider.terminate(id).await)?;
            tracing::info!(node = name, id, gone = answer == Terminated::Gone, "terminating");
            ctx.cloud_view.refresh();
        }
        Action::DeleteNode(kube_node) => {
            let api = Api::<k8s_openapi::api::core::v1::Node>::all(ctx.client.clone());
            ignore_absent(within(api.delete(kube_node, &DeleteParams::default())).await.map(|_| ()))?;
        }
        Action::RemoveFinalizer => {
            let rest: Vec<&String> = node.finalizers().iter().filter(|f| *f != names::NODE_FINALIZER).collect();
            let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": version, "finalizers": rest}});
            ignore_absent(within(nodes.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await.map(|_| ()))?;
            launches.0.lock().expect("no panic holds this lock").remove(&node.uid().unwrap_or_default());
        }
    }
    Ok(())
}

/// Counts an instance that did not become what was bought, by what a person would look for: the image, the type, the zone.
fn count_given_up(ctx: &Ctx, node: &GpuNode, why: &str) {
    let Some(step) = [(NEVER_JOINED, "join"), (NO_GPU, "gpu"), (SILENT, "silent")].iter().find(|(text, _)| *text == why).map(|(_, s)| s)
    else {
        return;
    };
    let offers = ctx.capacity.offers(&node.spec.pool);
    let image = offers.as_ref().and_then(|o| o.prepared.image()).unwrap_or("unknown");
    let instance = node.status.as_ref().and_then(|s| s.instance.as_ref());
    let (instance_type, zone) = instance.map_or(("unknown", "unknown"), |i| (i.instance_type.as_str(), i.zone.as_str()));
    ctx.metrics.gave_up(step, image, instance_type, zone);
}

/// Whether this instance was told to end within the last seconds. Its end is announced by every listing, and each of them
/// would have it told again.
fn told_lately(ctx: &Ctx, launches: &Launches, node: &GpuNode, id: &str) -> bool {
    let now = ctx.clock.now();
    let mut known = launches.0.lock().expect("no panic holds this lock");
    let ended = &mut known.entry(node.uid().unwrap_or_default()).or_default().ended;
    let lately = ended.get(id).is_some_and(|at| now.duration_since(*at) < SignedDuration::from_secs(15));
    if !lately {
        ended.insert(id.to_owned(), now);
    }
    lately
}

fn ignore_absent(result: Result<(), ApiError>) -> Result<(), ApiError> {
    result.or_else(|error| if error.is_not_found() || error.is_conflict() { Ok(()) } else { Err(error) })
}

/// The whole status of this controller, by merge patch on the version that was read. `assignments` travels along as read:
/// a conflict says that somebody changed it.
async fn write_status(ctx: &Ctx, node: &GpuNode, status: &GpuNodeStatus, version: &str) -> Result<GpuNode, ApiError> {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    for field in ["idleSince", "nodeName", "instance"] {
        if value.get(field).is_none() {
            value[field] = serde_json::Value::Null; // a merge patch keeps what it does not name
        }
    }
    let patch = json!({"metadata": {"uid": node.uid(), "resourceVersion": version}, "status": value});
    let api = Api::<GpuNode>::all(ctx.client.clone());
    within(api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await
}

/// Sends the recorded request in a task of its own: a provider that hangs delays this node alone.
fn start_launch(ctx: &Arc<Ctx>, launches: &Arc<Launches>, node: &Arc<GpuNode>) {
    let uid = node.uid().unwrap_or_default();
    {
        let mut known = launches.0.lock().expect("no panic holds this lock");
        let sent = known.entry(uid.clone()).or_default();
        if std::mem::replace(&mut sent.on_the_wire, true) {
            return;
        }
        sent.tries += 1;
        // After a restart the condition is what is left of an unanswered send.
        sent.unsure |= node
            .status
            .as_ref()
            .and_then(|s| conditions::find(&s.conditions, conditions::node::LAUNCHED))
            .is_some_and(|c| [ErrorClass::Unknown, ErrorClass::Mismatch].iter().any(|class| c.reason == class.reason()));
    }
    let (ctx, launches, node) = (ctx.clone(), launches.clone(), node.clone());
    tokio::spawn(async move {
        let answer = launch(&ctx, &node).await;
        let now = ctx.clock.now();
        let mut known = launches.0.lock().expect("no panic holds this lock");
        let sent = known.entry(uid).or_default();
        sent.on_the_wire = false;
        sent.launched = answer.is_ok().then_some(now);
        sent.answer = answer.err().map(|error| {
            tracing::warn!(node = node.name_any(), class = error.class.reason(), %error, "launch");
            // Nothing was bought, so what the answer does not name was refused as well.
            let mut refusals = error.refusals.clone();
            if error.class.is_refusal() {
                let named = |r: &Refusal| error.refusals.iter().any(|n| n.instance_type == r.instance_type && n.zone == r.zone);
                // A quota or a subnet that was named is not that of all the others.
                let rest = if error.refusals.is_empty() { &error.class } else { &ErrorClass::Capacity };
                refusals.extend(every_offer(&node, rest).into_iter().filter(|r| !named(r)));
            }
            sent.unsure |= error.class.may_have_happened();
            // An answer about offers is an answer to this very token; one about the call says nothing of an earlier send.
            let answered = !error.refusals.is_empty() || !sent.unsure;
            let definite =
                answered && !error.class.may_have_happened() && !matches!(error.class, ErrorClass::Throttled | ErrorClass::NotFound);
            ctx.capacity.refused(&node.spec.pool, &node.spec.region, &refusals, &error.message, now);
            if matches!(error.class, ErrorClass::Invalid | ErrorClass::Unauthorized) {
                ctx.capacity.block_pool(&node.spec.pool, &error, now);
            }
            let wait = SignedDuration::try_from(error.class.first_wait())
                .unwrap_or_default()
                .saturating_mul(1 << sent.tries.saturating_sub(1).min(6));
            LaunchAnswer { class: error.class, message: error.message, definite, retry_at: now.saturating_add(wait).unwrap_or(now) }
        });
        drop(known);
        ctx.cloud_view.refresh();
        let _ = ctx.queues.nodes.send(node.name_any());
        let _ = ctx.queues.scheduler.send(());
        let _ = ctx.queues.pools.send(node.spec.pool.clone()); // it keeps what was refused
    });
}

fn every_offer(node: &GpuNode, class: &ErrorClass) -> Vec<Refusal> {
    let market = node.spec.launch.market.unwrap_or(gpujob_crds::Market::Spot);
    let refusal = |o: &gpujob_crds::node::OfferRef| Refusal {
        instance_type: o.instance_type.clone(),
        zone: o.zone.clone(),
        market,
        code: class.reason().into(),
        class: class.clone(),
    };
    node.spec.launch.offers.iter().map(refusal).collect()
}

async fn launch(ctx: &Ctx, node: &GpuNode) -> Result<(), gpujob_provider_core::ProviderError> {
    let call = LaunchCall {
        request: node.spec.launch.request.clone(),
        cluster: ctx.settings.cluster.clone(),
        node: node.name_any(),
        node_uid: node.uid().unwrap_or_default(),
        ordinal: node.spec.launch.ordinal,
    };
    let provider = ctx.clouds.machines(&scope(node)).await?;
    let timed = ctx.metrics.provider_call(&node.spec.provider, "launch");
    let launched = timed.done(provider.launch(&call).await)?;
    tracing::info!(node = call.node, id = launched.id, instance_type = launched.instance_type, zone = launched.zone, "launched");
    ctx.capacity.refused(&node.spec.pool, &node.spec.region, &launched.refusals, "", ctx.clock.now());
    ctx.capacity.unblock_pool(&node.spec.pool);
    ctx.capacity.bought(&node.spec.pool, &node.spec.region, launched.market, &launched.instance_type, &launched.zone);
    let offer = node.spec.launch.offers.iter().find(|o| o.instance_type == launched.instance_type && o.zone == launched.zone);
    let more = launched.instance.as_ref();
    let instance = InstanceStatus {
        id: launched.id.clone(),
        price_per_hour: offer.map_or_else(|| node.dearest(), |o| o.price_per_hour),
        gpus: offer.map_or(node.spec.gpus, |o| o.gpus),
        instance_type: launched.instance_type.clone(),
        zone: launched.zone.clone(),
        market: launched.market,
        private_dns_name: more.and_then(|i| i.private_dns_name.clone()),
        private_ip: more.and_then(|i| i.private_ip.clone()),
        provider_id: more.map(|i| i.provider_id.clone()),
        launch_time: more.and_then(|i| i.launch_time).map(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time),
    };
    record_instance(ctx, node, &instance).await
}

/// Records the instance. If this write is lost, the listing (by UID tag) or a replay of the launch brings it again.
async fn record_instance(ctx: &Ctx, node: &GpuNode, instance: &InstanceStatus) -> Result<(), gpujob_provider_core::ProviderError> {
    let patch = json!({"metadata": {"uid": node.uid()}, "status": {"instance": instance}});
    let api = Api::<GpuNode>::all(ctx.client.clone());
    match within(api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => {}
        Err(error) => tracing::warn!(node = node.name_any(), id = instance.id, %error, "recording the instance; the listing will"),
    }
    Ok(())
}

async fn verify_reservation(ctx: &Ctx, node: &GpuNode, uid: &str, version: &str) -> Result<(), Error> {
    let Some(reservation) = node.reservation_of(uid) else { return Ok(()) };
    // The cache may be behind: only a live GET shows that a job is gone.
    let live = within(Api::<GpuJob>::namespaced(ctx.client.clone(), &reservation.namespace).get_opt(&reservation.name)).await?;
    if live.is_some_and(|job| job.metadata.uid.as_deref() == Some(uid)) {
        return Ok(());
    }
    tracing::info!(node = node.name_any(), job = reservation.name, "dropping the reservation of a job that is gone");
    let mut node = node.clone();
    node.metadata.resource_version = Some(version.to_owned());
    ignore_absent(crate::reservation::release(ctx, &node, uid).await.map(|_| ()))?;
    Ok(())
}

async fn adopt(ctx: &Ctx, world: &NodeWorld, name: &str) -> Result<(), Error> {
    let Some(kube_node) = world.claimants.iter().find(|n| n.name_any() == *name) else { return Ok(()) };
    let taints: Vec<_> =
        kube_node.spec.iter().flat_map(|s| s.taints.iter().flatten()).filter(|t| t.key != names::UNREGISTERED_TAINT).cloned().collect();
    let patch = json!({
        "metadata": {"resourceVersion": kube_node.resource_version(), "labels": {names::NODE_LABEL: world.node.name_any()}},
        "spec": {"taints": taints},
    });
    let api = Api::<k8s_openapi::api::core::v1::Node>::all(ctx.client.clone());
    match within(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Ok(_) => tracing::info!(node = world.node.name_any(), kube_node = name, "joined"),
        Err(error) if error.is_conflict() => {
            let _ = ctx.queues.nodes.send(world.node.name_any()); // its kubelet wrote meanwhile
        }
        Err(error) => return Err(error.into()),
    }
    Ok(())
}
