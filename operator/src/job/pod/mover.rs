//! The gpujob-transfer container: environment, rights, and the volumes that it shares with nobody.

use super::ask::ask;
use super::{Image, Target};
use gpujob_crds::{GpuJob, names};
use gpujob_transfer::credentials::aws::FOLDER_ENV;
use gpujob_transfer::spec;
use gpujob_transfer::store::s3::connection::CA_ENV;
use k8s_openapi::api::core::v1::{
    Capabilities, Container, DownwardAPIVolumeFile, DownwardAPIVolumeSource, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HostPathVolumeSource, ObjectFieldSelector, ResourceRequirements, SeccompProfile, SecretKeySelector, SecretVolumeSource,
    SecurityContext, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Volume in which `fetch` and `stage` keep their state.
pub const STATE: &str = "gpujob-state";
/// Volume of the downward API in which `stage` reads when a checkpoint is wanted, and when its node goes.
const POD: &str = "gpujob-pod";
/// Volume of the node that jobs share, for inputs with `cache: true`: [`names::CACHE_FOLDER`].
const CACHE: &str = "gpujob-cache";
/// Volume that is mounted over the service account's token, so that our containers do not get one.
pub const NO_TOKEN: &str = "gpujob-no-token";
/// Where the API server's token would be mounted.
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Volume of the job's Secret.
const CREDENTIALS: &str = "gpujob-credentials";
/// Keys of the Secret that say where the store is and whom to trust there: the last is a certificate authority, as PEM text. The others
/// are secrets, and read from files: a Secret that is changed while the program runs is heeded, which an environment variable never is.
const PLACES: [&str; 3] = ["AWS_REGION", "AWS_ENDPOINT_URL_S3", CA_ENV];
/// Google's name for a file with a service account's key. In the Secret it is a key whose value is that file.
const GOOGLE: &str = "GOOGLE_APPLICATION_CREDENTIALS";

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
    let mut mounts = vec![mount(STATE, spec::STATE_DIR), VolumeMount { read_only: Some(true), ..mount(NO_TOKEN, TOKEN_PATH) }];
    if let Some(secret) = secret(job) {
        env.extend(PLACES.map(|key| EnvVar {
            name: key.into(),
            value_from: Some(EnvVarSource {
                // Optional each: a Secret for AWS has no endpoint.
                secret_key_ref: Some(SecretKeySelector { name: secret.into(), key: key.into(), optional: Some(true) }),
                ..EnvVarSource::default()
            }),
            ..EnvVar::default()
        }));
        let value = |name: &str, value: String| EnvVar { name: name.into(), value: Some(value), ..EnvVar::default() };
        env.push(value(FOLDER_ENV, spec::CREDENTIALS_DIR.into()));
        if google(job) {
            env.push(value(GOOGLE, format!("{}/{GOOGLE}", spec::CREDENTIALS_DIR)));
        }
        mounts.push(VolumeMount { read_only: Some(true), ..mount(CREDENTIALS, spec::CREDENTIALS_DIR) });
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
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

/// The volumes that [`container`] mounts.
#[must_use]
pub fn volumes(job: &GpuJob) -> Vec<Volume> {
    let source = |name: &str| SecretVolumeSource {
        secret_name: Some(name.into()),
        // Without it the pod would wait for it in silence: the mover says what is missing.
        optional: Some(true),
        ..SecretVolumeSource::default()
    };
    let keys = secret(job).map(|name| Volume { name: CREDENTIALS.into(), secret: Some(source(name)), ..Volume::default() });
    [empty(STATE), empty(NO_TOKEN)].into_iter().chain(keys).collect()
}

fn secret(job: &GpuJob) -> Option<&str> {
    job.spec.storage.as_ref()?.credentials.as_ref().map(|s| s.secret_name.as_str())
}

/// Whether anything of the job lies in Google Cloud Storage.
fn google(job: &GpuJob) -> bool {
    let s = &job.spec;
    let to = s.results.iter().map(|r| &r.to).chain(s.checkpoints.iter().flat_map(|c| &c.to));
    s.inputs.iter().map(|i| &i.from).chain(to).any(|address| address.starts_with("gs://"))
}

/// What the operator tells a running sidecar: annotations of its pod, as files. The kubelet rewrites them as long as a program runs.
#[must_use]
pub fn told() -> (Volume, VolumeMount) {
    let file = |path: &str, annotation: &str| DownwardAPIVolumeFile {
        path: path.into(),
        field_ref: Some(ObjectFieldSelector {
            field_path: format!("metadata.annotations['{annotation}']"),
            ..ObjectFieldSelector::default()
        }),
        ..DownwardAPIVolumeFile::default()
    };
    let items = vec![file("checkpoint", names::CHECKPOINT), file("taken-at", names::TAKEN_AT)];
    let source = DownwardAPIVolumeSource { items: Some(items), ..DownwardAPIVolumeSource::default() };
    let volume = Volume { name: POD.into(), downward_api: Some(source), ..Volume::default() };
    (volume, VolumeMount { read_only: Some(true), ..mount(POD, spec::POD_DIR) })
}

/// The node's cache of inputs.
#[must_use]
pub fn cache() -> (Volume, VolumeMount) {
    let source = HostPathVolumeSource { path: names::CACHE_FOLDER.into(), type_: Some("DirectoryOrCreate".into()) };
    (Volume { name: CACHE.into(), host_path: Some(source), ..Volume::default() }, mount(CACHE, spec::CACHE_DIR))
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
