//! What is seen, and what may be concluded from not seeing it.

use crate::{Buyer, Laboratory, Operation, Trouble};
use gpujob_crds::{Market, names};
use gpujob_provider_core::{ErrorClass, InstanceState};
use std::time::Duration;

/// An instance is listed with what says whose it is, and with what its Node is known by.
pub async fn it_says_whose_an_instance_is(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-list").await;
    let launched = buyer.buy("gn", 3).await.expect("bought");
    buyer.until(&launched.id, InstanceState::Running).await;
    let listing = buyer.provider.list(&buyer.cluster).await.expect("a list");
    let [instance] = listing.instances.as_slice() else { panic!("one instance, not {listing:?}") };
    let tag = |key: &str| instance.tags.get(key).map(String::as_str);
    assert_eq!(tag(names::CLUSTER_TAG), Some(buyer.cluster.as_str()));
    assert_eq!(tag(names::NODE_TAG), Some("gn"));
    assert_eq!(tag(names::NODE_UID_TAG), Some("uid-of-gn"));
    assert_eq!(tag(names::LAUNCH_TAG), Some("1"));
    assert_eq!(tag(names::POOL_TAG), buyer.pool.metadata.name.as_deref());
    assert_eq!((&instance.instance_type, &instance.zone, instance.market), (&launched.instance_type, &launched.zone, Market::Spot));
    assert!(instance.private_ip.is_some() && instance.private_dns_name.is_some() && instance.launch_time.is_some());
    assert!(instance.provider_id.ends_with(&instance.id) && instance.state_reason.is_none());
    buyer.provider.terminate(&launched.id).await.expect("ended");
    buyer.until(&launched.id, InstanceState::Terminated).await;
    let listing = buyer.provider.list(&buyer.cluster).await.expect("a list");
    assert!(listing.instances.iter().all(|i| i.state == InstanceState::Terminated && i.state_reason.is_some()), "{listing:?}");
}

/// Another cluster's instances are in the account, and in its own list only.
pub async fn other_clusters_are_not_seen(laboratory: &dyn Laboratory) {
    let (ours, theirs) = (Buyer::new(laboratory, "cluster-ours").await, Buyer::new(laboratory, "cluster-theirs").await);
    let foreign = theirs.buy("gn", 1).await.expect("bought");
    assert_eq!(ours.provider.list(&ours.cluster).await.expect("a list").instances, []);
    let own = ours.buy("gn", 1).await.expect("bought");
    assert_ne!(own.id, foreign.id, "the same names in another cluster are another intent");
    let listed = ours.provider.list(&ours.cluster).await.expect("a list").instances;
    assert_eq!(listed.iter().map(|i| &i.id).collect::<Vec<_>>(), [&own.id]);
}

/// Right after a launch the instance may be missing: it is bought all the same, and shows later.
pub async fn what_does_not_show_yet_is_still_bought(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-lag").await;
    laboratory.lag(Duration::from_secs(2)).await;
    let launched = buyer.buy("gn", 1).await.expect("bought");
    assert!(!launched.zone.is_empty() && !launched.instance_type.is_empty() && launched.instance.is_none(), "{launched:?}");
    let listing = buyer.provider.list(&buyer.cluster).await.expect("a list");
    assert!(listing.complete && listing.instances.is_empty(), "a list that does not know better is complete");
    assert_eq!(buyer.buy("gn", 1).await.expect("a replay").id, launched.id);
    buyer.until(&launched.id, InstanceState::Running).await;
}

/// What was read is there; about the rest nothing is known.
pub async fn what_breaks_off_is_incomplete(laboratory: &dyn Laboratory) {
    let provider = laboratory.breaks_off("cluster-broken").await;
    let listing = provider.list("cluster-broken").await.expect("a part");
    assert!(listing.instances.len() == 1 && !listing.complete, "{listing:?}");
}

/// Nothing at all could be read: an error, and not an empty list.
pub async fn what_cannot_be_read_is_no_list(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-unread").await;
    buyer.buy("gn", 1).await.expect("bought");
    for (trouble, class) in [
        (Trouble::LostBefore, ErrorClass::Unknown),
        (Trouble::Throttled, ErrorClass::Throttled),
        (Trouble::Unauthorized, ErrorClass::Unauthorized),
    ] {
        laboratory.trouble(Operation::List, trouble).await;
        assert_eq!(buyer.provider.list(&buyer.cluster).await.expect_err("unread").class, class);
        laboratory.calm().await;
    }
    assert_eq!(buyer.alive().await, 1);
}
