//! The gpujob-transfer container: environment, rights, and what it is asked to do.

use super::{Image, Target};
use gpujob_crds::job::{OnExisting, Results};
use gpujob_crds::{GpuJob, names};
use gpujob_transfer::spec::{self, TransferSpec};
use k8s_openapi::api::core::v1::{
    Capabilities, Container, EmptyDirVolumeSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;

/// Volume in which `fetch` and `stage` keep their state.
pub const STATE: &str = "gpujob-state";
/// Volume that is mounted over the service account's token, so that our containers do not get one.
pub const NO_TOKEN: &str = "gpujob-no-token";
/// Where the API server's token would be mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The names that SDKs know, and the keys of the Secret.
const CREDENTIALS: [&str; 5] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_ENDPOINT_URL_S3"];

/// Where the pod's UID comes from.
#[derive(Clone, Copy, Debug)]
pub enum PodUid<'a> {
    /// The pod's own.
    Own,
    /// The attempt's pod, which is another one.
    Of(&'a str),
}

/// As whom it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum User {
    /// Root with just enough to read and give away what the program wrote at mode 0600.
    Root,
    /// The template's own user and group.
    Same(i64, Option<i64>),
    /// Nobody: touches no file of the program.
    Nobody,
}

/// A container named `name` that runs gpujob-transfer with `args`.
#[must_use]
pub fn container(job: &GpuJob, target: &Target, image: &Image, name: &str, args: &[&str], uid: PodUid<'_>, user: User) -> Container {
    let mut env = vec![
        EnvVar {
            name: spec::SPEC_ENV.into(),
            value: Some(serde_json::to_string(&ask(job, target, image)).unwrap_or_default()),
            ..EnvVar::default()
        },
        EnvVar { name: spec::POD_UID_ENV.into(), ..pod_uid(uid) },
    ];
    if let Some(secret) = job.spec.storage.as_ref().and_then(|s| s.credentials.as_ref()) {
        env.extend(CREDENTIALS.map(|key| EnvVar {
            name: key.into(),
            value_from: Some(EnvVarSource {
                // Optional each: a Secret for AWS has no endpoint, one for a static key no session token.
                secret_key_ref: Some(SecretKeySelector { name: secret.secret_name.clone(), key: key.into(), optional: Some(true) }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }));
    }
    Container {
        name: name.into(),
        image: Some(image.name.clone()),
        image_pull_policy: image.pull_policy.clone(),
        args: Some(args.iter().map(|a| (*a).to_owned()).collect()),
        env: Some(env),
        resources: Some(resources()),
        security_context: Some(security(user)),
        termination_message_path: Some(spec::TERMINATION_LOG.into()),
        termination_message_policy: Some("File".into()),
        volume_mounts: Some(vec![mount(STATE, spec::STATE_DIR), VolumeMount { read_only: Some(true), ..mount(NO_TOKEN, TOKEN_PATH) }]),
        ..Container::default()
    }
}

/// The volumes that [`container`] mounts.
#[must_use]
pub fn volumes() -> Vec<Volume> {
    vec![empty(STATE), empty(NO_TOKEN)]
}

/// An emptyDir.
#[must_use]
pub fn empty(name: &str) -> Volume {
    Volume { name: name.into(), empty_dir: Some(EmptyDirVolumeSource::default()), ..Volume::default() }
}

/// A mount, read and write.
#[must_use]
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.into(), mount_path: path.into(), ..VolumeMount::default() }
}

fn pod_uid(uid: PodUid<'_>) -> EnvVar {
    match uid {
        PodUid::Of(uid) => EnvVar { value: Some(uid.to_owned()), ..EnvVar::default() },
        PodUid::Own => EnvVar {
            value_from: Some(EnvVarSource {
                field_ref: Some(ObjectFieldSelector { field_path: "metadata.uid".into(), ..ObjectFieldSelector::default() }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        },
    }
}

fn resources() -> ResourceRequirements {
    let quantities = |list: &[(&str, &str)]| Some(list.iter().map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned()))).collect());
    ResourceRequirements {
        requests: quantities(&[("cpu", "50m"), ("memory", "64Mi")]),
        // No CPU limit: it would throttle the checksums of a big delivery while the node is paid for.
        // Lists of a million files are held in memory, and being killed for it would run the program again. A limit reserves nothing.
        limits: quantities(&[("memory", "2Gi")]),
        ..ResourceRequirements::default()
    }
}

fn security(user: User) -> SecurityContext {
    let (uid, gid, add) = match user {
        User::Root => (0, None, Some(["DAC_OVERRIDE", "CHOWN", "FOWNER"].map(str::to_owned).to_vec())),
        User::Same(uid, gid) => (uid, gid, None),
        User::Nobody => (65_532, Some(65_532), None),
    };
    SecurityContext {
        run_as_user: Some(uid),
        run_as_group: gid,
        run_as_non_root: Some(uid != 0),
        allow_privilege_escalation: Some(false),
        privileged: Some(false),
        read_only_root_filesystem: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add }),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..SecurityContext::default()
    }
}

/// What gpujob-transfer is asked to do for this attempt.
#[must_use]
pub fn ask(job: &GpuJob, target: &Target, image: &Image) -> TransferSpec {
    TransferSpec {
        job: spec::JobRef {
            uid: job.uid().unwrap_or_default(),
            namespace: job.namespace().unwrap_or_default(),
            name: job.name_any(),
            spec_hash: spec_hash(job),
            cluster: image.cluster.clone(),
        },
        index: target.index.unsigned_abs(),
        attempt: target.attempt.unsigned_abs(),
        inputs: job
            .spec
            .inputs
            .iter()
            .map(|i| spec::Input { from: i.from.clone(), path: i.path.clone(), checksum: None, cache: false })
            .collect(),
        results: job.spec.results.as_ref().map(results),
        checkpoints: None,
        integrity: None,
        abandoned: vec![],
    }
}

fn results(r: &Results) -> spec::Results {
    spec::Results {
        path: r.path.clone(),
        to: r.to.clone(),
        summary: r.summary.clone(),
        on_existing: match r.on_existing.unwrap_or_default() {
            OnExisting::Refuse => spec::OnExisting::Refuse,
            OnExisting::Overwrite => spec::OnExisting::Overwrite,
            OnExisting::Reuse => spec::OnExisting::Reuse,
        },
        include: vec![],
        exclude: vec![],
        keep_on_failure_seconds: 600,
    }
}

/// Hash of what decides the results: the GPUs, the template, the inputs and where the results lie. What a job may cost and
/// how long it may take change nothing about them.
#[must_use]
pub fn spec_hash(job: &GpuJob) -> String {
    let s = &job.spec;
    let results = s.results.as_ref().map(|r| (&r.path, &r.to, &r.summary));
    let text = serde_json::to_string(&(&s.gpu, &s.template, &s.inputs, results)).unwrap_or_default();
    names::digest(&[&text], 32)
}
