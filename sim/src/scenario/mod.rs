//! Scenarios: what is there at the beginning, what the world does, what happens on the way, and how it must end. Plain data:
//! the same scenario runs without faults, with a crash after each write, and under random schedules.

mod by_cloud;
mod by_cluster;
mod by_hand;
pub mod catalog;
mod expect;
mod late;
pub mod objects;
mod steps;

pub use catalog::all;
pub use expect::{End, Expect, JobExpect};
pub use steps::{Act, Stage, Step, When};

use crate::cloud::FakeCloud;
use crate::world::Script;
use kube::Api;
use kube::api::PostParams;
use kube::core::DynamicObject;
use kube::discovery::ApiResource;
use serde_json::Value;
use std::time::Duration;

/// One life of the whole system.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// A short name, unique: `plain`.
    pub name: &'static str,
    /// What it shows, for people.
    pub about: &'static str,
    /// What is applied at the beginning, in this order.
    pub objects: Vec<Value>,
    /// How long things take, and what misbehaves.
    pub script: Script,
    /// What the cloud has and how it behaves.
    pub cloud: fn(&FakeCloud),
    /// What happens on the way.
    pub steps: Vec<Step>,
    /// How it must end.
    pub expect: Expect,
    /// Virtual time by which it must have ended, without faults.
    pub horizon: Duration,
    /// How many operators run.
    pub replicas: usize,
}

impl Scenario {
    /// Applies the objects that it begins with.
    ///
    /// # Errors
    /// The API server's: an object is wrong.
    pub async fn apply(&self, client: &kube::Client) -> kube::Result<()> {
        for object in &self.objects {
            let (kind, namespace) = (object["kind"].as_str().unwrap_or_default(), object["metadata"]["namespace"].as_str());
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource(kind)),
                None => Api::all_with(client.clone(), &resource(kind)),
            };
            let object: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams::default(), &object).await?;
        }
        Ok(())
    }
}

/// The resource of a kind that scenarios use.
pub(crate) fn resource(kind: &str) -> ApiResource {
    match kind {
        "GpuJob" => ApiResource::erase::<gpujob_crds::GpuJob>(&()),
        "GpuPool" => ApiResource::erase::<gpujob_crds::GpuPool>(&()),
        "GpuNode" => ApiResource::erase::<gpujob_crds::GpuNode>(&()),
        "Node" => ApiResource::erase::<k8s_openapi::api::core::v1::Node>(&()),
        "ResourceQuota" => ApiResource::erase::<k8s_openapi::api::core::v1::ResourceQuota>(&()),
        "Pod" => ApiResource::erase::<k8s_openapi::api::core::v1::Pod>(&()),
        _ => ApiResource::erase::<k8s_openapi::api::core::v1::Namespace>(&()),
    }
}
