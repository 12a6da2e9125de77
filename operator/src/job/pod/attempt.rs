//! The pod of an attempt: the user's template on the attempt's node, with inputs before and results after.

use super::folders::{self, Folder, Holds};
use super::mover::{self, PodUid, User, mount};
use super::{Image, PodError, TEMPLATE_HASH, Target, metadata, template_hash};
use crate::job::facts::{FETCH, Role, STAGE};
use gpujob_crds::{GpuJob, names};
use gpujob_transfer::spec::CONTAINERS_ENV;
use k8s_openapi::api::core::v1::{Container, EnvVar, Pod, PodSpec, Toleration, VolumeMount};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Seconds that the pod outlives contact with its node: a spot node that is silent is most likely gone.
const SILENT_NODE: i64 = 30;
/// The kubelet's own default grace.
const DEFAULT_GRACE: i64 = 30;

/// Builds the pod.
///
/// # Errors
/// When template and job contradict each other or us: only a person can mend that.
pub fn build(job: &GpuJob, target: &Target, image: &Image) -> Result<Pod, PodError> {
    let template = job.spec.template.clone();
    let mut spec = template.spec.unwrap_or_default();
    let folders = folders::of(job)?;
    check_names(&spec)?;
    folders::check(&spec, &folders)?;
    give_gpus(job, &mut spec, &target.resource_name)?;

    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let mounts = c.volume_mounts.get_or_insert_default();
        mounts.extend(folders.iter().map(|f| mount(&f.volume, &f.path)));
    }
    for c in &mut spec.containers {
        // The last lines of a program that failed are then part of the pod's status, and of the job's.
        c.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".into());
    }
    spec.init_containers = Some(with_ours(job, target, image, &spec, &folders));
    let volumes = spec.volumes.get_or_insert_default();
    for f in &folders {
        if !volumes.iter().any(|v| v.name == f.volume) {
            volumes.push(mover::empty(&f.volume));
        }
    }
    if !folders.is_empty() {
        volumes.extend(mover::volumes());
    }
    if folders.iter().any(|f| f.holds != Holds::Inputs) {
        volumes.push(mover::told().0);
    }
    if caches(job) {
        volumes.push(mover::cache().0);
    }
    place(&mut spec, &target.node);
    spec.restart_policy = Some("Never".into());
    let grace = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE);
    let saves = job.spec.results.is_some() || job.spec.checkpoints.is_some();
    let delivery = if saves { job.spec.delivery_deadline() } else { 0 };
    spec.termination_grace_period_seconds = Some(grace + delivery);

    let mut meta = metadata(job, target, Role::Attempt, template.metadata);
    meta.finalizers = Some(vec![names::POD_FINALIZER.into()]);
    meta.labels.get_or_insert_default().insert(TEMPLATE_HASH.into(), template_hash(job));
    Ok(Pod { metadata: meta, spec: Some(spec), status: None })
}

fn check_names(spec: &PodSpec) -> Result<(), PodError> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| ("container", &c.name));
    let volumes = spec.volumes.iter().flatten().map(|v| ("volume", &v.name));
    match containers.chain(volumes).find(|(_, name)| name.starts_with("gpujob-")) {
        Some((kind, name)) => Err(PodError::NameTaken { kind, name: name.clone() }),
        None => Ok(()),
    }
}

fn give_gpus(job: &GpuJob, spec: &mut PodSpec, resource: &str) -> Result<(), PodError> {
    let first = spec.containers.first().ok_or(PodError::NoContainer)?.name.clone();
    let name = job.spec.gpu.container.clone().unwrap_or(first);
    let count = Quantity(job.spec.gpu.count.to_string());
    let mut found = false;
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        let asks = c.resources.iter().flat_map(|r| [&r.limits, &r.requests]).flatten().any(|q| q.contains_key(resource));
        if c.name == name {
            let r = c.resources.get_or_insert_default();
            // An extended resource is not overcommitted: request and limit are one number.
            r.requests.get_or_insert_default().insert(resource.into(), count.clone());
            r.limits.get_or_insert_default().insert(resource.into(), count.clone());
            found = true;
        } else if asks {
            return Err(PodError::SecondGpu { container: c.name.clone(), resource: resource.into(), gpu: name });
        }
    }
    if found { Ok(()) } else { Err(PodError::NoSuchContainer(name)) }
}

/// Our containers come first: inputs are there before the user's own init containers, and the sidecar runs while they do.
fn with_ours(job: &GpuJob, target: &Target, image: &Image, spec: &PodSpec, folders: &[Folder]) -> Vec<Container> {
    let theirs = spec.init_containers.clone().unwrap_or_default();
    if folders.is_empty() {
        return theirs;
    }
    let user = user(job, spec);
    let mounts =
        |not: Holds| -> Vec<VolumeMount> { folders.iter().filter(|f| f.holds != not).map(|f| mount(&f.volume, &f.path)).collect() };
    // Checkpoints are restored by the one and saved by the other.
    let (mut inputs, mut outputs) = (mounts(Holds::Results), mounts(Holds::Inputs));
    if caches(job) {
        inputs.push(mover::cache().1);
    }
    let make = |name, arg, mounts: Vec<VolumeMount>, restart: Option<&str>| {
        let mut c = mover::container(job, target, image, name, &[arg], PodUid::Own, user);
        c.volume_mounts.get_or_insert_default().extend(mounts);
        c.restart_policy = restart.map(str::to_owned);
        c
    };
    let mut ours = vec![make(FETCH, "fetch", inputs, None)];
    if !outputs.is_empty() {
        outputs.push(mover::told().1);
        ours.push(make(STAGE, "stage", outputs, Some("Always")));
    }
    // Kubernetes shares 12 KiB of termination messages among all containers: a receipt must know with how many.
    let count = ours.len() + theirs.len() + spec.containers.len();
    for c in &mut ours {
        c.env.get_or_insert_default().push(EnvVar { name: CONTAINERS_ENV.into(), value: Some(count.to_string()), value_from: None });
    }
    ours.extend(theirs);
    ours
}

/// Whether an input is to be kept for the node's next job.
fn caches(job: &GpuJob) -> bool {
    job.spec.inputs.iter().any(|i| i.cache == Some(true))
}

/// The user that the GPU container runs as, so that files are readable both ways.
fn user(job: &GpuJob, spec: &PodSpec) -> User {
    let name = job.spec.gpu.container.as_ref();
    let main = spec.containers.iter().find(|c| name.is_none_or(|n| *n == c.name)).and_then(|c| c.security_context.as_ref());
    let pod = spec.security_context.as_ref();
    let uid = main.and_then(|s| s.run_as_user).or(pod.and_then(|s| s.run_as_user));
    let gid = main.and_then(|s| s.run_as_group).or(pod.and_then(|s| s.run_as_group));
    match uid {
        None | Some(0) => User::Root,
        Some(uid) => User::Same(uid, gid),
    }
}

fn place(spec: &mut PodSpec, node: &str) {
    spec.node_selector.get_or_insert_default().insert(names::NODE_LABEL.into(), node.into());
    let tolerations = spec.tolerations.get_or_insert_default();
    let has = |list: &[Toleration], key: &str| list.iter().any(|t| t.key.as_deref() == Some(key));
    if !has(tolerations, names::GPU_TAINT) {
        tolerations.push(tolerate(names::GPU_TAINT, "NoSchedule", None));
    }
    for toleration in silence() {
        if !has(tolerations, toleration.key.as_deref().unwrap_or_default()) {
            tolerations.push(toleration);
        }
    }
}

/// A pod of ours does not wait the default five minutes for a node that has gone silent.
pub(super) fn silence() -> [Toleration; 2] {
    ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"].map(|key| tolerate(key, "NoExecute", Some(SILENT_NODE)))
}

/// A toleration of a taint, whatever its value.
pub(super) fn tolerate(key: &str, effect: &str, seconds: Option<i64>) -> Toleration {
    Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some(effect.into()),
        toleration_seconds: seconds,
        value: None,
    }
}
