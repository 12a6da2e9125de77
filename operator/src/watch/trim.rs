//! What is kept of an object: caches hold what is needed and no more.

use gpujob_crds::GpuJob;
use k8s_openapi::api::core::v1::{Container, Node, Pod};

pub(super) fn trim<K: kube::Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = object.meta_mut().annotations.as_mut() {
        annotations.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
}

pub(super) fn trim_job(job: &mut GpuJob) {
    trim(job);
    // What runs on the GPUs: its image may be pulled while the instance still boots.
    let main = job.spec.gpu.container.clone();
    let main = main.or_else(|| job.spec.template.spec.as_ref().and_then(|s| s.containers.first()).map(|c| c.name.clone()));
    let keep = |c: Container| Container {
        image: c.image.filter(|_| main.as_ref() == Some(&c.name)),
        name: c.name,
        resources: c.resources,
        restart_policy: c.restart_policy,
        ..Default::default()
    };
    if let Some(spec) = job.spec.template.spec.take() {
        job.spec.template = Default::default();
        job.spec.template.spec = Some(k8s_openapi::api::core::v1::PodSpec {
            containers: spec.containers.into_iter().map(keep).collect(),
            init_containers: spec.init_containers.map(|c| c.into_iter().map(keep).collect()),
            overhead: spec.overhead,
            ..Default::default()
        });
    }
}

pub(super) fn trim_pod(pod: &mut Pod) {
    trim(pod);
    if let Some(spec) = pod.spec.as_mut() {
        spec.volumes = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            let restart_policy = container.restart_policy.take();
            *container = Container { name: std::mem::take(&mut container.name), restart_policy, ..Default::default() };
        }
    }
}

pub(super) fn trim_node(node: &mut Node) {
    trim(node);
    if let Some(status) = node.status.as_mut() {
        status.images = None;
    }
}

/// The image that runs on the GPUs of this job, as its cached template says.
#[must_use]
pub fn main_image(job: &GpuJob) -> Option<&str> {
    job.spec.template.spec.as_ref()?.containers.iter().find_map(|c| c.image.as_deref())
}
