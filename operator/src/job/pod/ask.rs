//! What gpujob-transfer is asked to do for an attempt: the GpuJob in its own words, see [`gpujob_transfer::spec`].

use super::{Image, Target};
use gpujob_crds::job::{self, OnExisting};
use gpujob_crds::{GpuJob, names};
use gpujob_transfer::spec::{self, TransferSpec};
use kube::ResourceExt;

/// Seconds between two checkpoints when the job says nothing.
const INTERVAL: i64 = 300;
/// How many checkpoints are kept when the job says nothing.
const KEEP: i32 = 3;

/// The order.
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
        inputs: job.spec.inputs.iter().map(input).collect(),
        results: job.spec.results.as_ref().map(|r| results(r, job.spec.keep_on_failure())),
        checkpoints: checkpoints(job),
        integrity: job.spec.storage.as_ref().and_then(|s| s.integrity).map(integrity),
        abandoned: job.status.as_ref().map(|s| s.abandoned.clone()).unwrap_or_default(),
    }
}

fn input(i: &job::Input) -> spec::Input {
    spec::Input { from: i.from.clone(), path: i.path.clone(), checksum: i.checksum.clone(), cache: i.cache.unwrap_or(false) }
}

fn results(r: &job::Results, keep: i64) -> spec::Results {
    spec::Results {
        path: r.path.clone(),
        to: r.to.clone(),
        summary: r.summary.clone(),
        on_existing: match r.on_existing.unwrap_or_default() {
            OnExisting::Refuse => spec::OnExisting::Refuse,
            OnExisting::Overwrite => spec::OnExisting::Overwrite,
            OnExisting::Reuse => spec::OnExisting::Reuse,
        },
        include: r.include.clone(),
        exclude: r.exclude.clone(),
        keep_on_failure_seconds: keep.unsigned_abs(),
    }
}

fn checkpoints(job: &GpuJob) -> Option<spec::Checkpoints> {
    let c = job.spec.checkpoints.as_ref()?;
    Some(spec::Checkpoints {
        path: c.path.clone(),
        to: c.to.clone().or_else(|| job.spec.results.as_ref().map(|r| r.to.clone()))?,
        interval_seconds: c.interval.map_or(INTERVAL, |s| s.0).max(1).unsigned_abs(),
        keep: c.keep.unwrap_or(KEEP).unsigned_abs(),
    })
}

fn integrity(i: job::Integrity) -> spec::Integrity {
    match i {
        job::Integrity::Crc64nvme => spec::Integrity::Crc64nvme,
        job::Integrity::Sha256 => spec::Integrity::Sha256,
        job::Integrity::Md5 => spec::Integrity::Md5,
        job::Integrity::None => spec::Integrity::None,
    }
}

/// Hash of what decides the results: the GPUs, the template, the inputs and where the results lie. What a job may cost and
/// how long it may take change nothing about them, and neither does how they are kept on the way.
#[must_use]
pub fn spec_hash(job: &GpuJob) -> String {
    let s = &job.spec;
    let results = s.results.as_ref().map(|r| (&r.path, &r.to, &r.summary, &r.include, &r.exclude));
    let text = serde_json::to_string(&(&s.gpu, &s.template, &s.inputs, results)).unwrap_or_default();
    names::digest(&[&text], 32)
}
