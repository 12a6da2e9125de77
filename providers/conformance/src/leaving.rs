//! What stays behind: disks, templates, and the last words on a console.

use crate::{Buyer, Laboratory};
use gpujob_provider_core::{InstanceState, LeftoverKind};

/// By the cluster's tag, with what tells the operator whether they may go.
pub async fn disks_and_templates_of_this_cluster_are_shown(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-leaves").await;
    let other = Buyer::new(laboratory, "cluster-leaves-other").await;
    let disk = laboratory.disk(&buyer.cluster, "uid-of-gn").await;
    let leftovers = buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers");
    assert_eq!(leftovers.len(), 2, "{leftovers:?}");
    let volume = leftovers.iter().find(|l| l.kind == LeftoverKind::Volume).expect("the disk");
    assert_eq!((&volume.id, volume.node_uid.as_deref()), (&disk, Some("uid-of-gn")));
    let template = leftovers.iter().find(|l| l.kind == LeftoverKind::Template).expect("the template");
    assert_eq!(template.pool_uid, buyer.pool.metadata.uid);
    assert!(buyer.prepared.0.to_string().contains(&template.name), "launches name it so: {template:?}");
    assert!(leftovers.iter().all(|l| l.created.is_some()), "{leftovers:?}");
    let theirs = other.provider.leftovers(&other.cluster).await.expect("leftovers");
    assert!(theirs.len() == 1 && theirs[0].id != template.id, "{theirs:?}");
}

/// What is removed is gone, and removing it again is no error.
pub async fn removing_repeats(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-removes").await;
    laboratory.disk(&buyer.cluster, "uid-of-gn").await;
    let leftovers = buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers");
    for leftover in leftovers.iter().chain(&leftovers) {
        buyer.provider.remove(leftover).await.expect("removed");
    }
    assert_eq!(buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers"), []);
}

/// The disk of an instance that lives is none, and goes with it.
pub async fn a_disk_in_use_is_no_leftover(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-disk").await;
    let id = buyer.buy("gn", 1).await.expect("bought").id;
    buyer.until(&id, InstanceState::Running).await;
    let volumes = async || {
        let leftovers = buyer.provider.leftovers(&buyer.cluster).await.expect("leftovers");
        leftovers.into_iter().filter(|l| l.kind == LeftoverKind::Volume).collect::<Vec<_>>()
    };
    assert_eq!(volumes().await, []);
    buyer.provider.terminate(&id).await.expect("ended");
    buyer.until(&id, InstanceState::Terminated).await;
    assert_eq!(volumes().await, []);
}

/// Nothing at first, then its last lines, and nothing for who is not there.
pub async fn a_console_is_read_from_its_end(laboratory: &dyn Laboratory) {
    let buyer = Buyer::new(laboratory, "cluster-console").await;
    let id = buyer.buy("gn", 1).await.expect("bought").id;
    buyer.until(&id, InstanceState::Running).await;
    assert_eq!(buyer.provider.console(&id).await.expect("nothing yet"), None);
    laboratory.say(&id, &format!("{}\nkubelet: no such host\n", "booting\n".repeat(1000))).await;
    let text = buyer.provider.console(&id).await.expect("read").expect("text");
    assert!(text.len() <= 2048 && text.trim_end().ends_with("kubelet: no such host"), "{text}");
    assert_eq!(buyer.provider.console("i-0123456789abcdef0").await.expect("nobody"), None);
}
