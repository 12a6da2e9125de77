//! What a pool's status should say. Pure.

use crate::capacity::Blocked;
use gpujob_crds::conditions::{self, Status, pool as condition, want};
use gpujob_crds::{GpuNode, GpuPool, GpuPoolStatus, Price};
use gpujob_provider_core::{ErrorClass, Offer, Prepared, ProviderError};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

pub(super) use gpujob_crds::names::POOL_FINALIZER as FINALIZER;

/// Reason of a pool whose settings are accepted, and whose launches are refused. It may be tried again by then: see [`Blocked`].
pub(crate) const LAUNCHES_REFUSED: &str = "LaunchesRefused";

/// What the provider said of the settings.
pub(super) enum Checked<'a> {
    /// `blocked`: all the same it refuses launches for what they are.
    Accepted {
        prepared: &'a Prepared,
        offers: &'a [Offer],
        blocked: Option<&'a Blocked>,
    },
    Refused(&'a ProviderError),
}

/// The wanted status.
pub(super) fn status(pool: &GpuPool, nodes: &[Arc<GpuNode>], checked: &Checked<'_>, now: Timestamp) -> GpuPoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation.unwrap_or(1);
    let changed = status.observed_generation != Some(generation);
    count(&mut status, pool, nodes);
    status.observed_generation = Some(generation);
    let mut note = |type_, value: Status, reason: &str, message: String| {
        conditions::set(&mut status.conditions, &want(type_, value, reason, message), generation, now)
    };
    match checked {
        Checked::Accepted { offers: [], .. } => {
            let text = "the provider accepts the settings, but no instance type matches: widen instances, markets or subnets";
            note(condition::READY, Status::False, "NoOffers", text.into());
            note(condition::STALLED, Status::True, "NoOffers", text.into());
            note(condition::RECONCILING, Status::False, "NoOffers", text.into());
            status.offers = Some(0);
            status.cheapest = None;
        }
        Checked::Accepted { prepared, offers, blocked } => {
            let (ready, reason, text) = match blocked {
                None => (true, "Ready", "the provider accepts the settings; instances are bought when jobs need them".to_owned()),
                Some(b) => (
                    false,
                    LAUNCHES_REFUSED,
                    format!("the provider accepts the settings and refuses launches ({}): {}", b.reason, b.message),
                ),
            };
            note(condition::READY, ready.into(), reason, text.clone());
            note(condition::STALLED, (!ready).into(), reason, text.clone());
            note(condition::RECONCILING, Status::False, reason, text);
            // Prices move every minute; the status shows them as of the last change of settings, or a settled pool would be written for ever.
            if changed || status.prepared.as_ref() != Some(&prepared.0) || status.cheapest.is_none() {
                status.offers = i32::try_from(offers.len()).ok();
                status.cheapest = offers.first().map(|o| format!("{} at {}", o.label(), o.price));
                status.prepared = Some(prepared.0.clone());
                status.prepared_time = Some(Time(now));
            }
        }
        Checked::Refused(error) => {
            let lasting = matches!(error.class, ErrorClass::Invalid | ErrorClass::Unauthorized);
            let before = pool.status.as_ref().and_then(|s| conditions::find(&s.conditions, condition::READY));
            let was_ready = before.is_some_and(|c| c.status == "True" || c.reason == LAUNCHES_REFUSED);
            // A provider that does not answer changes nothing that was true of the same settings.
            if lasting || changed || !was_ready {
                note(condition::READY, Status::False, error.class.reason(), error.message.clone());
                note(condition::STALLED, lasting.into(), error.class.reason(), error.message.clone());
                note(condition::RECONCILING, (!lasting).into(), error.class.reason(), error.message.clone());
            }
        }
    }
    status
}

/// The wanted status of a pool that is deleted: what it still waits for. `refused`: what was made for it cannot be taken away.
pub(super) fn leaving(pool: &GpuPool, nodes: &[Arc<GpuNode>], refused: Option<&ProviderError>, now: Timestamp) -> GpuPoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation.unwrap_or(1);
    count(&mut status, pool, nodes);
    status.observed_generation = Some(generation);
    let text = match (refused, status.nodes.unwrap_or(0)) {
        (Some(error), _) => format!("what was made for it in the cloud cannot be taken away yet; it is tried again: {}", error.message),
        (None, 1) => "waits for 1 node, which ends with its work".to_owned(),
        (None, nodes) => format!("waits for {nodes} nodes, which end with their work"),
    };
    let lasting = refused.is_some_and(|e| matches!(e.class, ErrorClass::Invalid | ErrorClass::Unauthorized));
    for (type_, value) in [(condition::READY, false), (condition::STALLED, lasting), (condition::RECONCILING, !lasting)] {
        conditions::set(&mut status.conditions, &want(type_, value, "Deleting", text.clone()), generation, now);
    }
    status
}

fn count(status: &mut GpuPoolStatus, pool: &GpuPool, nodes: &[Arc<GpuNode>]) {
    let mine: Vec<&Arc<GpuNode>> =
        nodes.iter().filter(|n| n.metadata.uid.is_some() && Some(&n.spec.pool_uid) == pool.metadata.uid.as_ref()).collect();
    status.nodes = i32::try_from(mine.len()).ok();
    let prices = mine.iter().filter_map(|n| n.status.as_ref().and_then(|s| s.instance.as_ref())).map(|i| i.price_per_hour);
    status.price_per_hour = Some(prices.sum::<Price>());
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::Market;

    fn offer() -> Offer {
        Offer {
            price: Price::from_micros(300_000),
            instance_type: "g6.xlarge".into(),
            zone: "a".into(),
            market: Market::Spot,
            on_demand_price: Price::ZERO,
            gpus: 1,
            gpu_model: "L4".into(),
            gpu_memory_mib: 1,
            vcpus: 4,
            memory_mib: 1,
        }
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("time")
    }

    #[test]
    fn a_price_that_moves_is_not_written() {
        let mut pool = GpuPool::new("p", Default::default());
        let prepared = Prepared(serde_json::json!({"template": "lt-1"}));
        let accept = |pool: &GpuPool, offer: Offer, t| {
            status(pool, &[], &Checked::Accepted { prepared: &prepared, offers: &[offer], blocked: None }, at(t))
        };
        pool.status = Some(accept(&pool, offer(), 1));
        assert!(conditions::is_true(&pool.status.as_ref().expect("set").conditions, condition::READY));
        let dearer = Offer { price: Price::from_micros(400_000), ..offer() };
        assert_eq!(Some(accept(&pool, dearer, 99)), pool.status);
    }

    #[test]
    fn no_answer_does_not_undo_ready_and_a_wrong_setting_does() {
        let mut pool = GpuPool::new("p", Default::default());
        let prepared = Prepared(serde_json::json!({}));
        pool.status = Some(status(&pool, &[], &Checked::Accepted { prepared: &prepared, offers: &[offer()], blocked: None }, at(1)));
        let silent = ProviderError::new(ErrorClass::Unknown, "timeout");
        assert_eq!(Some(status(&pool, &[], &Checked::Refused(&silent), at(2))), pool.status);
        let wrong = ProviderError::new(ErrorClass::Invalid, "aws.subnets matches none");
        let after = status(&pool, &[], &Checked::Refused(&wrong), at(3));
        assert!(conditions::is_true(&after.conditions, condition::STALLED) && !conditions::is_true(&after.conditions, condition::READY));
    }
    #[test]
    fn launches_that_are_refused_are_said_until_they_go_through() {
        let mut pool = GpuPool::new("p", Default::default());
        let (prepared, capacity) = (Prepared(serde_json::json!({})), crate::capacity::Capacity::default());
        capacity.block_pool("p", &ProviderError::new(ErrorClass::Unauthorized, "iam:PassRole is missing"), at(1));
        let look = |pool: &mut GpuPool, second| {
            let blocked = capacity.launches_refused("p", at(second));
            pool.status = Some(status(
                pool,
                &[],
                &Checked::Accepted { prepared: &prepared, offers: &[offer()], blocked: blocked.as_ref() },
                at(second),
            ));
            let said = pool.status.as_ref().map(|s| s.conditions.as_slice()).unwrap_or_default();
            let stalled = conditions::find(said, condition::STALLED).expect("set");
            (conditions::is_true(said, condition::READY), stalled.status.clone(), stalled.message.clone())
        };
        let (ready, stalled, words) = look(&mut pool, 2);
        assert!(!ready && stalled == "True" && words.contains("iam:PassRole"), "{words}");
        let silent = ProviderError::new(ErrorClass::Unknown, "timeout");
        assert_eq!(Some(status(&pool, &[], &Checked::Refused(&silent), at(3))), pool.status, "no answer changes nothing of that");
        assert!(!look(&mut pool, 100).0, "the next try has not gone through yet");
        capacity.unblock_pool("p");
        let (ready, stalled, _) = look(&mut pool, 101);
        assert!(ready && stalled == "False");
    }

    #[test]
    fn a_deleted_pool_says_what_it_waits_for() {
        let mut pool = GpuPool::new("p", Default::default());
        pool.metadata.uid = Some("u".into());
        let mut node = GpuNode::new("n", Default::default());
        (node.metadata.uid, node.spec.pool_uid) = (Some("n".into()), "u".into());
        let words = |s: &GpuPoolStatus| {
            conditions::find(&s.conditions, condition::READY).map(|c| (c.status.clone(), c.reason.clone(), c.message.clone())).expect("set")
        };
        let waits = leaving(&pool, &[Arc::new(node)], None, at(1));
        assert_eq!((words(&waits).1.as_str(), waits.nodes), ("Deleting", Some(1)));
        assert!(words(&waits).2.contains("waits for 1 node"));
        pool.status = Some(waits);
        let refused = leaving(&pool, &[], Some(&ProviderError::new(ErrorClass::Unauthorized, "ec2:DeleteLaunchTemplate")), at(2));
        assert!(words(&refused).2.contains("ec2:DeleteLaunchTemplate") && conditions::is_true(&refused.conditions, condition::STALLED));
        assert_eq!(refused.nodes, Some(0));
    }
}
