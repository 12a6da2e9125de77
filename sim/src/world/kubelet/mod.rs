//! Kubelets: a machine boots, its kubelet joins as a Node, its device plugin registers GPUs, and it runs the pods that are bound to it.
//! When the machine's power goes, all of that stops at once, and nobody tells the API server.

mod container;
mod life;
mod node;
mod status;

pub(super) use container::run_program;
pub(super) use life::Orders;
pub(super) use status::{is_terminal, label};

use super::Inner;
use super::machines::Instance;
use super::script::Machine;
use crate::signal;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// One machine whose kubelet has joined.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) name: String,
    /// Cancelled: the machine is off.
    pub(super) power: CancellationToken,
    /// Whether its kubelet reaches the API server.
    pub(super) link: signal::Sender<bool>,
    /// Whether pods get their volumes.
    volumes: bool,
    devices: Mutex<Devices>,
    pods: Mutex<BTreeMap<String, signal::Sender<Orders>>>,
}

#[derive(Debug, Default)]
struct Devices {
    total: i64,
    used: BTreeMap<String, i64>,
}

impl Host {
    fn new(name: &str, power: CancellationToken, volumes: bool) -> Self {
        let (link, devices, pods) = (signal::Sender::new(true), Mutex::default(), Mutex::default());
        Host { name: name.to_owned(), power, link, volumes, devices, pods }
    }

    /// Takes so many GPUs for a pod, if they are there.
    fn admit(&self, pod_uid: &str, gpus: i64) -> bool {
        let mut devices = self.devices.lock().expect("no panic holds this lock");
        let fits = devices.used.values().sum::<i64>() + gpus <= devices.total;
        if fits && gpus > 0 {
            devices.used.insert(pod_uid.to_owned(), gpus);
        }
        fits || gpus == 0
    }

    fn release(&self, pod_uid: &str) {
        self.devices.lock().expect("no panic holds this lock").used.remove(pod_uid);
    }

    fn gpus(&self) -> i64 {
        self.devices.lock().expect("no panic holds this lock").total
    }

    /// Tells the kubelet of a pod that is bound to it. One that is out of reach hears of it when it comes back.
    pub(super) fn tell(self: &Arc<Self>, world: &Arc<Inner>, pod: &Arc<Pod>, gone: bool) {
        if self.power.is_cancelled() || !*self.link.borrow() {
            return;
        }
        let uid = pod.uid().unwrap_or_default();
        let mut pods = self.pods.lock().expect("no panic holds this lock");
        if let Some(orders) = pods.get(&uid) {
            orders.send_modify(|orders| orders.update(pod, gone));
            if gone {
                pods.remove(&uid);
            }
            return;
        }
        if gone || is_terminal(pod) {
            return;
        }
        let mut orders = Orders::default();
        orders.update(pod, false);
        let (sender, receiver) = signal::channel(orders);
        pods.insert(uid, sender);
        let life = life::Life {
            world: world.clone(),
            host: self.clone(),
            view: status::View::of(pod, world.clock.now()),
            pod: pod.clone(),
            orders: receiver,
            dirty: false,
            volume: container::Volume::default(),
        };
        world.spawn_on(&self.power, life.live());
    }

    /// Cuts the kubelet off from the API server, or reconnects it. Its containers do not notice.
    pub(super) fn connect(self: &Arc<Self>, world: &Arc<Inner>, connected: bool) {
        self.link.send_replace(connected);
        if !connected {
            return;
        }
        let known: Vec<String> = self.pods.lock().expect("no panic holds this lock").keys().cloned().collect();
        let there = world.pods_on(&self.name);
        for pod in &there {
            self.tell(world, pod, false);
        }
        for uid in known.into_iter().filter(|uid| !there.iter().any(|p| p.uid().as_deref() == Some(uid))) {
            if let Some(orders) = self.pods.lock().expect("no panic holds this lock").remove(&uid) {
                orders.send_modify(|orders| {
                    if let Some(pod) = orders.pod.clone() {
                        orders.update(&pod, true);
                    }
                });
            }
        }
    }
}

/// From the start of the operating system to a Node with GPUs.
pub(super) async fn boot(world: Arc<Inner>, instance: Instance, machine: Machine, power: CancellationToken, takes: Duration) {
    sleep(takes).await;
    if machine.never_joins {
        return;
    }
    if let Some(name) = &machine.impostor {
        let claim = Instance { name: name.clone(), address: "10.66.6.6".into(), ..instance.clone() };
        register(&world, &claim).await;
    }
    let host = Arc::new(Host::new(&instance.name, power, !machine.no_volumes));
    register(&world, &instance).await;
    world.hardware.joined(&instance.id);
    world.join(&host);
    sleep(world.script.ready).await;
    report(&world, &host, &instance, 0).await;
    world.heard_of(&host.name).await;
    if let Some((after, time)) = machine.silent {
        let (world, host, id) = (world.clone(), host.clone(), instance.id.clone());
        let power = host.power.clone();
        world.clone().spawn_on(&power, async move {
            sleep(after).await;
            world.silence(&host, &id, time).await;
        });
    }
    if instance.gpus > 0 && !machine.no_gpu {
        sleep(world.script.gpu).await;
        host.devices.lock().expect("no panic holds this lock").total = instance.gpus;
        report(&world, &host, &instance, instance.gpus).await;
    }
    if let Some(every) = world.script.heartbeat {
        loop {
            renew(&world, &host).await;
            sleep(every).await;
        }
    }
}

impl Inner {
    /// Cuts a kubelet off for so long. The machine's own timer ends one that stays out of reach.
    pub(super) async fn silence(self: &Arc<Self>, host: &Arc<Host>, id: &str, time: Duration) {
        host.connect(self, false);
        self.hardware.reaches(id, false);
        self.missed(host);
        sleep(time).await;
        self.hardware.reaches(id, true);
        host.connect(self, true);
        self.back(host).await;
    }
}

async fn register(world: &Inner, instance: &Instance) {
    let api: Api<Node> = Api::all(world.client.clone());
    let node: Node = serde_json::from_value(node::registration(instance, world.clock.now())).expect("a Node");
    match api.create(&PostParams::default(), &node).await {
        Ok(_) => {}
        // A machine of that name was here before, and its Node object is still there: as a kubelet does, it is taken over.
        Err(kube::Error::Api(status)) if status.code == 409 => tracing::info!(node = instance.name, "registering: it is there already"),
        Err(error) => tracing::warn!(node = instance.name, %error, "registering"),
    }
}

async fn report(world: &Inner, host: &Host, instance: &Instance, gpus: i64) {
    let status = node::status(instance, gpus, true, world.clock.now());
    patch_status(world, host, json!({"status": status})).await;
}

/// A kubelet's own write of its Node's status; held back while it cannot reach the API server.
pub(super) async fn patch_status(world: &Inner, host: &Host, patch: Value) {
    let mut link = host.link.subscribe();
    while !*link.borrow_and_update() {
        if link.changed().await.is_err() {
            return;
        }
    }
    let api: Api<Node> = Api::all(world.client.clone());
    if let Err(error) = api.patch_status(&host.name, &PatchParams::default(), &Patch::Merge(&patch)).await {
        tracing::info!(node = host.name, %error, "kubelet: status");
    }
}

async fn renew(world: &Inner, host: &Host) {
    use k8s_openapi::api::coordination::v1::Lease;
    let api: Api<Lease> = Api::namespaced(world.client.clone(), "kube-node-lease");
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": host.name},
        "spec": {"holderIdentity": host.name, "leaseDurationSeconds": 40, "renewTime": world.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()},
    });
    if let Err(error) = api.patch(&host.name, &PatchParams::apply("kubelet").force(), &Patch::Apply(&lease)).await {
        tracing::info!(node = host.name, %error, "kubelet: lease");
    }
}
