//! The folders that our containers share with the user's, each on a volume of its own.

use super::PodError;
use gpujob_crds::GpuJob;
use k8s_openapi::api::core::v1::PodSpec;

/// One folder.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    pub(super) volume: String,
    pub(super) path: String,
    pub(super) holds: Holds,
}

/// What lies in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Filled before the program starts.
    Inputs,
    /// Delivered when it has ended.
    Results,
    /// Saved while it runs, and restored before it starts.
    Checkpoints,
}

impl Holds {
    /// The field of the GpuJob that asks for it.
    const fn field(self) -> &'static str {
        match self {
            Holds::Inputs => "inputs",
            Holds::Results => "results",
            Holds::Checkpoints => "checkpoints",
        }
    }
}

/// The job's folders. Inputs of one path share a volume; results have their own, or inputs would be delivered as results, and so
/// have checkpoints.
///
/// # Errors
/// When two fields want one folder, or one of them wants ours.
pub(super) fn of(job: &GpuJob) -> Result<Vec<Folder>, PodError> {
    let mut all: Vec<Folder> = vec![];
    for (i, input) in job.spec.inputs.iter().enumerate() {
        if !all.iter().any(|f| same(&f.path, &input.path)) {
            all.push(Folder { volume: format!("gpujob-input-{i}"), path: input.path.clone(), holds: Holds::Inputs });
        }
    }
    let results = job.spec.results.as_ref().map(|r| ("gpujob-results", &r.path, Holds::Results));
    let checkpoints = job.spec.checkpoints.as_ref().map(|c| ("gpujob-checkpoints", &c.path, Holds::Checkpoints));
    for (volume, path, holds) in results.into_iter().chain(checkpoints) {
        if let Some(other) = all.iter().find(|f| same(&f.path, path)) {
            return Err(taken(path, holds.field(), other.holds.field()));
        }
        all.push(Folder { volume: volume.into(), path: path.clone(), holds });
    }
    match all.iter().find(|f| same(&f.path, "/gpujob") || f.path.starts_with("/gpujob/")) {
        Some(f) => Err(taken(&f.path, f.holds.field(), "the operator")),
        None => Ok(all),
    }
}

/// Whether the template leaves these folders free.
///
/// # Errors
/// When a container of it mounts something there.
pub(super) fn check(spec: &PodSpec, folders: &[Folder]) -> Result<(), PodError> {
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        for m in c.volume_mounts.iter().flatten() {
            if let Some(f) = folders.iter().find(|f| same(&f.path, &m.mount_path)) {
                return Err(taken(&f.path, f.holds.field(), &format!("container {}'s volume {}", c.name, m.name)));
            }
        }
    }
    Ok(())
}

fn same(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

fn taken(path: &str, one: &str, other: &str) -> PodError {
    PodError::PathTaken { path: path.into(), one: one.into(), other: other.into() }
}
