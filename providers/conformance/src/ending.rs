//! The end of an instance.

use crate::{Buyer, Laboratory};
use gpujob_provider_core::{InstanceState, Terminated};

/// It can be asked for any number of times: on its way, and when it is over.
pub async fn it_repeats(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-ends").await;
    let (one, other) = (buyer.buy("one", 1).await.expect("bought"), buyer.buy("other", 1).await.expect("bought"));
    buyer.until(&one.id, InstanceState::Running).await;
    for _ in 0..2 {
        assert_eq!(buyer.provider.terminate(&one.id).await.expect("ended"), Terminated::InProgress);
    }
    buyer.until(&one.id, InstanceState::Terminated).await;
    assert_eq!(buyer.provider.terminate(&one.id).await.expect("gone"), Terminated::Gone);
    assert_eq!(laboratory.alive(&buyer.cluster).await, [other.id]);
}

/// An id that nobody knows is gone.
pub async fn the_unknown_is_gone(laboratory: &dyn Laboratory) {
    let provider = laboratory.provider().await;
    assert_eq!(provider.terminate("i-0123456789abcdef0").await.expect("gone"), Terminated::Gone);
}
