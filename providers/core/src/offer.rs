//! What can be bought, and what is wanted.

use gpujob_crds::node::OfferRef;
use gpujob_crds::{Market, Price};

/// One thing that can be bought: instance type x zone x market.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Offer {
    /// US dollars per hour now. First, so that offers sort cheapest first.
    pub price: Price,
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The market.
    pub market: Market,
    /// US dollars per hour in the on-demand market: what a spot price is judged by.
    pub on_demand_price: Price,
    /// GPUs.
    pub gpus: i32,
    /// The GPU's model, as the provider names it: `T4`, `L4`, `H100`.
    pub gpu_model: String,
    /// Memory of each GPU, in MiB.
    pub gpu_memory_mib: i64,
    /// Virtual CPUs.
    pub vcpus: i32,
    /// Memory, in MiB.
    pub memory_mib: i64,
}

impl Offer {
    /// For people: `spot g6.xlarge us-east-1a`.
    #[must_use]
    pub fn label(&self) -> String {
        format!("{} {} {}", self.market, self.instance_type, self.zone)
    }

    /// As a GpuNode records it.
    #[must_use]
    pub fn reference(&self) -> OfferRef {
        OfferRef { instance_type: self.instance_type.clone(), zone: self.zone.clone(), price_per_hour: self.price, gpus: self.gpus }
    }

    /// Millicores that pods can have: the type's less what an EKS kubelet keeps back.
    /// Source: amazon-eks-ami's `kube-reserved` formula (6 % of the first core, 1 % of the second, 0.5 % of the next two,
    /// 0.25 % of the rest).
    #[must_use]
    pub fn allocatable_millicores(&self) -> i64 {
        let cores = i64::from(self.vcpus);
        let share = |from: i64, to: i64, percent_x100: i64| (cores.min(to) - from).max(0) * 1000 * percent_x100 / 10_000;
        cores * 1000 - share(0, 1, 600) - share(1, 2, 100) - share(2, 4, 50) - share(4, i64::MAX, 25)
    }

    /// MiB that pods can have: the type's, less 7.5 % that the hypervisor and kernel take before the kubelet sees it
    /// (Karpenter's `VM_MEMORY_OVERHEAD_PERCENT`), less the kubelet's 255 MiB + 11 MiB a pod for 29 pods, less 100 MiB eviction.
    #[must_use]
    pub fn allocatable_memory_mib(&self) -> i64 {
        (self.memory_mib * 925 / 1000 - 255 - 11 * 29 - 100).max(0)
    }
}

/// What one attempt needs of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Demand {
    /// GPUs, all on one instance.
    pub gpus: i32,
    /// The least memory of each GPU, in MiB.
    pub gpu_memory_mib: i64,
    /// The models that will do, lower case. Empty: any.
    pub models: Vec<String>,
    /// Millicores that the pod's containers ask for.
    pub millicores: i64,
    /// MiB that the pod's containers ask for.
    pub memory_mib: i64,
    /// MiB of ephemeral storage that the pod's containers ask for. What an instance has of it is the pool's to say.
    pub disk_mib: i64,
}

impl Demand {
    /// Why `offer` does not do, or `None` when it does.
    #[must_use]
    pub fn misfit(&self, offer: &Offer) -> Option<&'static str> {
        if let Some(why) = self.gpu_misfit(offer) {
            Some(why)
        } else if offer.allocatable_millicores() < self.millicores {
            Some("too little CPU")
        } else if offer.allocatable_memory_mib() < self.memory_mib {
            Some("too little memory")
        } else {
            None
        }
    }

    /// The same for the GPUs alone: the rest may be known better than from the type.
    #[must_use]
    pub fn gpu_misfit(&self, offer: &Offer) -> Option<&'static str> {
        if offer.gpus < self.gpus {
            Some("too few GPUs")
        } else if offer.gpu_memory_mib < self.gpu_memory_mib {
            Some("too little GPU memory")
        } else if !self.models.is_empty() && !self.models.contains(&offer.gpu_model.to_lowercase()) {
            Some("another GPU model")
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer() -> Offer {
        Offer {
            price: Price::from_micros(389_700),
            instance_type: "g6.xlarge".into(),
            zone: "us-east-1a".into(),
            market: Market::Spot,
            on_demand_price: Price::from_micros(804_800),
            gpus: 1,
            gpu_model: "L4".into(),
            gpu_memory_mib: 22_888,
            vcpus: 4,
            memory_mib: 16_384,
        }
    }

    #[test]
    fn every_resource_counts() {
        let fits =
            Demand { gpus: 1, gpu_memory_mib: 20 * 1024, models: vec!["l4".into()], millicores: 3000, memory_mib: 8192, disk_mib: 0 };
        assert_eq!(fits.misfit(&offer()), None);
        for (demand, why) in [
            (Demand { gpus: 2, ..fits.clone() }, "too few GPUs"),
            (Demand { gpu_memory_mib: 24 * 1024, ..fits.clone() }, "too little GPU memory"),
            (Demand { models: vec!["h100".into()], ..fits.clone() }, "another GPU model"),
            (Demand { millicores: 4000, ..fits.clone() }, "too little CPU"),
            (Demand { memory_mib: 16_000, ..fits.clone() }, "too little memory"),
        ] {
            assert_eq!(demand.misfit(&offer()), Some(why));
        }
    }

    #[test]
    fn kubelets_keep_some_back() {
        assert_eq!(offer().allocatable_millicores(), 4000 - 60 - 10 - 10);
        assert!(offer().allocatable_memory_mib() < 15_000);
    }
}
