//! Warnings that instances will be taken back.

use crate::{Buyer, Laboratory};
use gpujob_provider_core::{InstanceState, MachineProvider, Notice, NoticeKind, NoticeSource};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const LONG: Duration = Duration::from_secs(120);

/// Reads until there is something.
async fn read(provider: &dyn MachineProvider, source: &NoticeSource) -> Vec<Notice> {
    let start = Instant::now();
    loop {
        let notices = provider.notices(source).await.expect("notices");
        if !notices.is_empty() || start.elapsed() > Duration::from_secs(30) {
            return notices;
        }
        sleep(Duration::from_millis(100)).await;
    }
}

async fn running(buyer: &Buyer, node: &str) -> String {
    let id = buyer.buy(node, 1).await.expect("bought").id;
    buyer.until(&id, InstanceState::Running).await;
    id
}

/// A poll tells it while the instance still runs, again and again; there is nothing to acknowledge. It says when, and it comes.
pub async fn an_interruption_is_polled(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-poll").await;
    let (taken, spared) = (running(&buyer, "taken").await, running(&buyer, "spared").await);
    assert_eq!(buyer.provider.notices(&NoticeSource::Poll).await.expect("notices"), []);
    laboratory.interrupt(&taken, Duration::from_secs(3)).await;
    let first = read(&*buyer.provider, &NoticeSource::Poll).await;
    let [notice] = first.as_slice() else { panic!("one notice, not {first:?}") };
    assert_eq!((&notice.instance, notice.kind, &notice.receipt), (&taken, NoticeKind::Interruption, &None));
    assert!(notice.at.is_some() && !notice.code.is_empty(), "{notice:?}");
    assert!(laboratory.alive(&buyer.cluster).await.contains(&taken), "told while it runs");
    buyer.provider.acknowledge(&NoticeSource::Poll, &first).await.expect("nothing to do");
    assert_eq!(read(&*buyer.provider, &NoticeSource::Poll).await.len(), 1, "polls repeat");
    buyer.until(&taken, InstanceState::Terminated).await;
    assert_eq!(laboratory.alive(&buyer.cluster).await, [spared]);
}

/// An instance that its owner ends is not being taken.
pub async fn one_that_its_owner_ends_is_not_taken(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-own-end").await;
    let id = running(&buyer, "gn").await;
    buyer.provider.terminate(&id).await.expect("ended");
    buyer.until(&id, InstanceState::Terminated).await;
    assert_eq!(buyer.provider.notices(&NoticeSource::Poll).await.expect("notices"), []);
}

/// A message that was acknowledged does not come again; acknowledging repeats.
pub async fn a_queue_tells_until_it_is_told(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-queue").await;
    let (one, other) = (running(&buyer, "one").await, running(&buyer, "other").await);
    let queue = NoticeSource::Queue(laboratory.queue());
    laboratory.interrupt(&one, LONG).await;
    let first = read(&*buyer.provider, &queue).await;
    let [notice] = first.as_slice() else { panic!("one notice, not {first:?}") };
    assert_eq!((&notice.instance, notice.kind), (&one, NoticeKind::Interruption));
    assert!(notice.at.is_some() && notice.receipt.is_some(), "{notice:?}");
    for _ in 0..2 {
        buyer.provider.acknowledge(&queue, &first).await.expect("forgotten");
    }
    laboratory.interrupt(&other, LONG).await;
    let second = read(&*buyer.provider, &queue).await;
    assert_eq!(second.iter().map(|n| &n.instance).collect::<Vec<_>>(), [&other], "the first is forgotten");
    buyer.provider.acknowledge(&queue, &second).await.expect("forgotten");
}

/// A rebalance recommendation comes through the queue, as what it is, and ends nothing.
pub async fn a_recommendation_is_no_interruption(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-rebalance").await;
    let id = running(&buyer, "gn").await;
    let queue = NoticeSource::Queue(laboratory.queue());
    laboratory.rebalance(&id).await;
    let notices = read(&*buyer.provider, &queue).await;
    assert_eq!(notices.iter().map(|n| (&n.instance, n.kind)).collect::<Vec<_>>(), [(&id, NoticeKind::Rebalance)]);
    buyer.provider.acknowledge(&queue, &notices).await.expect("forgotten");
    assert_eq!(buyer.provider.notices(&NoticeSource::Poll).await.expect("notices"), []);
    assert_eq!(laboratory.alive(&buyer.cluster).await, [id]);
}

/// Notices are of the region, so another cluster's are told too: whoever reads passes over them.
pub async fn notices_of_others_are_told_too(laboratory: &dyn Laboratory) {
    let (ours, theirs) = (Buyer::new(laboratory, "cluster-ours").await, Buyer::new(laboratory, "cluster-theirs").await);
    let foreign = running(&theirs, "gn").await;
    laboratory.interrupt(&foreign, LONG).await;
    let notices = read(&*ours.provider, &NoticeSource::Poll).await;
    assert_eq!(notices.iter().map(|n| &n.instance).collect::<Vec<_>>(), [&foreign]);
}
