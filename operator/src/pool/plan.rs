//! What a pool's status should say. Pure.

use gpujob_crds::conditions::{self, Status, pool as condition, want};
use gpujob_crds::{GpuNode, GpuPool, GpuPoolStatus, Price};
use gpujob_provider_core::{ErrorClass, Offer, Prepared, ProviderError};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::sync::Arc;

pub(super) use gpujob_crds::names::POOL_FINALIZER as FINALIZER;

/// What the provider said of the settings.
pub(super) enum Checked<'a> {
    Accepted { prepared: &'a Prepared, offers: &'a [Offer] },
    Refused(&'a ProviderError),
}

/// The wanted status.
pub(super) fn status(pool: &GpuPool, nodes: &[Arc<GpuNode>], checked: &Checked<'_>, now: Timestamp) -> GpuPoolStatus {
    let mut status = pool.status.clone().unwrap_or_default();
    let generation = pool.metadata.generation.unwrap_or(1);
    let changed = status.observed_generation != Some(generation);
    let mine: Vec<&Arc<GpuNode>> =
        nodes.iter().filter(|n| n.metadata.uid.is_some() && Some(&n.spec.pool_uid) == pool.metadata.uid.as_ref()).collect();
    status.nodes = i32::try_from(mine.len()).ok();
    status.price_per_hour =
        Some(mine.iter().filter_map(|n| n.status.as_ref().and_then(|s| s.instance.as_ref())).map(|i| i.price_per_hour).sum::<Price>());
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
        Checked::Accepted { prepared, offers } => {
            let text = "the provider accepts the settings; instances are bought when jobs need them".to_owned();
            note(condition::READY, Status::True, "Ready", text.clone());
            note(condition::STALLED, Status::False, "Ready", text.clone());
            note(condition::RECONCILING, Status::False, "Ready", text);
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
            let was_ready = conditions::is_true(&pool.status.clone().unwrap_or_default().conditions, condition::READY);
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
        let accept =
            |pool: &GpuPool, offer: Offer, t| status(pool, &[], &Checked::Accepted { prepared: &prepared, offers: &[offer] }, at(t));
        pool.status = Some(accept(&pool, offer(), 1));
        assert!(conditions::is_true(&pool.status.as_ref().expect("set").conditions, condition::READY));
        let dearer = Offer { price: Price::from_micros(400_000), ..offer() };
        assert_eq!(Some(accept(&pool, dearer, 99)), pool.status);
    }

    #[test]
    fn no_answer_does_not_undo_ready_and_a_wrong_setting_does() {
        let mut pool = GpuPool::new("p", Default::default());
        let prepared = Prepared(serde_json::json!({}));
        pool.status = Some(status(&pool, &[], &Checked::Accepted { prepared: &prepared, offers: &[offer()] }, at(1)));
        let silent = ProviderError::new(ErrorClass::Unknown, "timeout");
        assert_eq!(Some(status(&pool, &[], &Checked::Refused(&silent), at(2))), pool.status);
        let wrong = ProviderError::new(ErrorClass::Invalid, "aws.subnets matches none");
        let after = status(&pool, &[], &Checked::Refused(&wrong), at(3));
        assert!(conditions::is_true(&after.conditions, condition::STALLED) && !conditions::is_true(&after.conditions, condition::READY));
    }
}
