//! Launches: the recorded request, sent by a task of its own, and what this process knows of its answers.

use super::observe::{LaunchAnswer, scope};
use super::plan::whole;
use crate::context::Ctx;
use crate::throttle::jitter;
use gpujob_crds::node::InstanceStatus;
use gpujob_crds::{GpuNode, conditions};
use gpujob_provider_core::{ErrorClass, LaunchCall, Refusal};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio_util::sync::CancellationToken;

/// How often what a launch names may be missing, half a minute in all: after that it will not come, and a GpuNode with the pool's settings
/// of today is better.
const NOT_FOUND_TRIES: u32 = 5;

/// What this process knows of launches beyond the API: those on the wire, and the answers that were no success. Lost in a
/// crash, and then learned again by sending the same request.
#[derive(Debug, Default)]
pub struct Launches(Mutex<BTreeMap<String, Known>>);

#[derive(Clone, Debug, Default)]
struct Known {
    /// The GpuNode's name: when that is gone, this is forgotten.
    name: String,
    on_the_wire: bool,
    /// Its GpuNode is being deleted: what waits for its turn leaves the queue.
    given_up: CancellationToken,
    /// It succeeded then: for a while its record may not have reached the cache.
    launched: Option<Timestamp>,
    /// What it brought. The plan puts it on record, with all else that follows from it in the same write. If the process dies before
    /// that, the listing (by UID tag) or a replay of the launch brings it again.
    instance: Option<InstanceStatus>,
    /// This process has had it in hand before: what its status said at the first time is known.
    met: bool,
    tries: u32,
    /// How many of them found something missing that the request names.
    not_found: u32,
    /// A send was not answered: until a look at the cloud says otherwise it may have been obeyed.
    unsure: bool,
    /// Neither this process nor one before it has sent it: it was not wanted any more when its turn came.
    never: bool,
    answer: Option<LaunchAnswer>,
    /// When each instance was last told to end; none while a call is on its way.
    ended: BTreeMap<String, Option<Timestamp>>,
}

impl Launches {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Known>> {
        self.0.lock().expect("no panic holds this lock")
    }

    /// The last answer that was no success, and whether a launch of this intent is on the wire or so fresh that its record may not
    /// have reached the cache.
    pub(super) fn known(&self, node: &GpuNode, now: Timestamp) -> (Option<LaunchAnswer>, bool) {
        let known = self.lock();
        let Some(sent) = node.metadata.uid.as_ref().and_then(|uid| known.get(uid)) else { return (None, false) };
        let settling = sent.launched.is_some_and(|at| now.duration_since(at) < SignedDuration::from_secs(30));
        (sent.answer.clone(), sent.on_the_wire || settling)
    }

    /// What a launch of this intent has brought.
    pub(super) fn brought(&self, node: &GpuNode) -> Option<InstanceStatus> {
        self.lock().get(node.metadata.uid.as_deref().unwrap_or_default())?.instance.clone()
    }

    /// Whether it is certain that no launch of this intent was ever sent.
    pub(super) fn never_sent(&self, node: &GpuNode) -> bool {
        let known = self.lock();
        node.metadata.uid.as_ref().and_then(|uid| known.get(uid)).is_some_and(|sent| sent.never && !sent.on_the_wire)
    }

    /// This GpuNode is being deleted: a launch of it that still waits for its turn is not sent, and delays no other.
    pub(super) fn give_up(&self, node: &GpuNode) {
        if let Some(sent) = node.metadata.uid.as_ref().and_then(|uid| self.lock().get(uid).map(|sent| sent.given_up.clone())) {
            sent.cancel();
        }
    }

    /// Forgets a GpuNode that is gone.
    pub(super) fn forget(&self, name: &str) {
        self.lock().retain(|_, sent| sent.name != name);
    }

    /// Whether to tell this instance to end now: not while that is on its way, nor within seconds of the last time. Its end is
    /// announced by every listing, and each of them would have it told again.
    pub(super) fn may_end(&self, node: &GpuNode, id: &str, now: Timestamp) -> bool {
        let mut known = self.lock();
        let sent = known.entry(node.uid().unwrap_or_default()).or_default();
        sent.name = node.name_any();
        let told = sent.ended.get(id);
        let lately = told.is_some_and(|at| at.is_none_or(|at| now.duration_since(at) < SignedDuration::from_secs(15)));
        if !lately {
            sent.ended.insert(id.to_owned(), None);
        }
        !lately
    }

    /// The instance was told to end then, or, with `None`, could not be told.
    pub(super) fn told(&self, node: &GpuNode, id: &str, at: Option<Timestamp>) {
        // The GpuNode may be gone by now, and its entry with it.
        if let Some(sent) = self.lock().get_mut(node.metadata.uid.as_deref().unwrap_or_default()) {
            match at {
                Some(_) => drop(sent.ended.insert(id.to_owned(), at)),
                None => drop(sent.ended.remove(id)),
            }
        }
    }

    /// Sends the recorded request in a task of its own: a provider that hangs delays this node alone.
    pub(super) fn send(self: &Arc<Self>, ctx: &Arc<Ctx>, node: &Arc<GpuNode>) {
        let uid = node.uid().unwrap_or_default();
        let given_up = {
            let mut known = self.lock();
            let sent = known.entry(uid.clone()).or_default();
            sent.name = node.name_any();
            if std::mem::replace(&mut sent.on_the_wire, true) {
                return;
            }
            sent.tries += 1;
            sent.never = false;
            // The condition is written before the request is sent. Where it is there at this process's first send, one before it may
            // have sent, and been obeyed: what is refused now proves nothing then.
            let said = node.status.as_ref().is_some_and(|s| conditions::find(&s.conditions, conditions::node::LAUNCHED).is_some());
            sent.unsure |= !std::mem::replace(&mut sent.met, true) && said;
            sent.given_up.clone()
        };
        let (ctx, launches, node) = (ctx.clone(), self.clone(), node.clone());
        tokio::spawn(async move {
            let answer = launch(&ctx, &node, &given_up).await;
            let now = ctx.clock.now();
            let mut known = launches.lock();
            let Some(sent) = known.get_mut(&uid) else { return }; // the GpuNode is gone: what was bought, the sweep ends
            sent.on_the_wire = false;
            let answer = match answer {
                Ok(Sent::Launched(instance)) => {
                    sent.instance = Some(*instance);
                    Ok(())
                }
                Err(error) => Err(error),
                Ok(Sent::Not) => {
                    sent.tries -= 1;
                    sent.never = sent.tries == 0 && !sent.unsure;
                    drop(known);
                    return drop(ctx.queues.nodes.send(node.name_any()));
                }
            };
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
                sent.not_found += u32::from(error.class == ErrorClass::NotFound);
                let decided = match error.class {
                    ErrorClass::Throttled => false,
                    // The provider makes what is missing again, where it can: then one of the next tries finds it.
                    ErrorClass::NotFound => sent.not_found >= NOT_FOUND_TRIES,
                    ref other => !other.may_have_happened(),
                };
                let definite = answered && decided;
                ctx.capacity.refused(&node.spec.pool, &node.spec.region, &refusals, &error.message, now);
                if matches!(error.class, ErrorClass::Invalid | ErrorClass::Unauthorized) {
                    ctx.capacity.block_pool(&node.spec.pool, &error, now);
                }
                let wait = SignedDuration::try_from(error.class.first_wait())
                    .unwrap_or_default()
                    .saturating_mul(1 << sent.tries.saturating_sub(1).min(6));
                // Many that were refused at once do not come back at once.
                let wait = wait.saturating_add(jitter(&node.name_any(), wait / 4));
                LaunchAnswer { class: error.class, message: error.message, definite, retry_at: now.saturating_add(wait).unwrap_or(now) }
            });
            drop(known);
            ctx.cloud_view.refresh();
            let _ = ctx.queues.nodes.send(node.name_any());
            let _ = ctx.queues.scheduler.send(());
            let _ = ctx.queues.pools.send(node.spec.pool.clone()); // it keeps what was refused
        });
    }
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

/// What became of a launch.
enum Sent {
    Launched(Box<InstanceStatus>),
    /// It was no longer wanted when its turn came.
    Not,
}

/// Whether the launch is still wanted: it may have waited for its turn for minutes.
fn wanted(ctx: &Ctx, node: &GpuNode) -> bool {
    let there = ctx.stores.nodes.get(&ObjectRef::from_obj(node));
    let asked = |n: &GpuNode| n.uid() == node.uid() && n.metadata.deletion_timestamp.is_none() && !n.reservations().is_empty();
    there.is_some_and(|n| asked(&n)) && ctx.leader.is_leader() && !ctx.leader.is_draining()
}

async fn launch(ctx: &Ctx, node: &GpuNode, given_up: &CancellationToken) -> Result<Sent, gpujob_provider_core::ProviderError> {
    let call = LaunchCall {
        request: node.spec.launch.request.clone(),
        cluster: ctx.settings.cluster.clone(),
        node: node.name_any(),
        node_uid: node.uid().unwrap_or_default(),
        ordinal: node.spec.launch.ordinal,
    };
    let provider = ctx.clouds.machines(&scope(node)).await?;
    let turn = given_up.run_until_cancelled(provider.turn(&call.node)).await;
    if turn.is_none() || !wanted(ctx, node) {
        tracing::info!(node = call.node, "not launched: it is not wanted any more");
        return Ok(Sent::Not);
    }
    let launched = provider.launch(&call).await?;
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
        launch_time: more.and_then(|i| i.launch_time).map(whole),
    };
    Ok(Sent::Launched(Box::new(instance)))
}
