//! No silent wait: a job that does not run says why.

use super::mirror::Mirror;
use gpujob_crds::GpuJob;
use gpujob_crds::conditions::{find, job as types};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

/// How long a job may have nothing to say after it was applied, or after something went wrong.
const SILENT: SignedDuration = SignedDuration::from_secs(30);

/// Jobs that wait in silence.
pub(super) fn look(mirror: &Mirror, calm: Timestamp, now: Timestamp) -> Vec<String> {
    mirror
        .jobs
        .values()
        .filter(|job| silent(job, mirror, calm, now))
        .map(|job| format!("{} waits and does not say why", job.name_any()))
        .collect()
}

fn silent(job: &GpuJob, mirror: &Mirror, calm: Timestamp, now: Timestamp) -> bool {
    let created = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let status = job.status.clone().unwrap_or_default();
    let uid = job.uid().unwrap_or_default();
    let over = status.completion_time.is_some() || job.metadata.deletion_timestamp.is_some() || !job.spec.is_ours();
    let held = mirror.nodes.values().any(|n| n.reservation_of(&uid).is_some());
    if over || held || now.duration_since(created.max(calm)) < SILENT {
        return false;
    }
    let says = |type_| find(&status.conditions, type_).is_some_and(|c| c.status != "True" && !c.message.is_empty());
    !says(types::ASSIGNED) && !says(types::SUCCEEDED)
}
