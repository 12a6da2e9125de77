//! One intent is one instance, whatever becomes of the answers.

use crate::buyer::{place, place_of};
use crate::{Buyer, Laboratory, Operation, Trouble};
use gpujob_crds::Market;
use gpujob_provider_core::{ErrorClass, InstanceState, LaunchCall, Terminated};

/// A launch is bought once, however often it is sent, and by whichever process.
pub async fn one_intent_is_one_instance(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-once").await;
    let call = buyer.call("gn", Market::Spot, 3);
    let first = buyer.provider.launch(&call).await.expect("bought");
    assert!(buyer.cheapest(Market::Spot, 3).iter().any(|offer| place_of(offer) == place(&first)), "one of the offers: {first:?}");
    let again = buyer.provider.launch(&call).await.expect("a replay");
    let elsewhere = laboratory.provider().await.launch(&call).await.expect("a replay");
    assert_eq!((&again.id, &elsewhere.id), (&first.id, &first.id));
    assert_eq!(laboratory.alive(&buyer.cluster).await, [first.id]);
}

/// The token belongs to the dead one: a replay must not buy another, and must not look as if it had.
pub async fn a_dead_original_is_seen_to_be_dead(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-dead").await;
    let call = buyer.call("gn", Market::Spot, 3);
    let first = buyer.provider.launch(&call).await.expect("bought");
    buyer.until(&first.id, InstanceState::Running).await;
    assert_eq!(buyer.provider.terminate(&first.id).await.expect("ended"), Terminated::InProgress);
    buyer.until(&first.id, InstanceState::Terminated).await;
    let replayed = buyer.provider.launch(&call).await.expect("a replay");
    assert_eq!(replayed.id, first.id);
    assert!(replayed.instance.is_none_or(|i| i.state >= InstanceState::Terminating));
    assert!(laboratory.alive(&buyer.cluster).await.is_empty());
}

/// The same token with another request is never a second instance.
pub async fn another_request_is_a_mismatch(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-mismatch").await;
    let launched = buyer.buy("gn", 1).await.expect("bought");
    let error = buyer.buy("gn", 2).await.expect_err("another request");
    assert_eq!(error.class, ErrorClass::Mismatch, "{error}");
    assert!(error.class.may_have_happened());
    assert_eq!(laboratory.alive(&buyer.cluster).await, [launched.id]);
}

/// A new ordinal is a new intent, and so is another GpuNode of the same name.
pub async fn another_ordinal_is_another_intent(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-ordinal").await;
    let call = buyer.call("gn", Market::Spot, 1);
    let first = buyer.provider.launch(&call).await.expect("bought");
    let second = buyer.provider.launch(&LaunchCall { ordinal: 2, ..call.clone() }).await.expect("bought");
    let third = buyer.provider.launch(&LaunchCall { node_uid: "another".into(), ..call }).await.expect("bought");
    assert!(first.id != second.id && second.id != third.id && first.id != third.id);
    assert_eq!(laboratory.alive(&buyer.cluster).await.len(), 3);
}

/// It may have happened, and did: the same call says with which instance.
pub async fn an_answer_lost_after_the_effect_is_found_by_the_same_call(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-lost-after").await;
    laboratory.trouble(Operation::Launch, Trouble::LostAfter).await;
    let error = buyer.buy("gn", 1).await.expect_err("lost");
    assert_eq!(error.class, ErrorClass::Unknown, "{error}");
    assert!(error.class.may_have_happened());
    laboratory.calm().await;
    let alive = laboratory.alive(&buyer.cluster).await;
    assert_eq!(alive.len(), 1, "it did happen, once");
    assert_eq!(buyer.buy("gn", 1).await.expect("a replay").id, alive[0]);
    assert_eq!(laboratory.alive(&buyer.cluster).await, alive);
}

/// It may have happened, and did not: the same call buys the one.
pub async fn an_answer_lost_before_the_effect_leaves_nothing(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-lost-before").await;
    laboratory.trouble(Operation::Launch, Trouble::LostBefore).await;
    let error = buyer.buy("gn", 1).await.expect_err("lost");
    assert_eq!(error.class, ErrorClass::Unknown, "{error}");
    assert!(laboratory.alive(&buyer.cluster).await.is_empty());
    laboratory.calm().await;
    let launched = buyer.buy("gn", 1).await.expect("bought");
    assert_eq!(laboratory.alive(&buyer.cluster).await, [launched.id]);
}

/// A request names a template that somebody removed: nothing happens, and preparing the pool makes the same request good.
pub async fn a_template_that_is_gone_can_be_made_again(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-template").await;
    let call = buyer.call("gn", Market::Spot, 1);
    buyer.provider.release(&buyer.pool.metadata.uid.clone().expect("a UID"), &buyer.cluster).await.expect("released");
    let error = buyer.provider.launch(&call).await.expect_err("no template");
    assert_eq!(error.class, ErrorClass::NotFound, "{error}");
    assert!(laboratory.alive(&buyer.cluster).await.is_empty());
    assert_eq!(buyer.provider.prepare(&buyer.pool, &buyer.cluster).await.expect("prepared"), buyer.prepared);
    buyer.provider.launch(&call).await.expect("the same request");
}
