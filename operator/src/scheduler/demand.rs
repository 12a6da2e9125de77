//! What one GpuJob asks of the scheduler: which attempt may start when, and what it needs.

use super::ladder::{Ladder, ladder};
use crate::job::{MISFIT, NOT_STARTED, Next, UNSCHEDULABLE, last_ended, next};
use gpujob_crds::job_status::Attempt;
use gpujob_crds::{GpuJob, Market, Price};
use gpujob_provider_core::Demand;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube::ResourceExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A job that waits for a reservation.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Pending {
    pub(super) uid: String,
    pub(super) name: String,
    pub(super) attempt: i32,
    pub(super) priority: i32,
    pub(super) created: Timestamp,
    pub(super) wants: Arc<Wants>,
    pub(super) ladder: Ladder,
    /// Not before, when it is in backoff.
    pub(super) not_before: Option<Timestamp>,
}

/// What decides, besides its ladder, what a job can be given. Jobs that want the same are decided together.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Wants {
    pub(super) namespace: String,
    pub(super) demand: Demand,
    /// Empty: every pool that admits the namespace.
    pub(super) pools: Vec<String>,
    /// Empty: all that the pool allows.
    pub(super) markets: Vec<Market>,
    pub(super) price_cap: Option<Price>,
    /// GpuNodes that did not take its pod, and the instance types that are too small for it.
    pub(super) misfits: Vec<(Option<String>, Option<String>)>,
}

/// What each job wants, read once for each version of it: ten thousand templates are not read again at every change of one.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// By UID: the version that was read, and what it wants.
    jobs: BTreeMap<String, (Option<String>, Arc<Wants>)>,
    /// Equal wants are one.
    all: BTreeSet<Arc<Wants>>,
}

impl Read {
    fn wants(&mut self, uid: &str, job: &GpuJob) -> Arc<Wants> {
        let version = &job.metadata.resource_version;
        if let Some((_, wants)) = self.jobs.get(uid).filter(|(read, _)| read.is_some() && read == version) {
            return wants.clone();
        }
        let wants = Arc::new(wants(job));
        let wants = self.all.get(&wants).cloned().unwrap_or_else(|| {
            self.all.insert(wants.clone());
            wants
        });
        self.jobs.insert(uid.to_owned(), (version.clone(), wants.clone()));
        wants
    }

    /// Forgets jobs that wait no more, once they are the most of what is known.
    pub(super) fn keep(&mut self, pending: &[Pending]) {
        if self.jobs.len() > 2 * pending.len() + 100 {
            let waiting: BTreeSet<&str> = pending.iter().map(|p| p.uid.as_str()).collect();
            self.jobs.retain(|uid, _| waiting.contains(uid.as_str()));
            self.all.retain(|wants| Arc::strong_count(wants) > 1);
        }
    }
}

/// What this job waits for, if it waits.
pub(super) fn pending(job: &GpuJob, read: &mut Read, now: Timestamp) -> Option<Pending> {
    let status = job.status.as_ref();
    let (attempt, not_before) = match next(job, now) {
        Next::Attempt(attempt) => (attempt, None),
        Next::NotBefore(at) => (status.map_or(1, last_ended) + 1, Some(at)),
        Next::No(_) => return None,
    };
    let uid = job.uid()?;
    let created = job.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let ended = status.and_then(|s| s.attempts.last()).and_then(|a| a.end_time.as_ref()).map(|t| t.0);
    Some(Pending {
        wants: read.wants(&uid, job),
        name: job.name_any(),
        attempt,
        priority: job.spec.priority.unwrap_or(0),
        created,
        ladder: ladder(job, ended.unwrap_or(created).max(created), now),
        not_before,
        uid,
    })
}

fn wants(job: &GpuJob) -> Wants {
    let spec = &job.spec;
    Wants {
        namespace: job.namespace().unwrap_or_default(),
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
    }
}

/// What earlier attempts did not get into. Too small: the scheduler's estimate of that type was wrong, and would be again. For any
/// other reason: that node is left out, and no more.
fn misfits(job: &GpuJob) -> Vec<(Option<String>, Option<String>)> {
    let tried = |a: &Attempt| match a.reason.as_deref() {
        Some(MISFIT) => Some((a.node.clone(), a.offer.as_ref().map(|o| o.instance_type.clone()))),
        Some(UNSCHEDULABLE | NOT_STARTED) => Some((a.node.clone(), None)),
        _ => None,
    };
    job.status.iter().flat_map(|s| &s.attempts).filter_map(tried).collect()
}

/// What the pod asks for, as the Kubernetes scheduler counts it: all containers together with the sidecars, or the largest init
/// container with the sidecars that started before it, whichever is more; and the overhead of its runtime class. Plus what our own
/// two containers ask for.
fn pod_demand(spec: Option<&PodSpec>) -> Demand {
    let Some(spec) = spec else { return Demand::default() };
    let total = |what: &str, read: fn(&str) -> i64| {
        let ask = |c: &Container| {
            let find = |m: Option<&BTreeMap<String, Quantity>>| m.and_then(|m| m.get(what)).map(|q| read(&q.0));
            // A limit without a request is the request: that is what the API server makes of it.
            let resources = c.resources.as_ref();
            find(resources.and_then(|r| r.requests.as_ref())).or_else(|| find(resources.and_then(|r| r.limits.as_ref()))).unwrap_or(0)
        };
        let (mut sidecars, mut init) = (0, 0);
        for container in spec.init_containers.iter().flatten() {
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars += ask(container);
            } else {
                init = init.max(sidecars + ask(container));
            }
        }
        let together = sidecars + spec.containers.iter().map(ask).sum::<i64>();
        let overhead = spec.overhead.as_ref().and_then(|m| m.get(what)).map_or(0, |q| read(&q.0));
        together.max(init) + overhead
    };
    Demand {
        millicores: total("cpu", millicores) + 50,
        memory_mib: total("memory", mebibytes) + 64,
        disk_mib: total("ephemeral-storage", mebibytes),
        ..Demand::default()
    }
}

/// A Kubernetes quantity of CPU in millicores, rounded up.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn millicores(text: &str) -> i64 {
    match text.strip_suffix('m') {
        Some(milli) => milli.parse::<f64>().map_or(0, |v| v.ceil() as i64),
        None => text.parse::<f64>().map_or(0, |v| (v * 1000.0).ceil() as i64),
    }
}

/// A Kubernetes quantity of bytes in MiB, rounded up.
#[allow(clippy::cast_possible_truncation)]
pub(super) fn mebibytes(text: &str) -> i64 {
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

    #[test]
    fn a_pod_asks_for_what_kubernetes_counts() {
        let container = |cpu: &str, memory: &str, disk: &str, sidecar: bool| {
            let requests = [("cpu", cpu), ("memory", memory), ("ephemeral-storage", disk)];
            let requests = requests.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| ((*k).to_owned(), Quantity((*v).to_owned())));
            let mut c = Container { restart_policy: sidecar.then(|| "Always".to_owned()), ..Default::default() };
            c.resources.get_or_insert_default().requests = Some(requests.collect());
            c
        };
        let mut spec = PodSpec {
            containers: vec![container("1", "1Gi", "10Gi", false), container("500m", "", "", false)],
            init_containers: Some(vec![
                container("100m", "3Gi", "", false),
                container("100m", "1Gi", "1Gi", true),
                container("1", "3Gi", "", false),
            ]),
            ..Default::default()
        };
        let asks = |spec: &PodSpec| {
            let d = pod_demand(Some(spec));
            (d.millicores, d.memory_mib, d.disk_mib)
        };
        assert_eq!(asks(&spec), (1600 + 50, 4096 + 64, 11 * 1024), "the second init container runs beside the sidecar");
        spec.overhead = Some([("cpu".to_owned(), Quantity("250m".to_owned())), ("memory".to_owned(), Quantity("128Mi".to_owned()))].into());
        assert_eq!(asks(&spec), (1850 + 50, 4096 + 128 + 64, 11 * 1024));
        let mut limits = container("", "", "", false);
        limits.resources.get_or_insert_default().limits = Some([("cpu".to_owned(), Quantity("2".to_owned()))].into());
        assert_eq!(asks(&PodSpec { containers: vec![limits], ..Default::default() }), (2050, 64, 0));
    }

    #[test]
    fn a_node_that_refuses_for_itself_leaves_its_type_on_the_menu() {
        let mut job = GpuJob::new("j", Default::default());
        let attempt = |node: &str, reason: &str| Attempt {
            node: Some(node.into()),
            reason: Some(reason.into()),
            offer: Some(gpujob_crds::job_status::BoughtOffer {
                instance_type: format!("type-of-{node}"),
                zone: "a".into(),
                market: Market::Spot,
                price_per_hour: Price::ZERO,
            }),
            ..Attempt::default()
        };
        job.status.get_or_insert_default().attempts =
            vec![attempt("cordoned", UNSCHEDULABLE), attempt("small", MISFIT), attempt("lost", "NodeLost")];
        let (cordoned, small) = (Some("cordoned".to_owned()), Some("small".to_owned()));
        assert_eq!(misfits(&job), [(cordoned, None), (small, Some("type-of-small".into()))]);
    }

    #[test]
    fn equal_jobs_want_one_thing_and_a_new_version_is_read() {
        let mut job = GpuJob::new("j", Default::default());
        (job.metadata.uid, job.metadata.namespace, job.metadata.resource_version) = (Some("u".into()), Some("ns".into()), Some("1".into()));
        let mut other = job.clone();
        other.metadata.uid = Some("v".into());
        let mut read = Read::default();
        let now = Timestamp::UNIX_EPOCH;
        let wants = |read: &mut Read, job: &GpuJob| pending(job, read, now).expect("waits").wants;
        let first = wants(&mut read, &job);
        assert!(Arc::ptr_eq(&first, &wants(&mut read, &other)));
        job.spec.gpu.count = 2;
        assert!(Arc::ptr_eq(&first, &wants(&mut read, &job)), "the version says that nothing changed");
        job.metadata.resource_version = Some("2".into());
        assert_eq!(wants(&mut read, &job).demand.gpus, 2);
    }
}
