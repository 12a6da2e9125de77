//! What one GpuJob asks of the scheduler: which attempt may start when, and what it needs.

use crate::job::{Next, last_ended, next};
use gpujob_crds::{GpuJob, Market, Price};
use gpujob_provider_core::Demand;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use kube::ResourceExt;

/// A job that waits for a reservation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    pub(super) uid: String,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) attempt: i32,
    pub(super) priority: i32,
    pub(super) created: Timestamp,
    pub(super) demand: Demand,
    /// Empty: every pool that admits the namespace.
    pub(super) pools: Vec<String>,
    /// Empty: all that the pool allows.
    pub(super) markets: Vec<Market>,
    pub(super) price_cap: Option<Price>,
    /// GpuNodes and instance types that its pod did not fit on.
    pub(super) misfits: Vec<(Option<String>, Option<String>)>,
    /// Not before, when it is in backoff.
    pub(super) not_before: Option<Timestamp>,
}

/// What this job waits for, if it waits.
pub(super) fn pending(job: &GpuJob, now: Timestamp) -> Option<Pending> {
    let (attempt, not_before) = match next(job, now) {
        Next::Attempt(attempt) => (attempt, None),
        Next::NotBefore(at) => (job.status.as_ref().map_or(1, last_ended) + 1, Some(at)),
        Next::No(_) => return None,
    };
    let spec = &job.spec;
    Some(Pending {
        uid: job.uid()?,
        namespace: job.namespace()?,
        name: job.name_any(),
        attempt,
        priority: spec.priority.unwrap_or(0),
        created: job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0),
        demand: Demand {
            gpus: spec.gpu.count,
            gpu_memory_mib: spec.gpu.memory.as_deref().map_or(0, mebibytes),
            models: spec.gpu.models.iter().map(|m| m.to_lowercase()).collect(),
            ..pod_demand(spec.template.spec.as_ref())
        },
        pools: spec.pools.clone(),
        markets: spec.markets.clone(),
        price_cap: spec.budget.as_ref().and_then(|b| b.price_per_hour),
        misfits: misfits(job),
        not_before,
    })
}

/// What earlier attempts found too small: the scheduler's estimate was wrong there, and would be again.
fn misfits(job: &GpuJob) -> Vec<(Option<String>, Option<String>)> {
    let attempts = job.status.iter().flat_map(|s| &s.attempts).filter(|a| a.reason.as_deref() == Some("Misfit"));
    attempts.map(|a| (a.node.clone(), a.offer.as_ref().map(|o| o.instance_type.clone()))).collect()
}

/// CPU and memory that the pod's containers ask for together, with what our own two containers ask for. Init containers run
/// before, one at a time, and count where the largest asks for more.
fn pod_demand(spec: Option<&PodSpec>) -> Demand {
    let Some(spec) = spec else { return Demand::default() };
    let ask = |c: &Container, what: &str| -> i64 {
        let resources = c.resources.as_ref();
        let find = |m: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>| {
            m.and_then(|m| m.get(what)).map(|q| q.0.clone())
        };
        // A limit without a request is the request: that is what the API server makes of it.
        let text = find(resources.and_then(|r| r.requests.as_ref())).or_else(|| find(resources.and_then(|r| r.limits.as_ref())));
        text.map_or(0, |t| if what == "cpu" { millicores(&t) } else { mebibytes(&t) })
    };
    let total = |what: &str| {
        let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
        let init = spec.init_containers.iter().flatten();
        let together: i64 = spec.containers.iter().chain(init.clone().filter(sidecar)).map(|c| ask(c, what)).sum();
        together.max(init.filter(|c| !sidecar(c)).map(|c| ask(c, what)).max().unwrap_or(0))
    };
    Demand { millicores: total("cpu") + 50, memory_mib: total("memory") + 64, ..Demand::default() }
}

/// A Kubernetes quantity of CPU in millicores, rounded up.
#[allow(clippy::cast_possible_truncation)]
fn millicores(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().map_or(0, |v| v.ceil() as i64),
        None => text.parse::<f64>().map_or(0, |v| (v * 1000.0).ceil() as i64),
    }
}

/// A Kubernetes quantity of bytes in MiB, rounded up.
#[allow(clippy::cast_possible_truncation)]
fn mebibytes(text: &str) -> i64 {
    let units = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("Pi", 1_125_899_906_842_624.0),
        ("P", 1e15),
        ("m", 1e-3),
    ];
    let (number, unit) = units.iter().find_map(|(suffix, unit)| text.strip_suffix(suffix).map(|n| (n, *unit))).unwrap_or((text, 1.0));
    number.parse::<f64>().map_or(0, |v| (v * unit / 1_048_576.0).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities() {
        assert_eq!([millicores("500m"), millicores("2"), millicores("0.5")], [500, 2000, 500]);
        assert_eq!([mebibytes("20Gi"), mebibytes("1G"), mebibytes("512Mi"), mebibytes("1048577")], [20480, 954, 512, 2]);
    }
}
