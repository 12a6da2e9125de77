//! What fits beside the GPUs: CPU, memory, disk and pods. Estimated from the type until a Node of that type has joined, and
//! then what Nodes really offer.

use super::demand::{mebibytes, millicores};
use gpujob_crds::node::Asks;
use gpujob_provider_core::{Demand, Offer};
use k8s_openapi::api::core::v1::Node;

/// What DaemonSets take of every GPU node: device plugin, CNI, kube-proxy, a log shipper. Their real requests are not watched; a
/// pod that finds less is seen as a misfit and the type left out for its job.
const DAEMONS: Asks = Asks { millicores: 100, memory_mib: 128, disk_mib: 0 };
/// Pods of DaemonSets.
const DAEMON_PODS: i64 = 8;
/// Pods of one attempt: its own, and one that commits its results.
const PODS_EACH: i64 = 2;
/// The fewest pods that a GPU instance takes under the AWS VPC CNI: g4dn.xlarge (3 interfaces of 10 addresses, less one each, and 2).
const FEWEST_PODS: i64 = 29;

/// What is left of a node, or what a type would have when it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) millicores: i64,
    pub(super) memory_mib: i64,
    pub(super) disk_mib: i64,
    pub(super) pods: i64,
}

impl Room {
    /// What an instance of this type is expected to have for pods, empty.
    pub(super) fn estimate(offer: &Offer, disk_gib: i64) -> Self {
        Room {
            millicores: offer.allocatable_millicores(),
            memory_mib: offer.allocatable_memory_mib(),
            // The kubelet's eviction threshold is 10 % of the disk, and EKS keeps 1 GiB back (amazon-eks-ami's kube-reserved).
            disk_mib: disk_gib * 1024 * 9 / 10 - 1024,
            pods: FEWEST_PODS.max(DAEMON_PODS + PODS_EACH * i64::from(offer.gpus)),
        }
        .less(&DAEMONS, DAEMON_PODS)
    }

    /// What this Node offers, empty.
    pub(super) fn offered(node: &Node) -> Option<Self> {
        let allocatable = node.status.as_ref()?.allocatable.as_ref()?;
        let read = |what: &str| allocatable.get(what).map(|q| q.0.as_str());
        let room = Room {
            millicores: millicores(read("cpu")?),
            memory_mib: mebibytes(read("memory")?),
            disk_mib: read("ephemeral-storage").map_or(i64::MAX / 2, mebibytes),
            pods: read("pods").and_then(|p| p.parse().ok()).unwrap_or(FEWEST_PODS),
        };
        Some(room.less(&DAEMONS, DAEMON_PODS))
    }

    fn less(self, asks: &Asks, pods: i64) -> Self {
        Room {
            millicores: self.millicores - asks.millicores,
            memory_mib: self.memory_mib - asks.memory_mib,
            disk_mib: self.disk_mib - asks.disk_mib,
            pods: self.pods - pods,
        }
    }

    /// What is left beside an attempt that asks for this.
    pub(super) fn beside(self, asks: &Asks) -> Self {
        self.less(asks, PODS_EACH)
    }

    /// What is left beside an attempt that did not record what it asks for: its share by GPUs is taken.
    pub(super) fn beside_share(self, whole: &Room, gpus: i32, of: i32) -> Self {
        let share = |all: i64| all / i64::from(of.max(1)) * i64::from(gpus);
        self.beside(&Asks { millicores: share(whole.millicores), memory_mib: share(whole.memory_mib), disk_mib: share(whole.disk_mib) })
    }

    /// The lesser of both in everything: for a request that may return either type.
    pub(super) fn least(self, other: Room) -> Self {
        Room {
            millicores: self.millicores.min(other.millicores),
            memory_mib: self.memory_mib.min(other.memory_mib),
            disk_mib: self.disk_mib.min(other.disk_mib),
            pods: self.pods.min(other.pods),
        }
    }

    /// Why an attempt that asks for this does not fit, or `None` when it does.
    pub(super) fn misfit(&self, demand: &Demand) -> Option<&'static str> {
        if self.millicores < demand.millicores {
            Some("too little CPU")
        } else if self.memory_mib < demand.memory_mib {
            Some("too little memory")
        } else if self.disk_mib < demand.disk_mib {
            Some("too little disk (aws.disk.sizeGib)")
        } else if self.pods < PODS_EACH {
            Some("no room for another pod")
        } else {
            None
        }
    }
}

/// What a reservation records of a demand.
pub(super) fn asks(demand: &Demand) -> Asks {
    Asks { millicores: demand.millicores, memory_mib: demand.memory_mib, disk_mib: demand.disk_mib }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::{Market, Price};
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

    fn offer() -> Offer {
        Offer {
            price: Price::ZERO,
            instance_type: "g6.xlarge".into(),
            zone: "a".into(),
            market: Market::Spot,
            on_demand_price: Price::ZERO,
            gpus: 1,
            gpu_model: "L4".into(),
            gpu_memory_mib: 22_888,
            vcpus: 4,
            memory_mib: 16_384,
        }
    }

    #[test]
    fn every_resource_counts() {
        let room = Room::estimate(&offer(), 100);
        let fits = Demand { gpus: 1, millicores: 3800, memory_mib: 14_000, disk_mib: 91_136 - 1024 + 1024, ..Default::default() };
        assert_eq!(room.misfit(&fits), None, "{room:?}");
        for (demand, why) in [
            (Demand { millicores: 3821, ..fits.clone() }, "too little CPU"),
            (Demand { memory_mib: 14_400, ..fits.clone() }, "too little memory"),
            (Demand { disk_mib: 91_137, ..fits.clone() }, "too little disk (aws.disk.sizeGib)"),
        ] {
            assert_eq!(room.misfit(&demand), Some(why), "{room:?}");
        }
        assert_eq!(Room { pods: 1, ..room }.misfit(&fits), Some("no room for another pod"));
    }

    #[test]
    fn what_a_node_offers_is_read() {
        let mut node = Node::default();
        let all = [("cpu", "3920m"), ("memory", "14Gi"), ("ephemeral-storage", "90Gi"), ("pods", "58")];
        node.status.get_or_insert_default().allocatable = Some(all.map(|(k, v)| (k.to_owned(), Quantity(v.to_owned()))).into());
        assert_eq!(Room::offered(&node), Some(Room { millicores: 3820, memory_mib: 14 * 1024 - 128, disk_mib: 90 * 1024, pods: 50 }));
        assert_eq!(Room::offered(&Node::default()), None);
    }

    #[test]
    fn what_others_ask_for_is_gone_and_an_unknown_ask_is_its_share() {
        let whole = Room { millicores: 8000, memory_mib: 4000, disk_mib: 400, pods: 21 };
        let left = whole.beside(&Asks { millicores: 7000, memory_mib: 100, disk_mib: 0 });
        assert_eq!(left, Room { millicores: 1000, memory_mib: 3900, disk_mib: 400, pods: 19 });
        assert_eq!(whole.beside_share(&whole, 1, 4), Room { millicores: 6000, memory_mib: 3000, disk_mib: 300, pods: 19 });
    }
}
