//! Machines: what the cloud runs, seen from inside. One that runs boots a kubelet; one that does not has no power.

use super::Inner;
use super::kubelet::boot;
use crate::cloud::FakeCloud;
use futures::FutureExt;
use futures::future::BoxFuture;
use gpujob_crds::names;
use gpujob_provider_core::InstanceState;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// A machine whose operating system runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// The cloud's id.
    pub id: String,
    /// Its private DNS name: what its kubelet calls itself.
    pub name: String,
    /// Its private address.
    pub address: String,
    /// The `spec.providerID` of its Node.
    pub provider_id: String,
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`.
    pub zone: String,
    /// The pool that its user data names.
    pub pool: String,
    /// The name that it offers GPUs under.
    pub resource_name: String,
    /// Its GPUs.
    pub gpus: i64,
    /// CPU that pods can have.
    pub millicores: i64,
    /// Memory that pods can have, in MiB.
    pub memory_mib: i64,
    /// Most pods.
    pub pods: i64,
}

/// Whatever has machines: a cloud in memory, or a stub for load tests.
pub trait Hardware: Send + Sync {
    /// Every machine that runs now, in the order of their launch.
    fn running(&self) -> Vec<Instance>;

    /// Waits until something has happened to machines since `seen`, and says up to where that was. Begin with 0.
    fn changed(&self, seen: u64) -> BoxFuture<'static, u64>;

    /// Its kubelet has joined. The machine's own timer waits for that.
    fn joined(&self, id: &str);

    /// Whether it reaches the API server, from now on. The timer looks at that too, and ends a machine that does not for long.
    fn reaches(&self, id: &str, reaches: bool);
}

/// Most pods of a machine: what its network has addresses for. As `Offer::allocatable_memory_mib` counts.
const PODS: i64 = 29;

impl Hardware for FakeCloud {
    fn running(&self) -> Vec<Instance> {
        let now = self.now();
        let machine = |m: crate::cloud::Machine| Instance {
            provider_id: m.provider_id(),
            name: m.private_dns_name,
            address: m.private_ip,
            pool: m.tags.get(names::POOL_TAG).cloned().unwrap_or_default(),
            resource_name: "nvidia.com/gpu".into(),
            gpus: i64::from(m.offer.gpus),
            millicores: m.offer.allocatable_millicores(),
            memory_mib: m.offer.allocatable_memory_mib(),
            pods: PODS,
            instance_type: m.offer.instance_type,
            zone: m.offer.zone,
            id: m.id,
        };
        self.instances().into_iter().filter(|m| m.state(now) == InstanceState::Running).map(machine).collect()
    }

    fn changed(&self, seen: u64) -> BoxFuture<'static, u64> {
        let cloud = self.clone();
        async move { cloud.events_after(seen).await.last().map_or(seen, |e| e.number) }.boxed()
    }

    fn joined(&self, id: &str) {
        FakeCloud::joined(self, id);
    }

    fn reaches(&self, id: &str, reaches: bool) {
        self.sees_api(id, reaches);
    }
}

/// The machine that is always there, without GPUs: where short pods run.
pub(super) fn cpu_node() -> Instance {
    Instance {
        id: "cpu".into(),
        name: "cpu-0".into(),
        address: "10.0.0.10".into(),
        provider_id: "sim:///cpu-0".into(),
        instance_type: "cpu".into(),
        zone: "a".into(),
        pool: String::new(),
        resource_name: String::new(),
        gpus: 0,
        millicores: 64_000,
        memory_mib: 256 << 10,
        pods: 10_000,
    }
}

/// Boots what appears and cuts the power of what is gone, for ever.
pub(super) async fn follow(world: Arc<Inner>) {
    let mut powered: BTreeMap<String, CancellationToken> = BTreeMap::new();
    let (mut booted, mut seen) = (0, 0);
    loop {
        seen = world.hardware.changed(seen).await;
        let running = world.hardware.running();
        let ids: BTreeSet<&str> = running.iter().map(|i| i.id.as_str()).collect();
        powered.retain(|id, power| {
            let runs = ids.contains(id.as_str());
            if !runs {
                tracing::debug!(id, "power off");
                power.cancel();
            }
            runs
        });
        for instance in running {
            if powered.contains_key(&instance.id) {
                continue;
            }
            let power = world.stop.child_token();
            powered.insert(instance.id.clone(), power.clone());
            let machine = world.script.machines.get(&booted).cloned().unwrap_or_default();
            booted += 1;
            let watch = power.clone();
            let (id, w) = (instance.name.clone(), world.clone());
            world.spawn_on(&world.stop, async move {
                watch.cancelled().await;
                w.lost_power(&id);
            });
            world.spawn_on(&power, boot(world.clone(), instance, machine, power.clone(), world.script.boot));
        }
    }
}
