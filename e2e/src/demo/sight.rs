//! What the demo looks at: four watches and EC2's own books, in one stream.

use crate::services::ec2::Control;
use futures::StreamExt;
use futures::stream::{BoxStream, select_all, unfold};
use gpujob_crds::{GpuJob, GpuNode, names};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, ResourceExt};
use serde_json::Value;
use std::time::Duration;

/// How often EC2's books are read.
const READ: Duration = Duration::from_millis(150);

/// One thing that was seen.
#[derive(Debug, Clone)]
pub(super) enum Sight {
    /// The job, as it is now.
    Job(Box<GpuJob>),
    /// A GpuNode, as it is now.
    Intent(Box<GpuNode>),
    /// A GpuNode is gone.
    IntentGone(String),
    /// A pod of the job.
    Pod(Box<Pod>),
    /// A Node of the cluster.
    Node(Box<Node>),
    /// EC2's books.
    Books(Books),
    /// A while has passed.
    Tick,
}

/// EC2's own books.
#[derive(Debug, Clone, Default)]
pub(super) struct Books {
    /// Calls since the last reading: `{at, action, error}`.
    pub(super) calls: Vec<Value>,
    /// Every instance.
    pub(super) instances: Vec<Value>,
    /// Rows of the bill.
    pub(super) bill: Vec<Value>,
}

/// Everything about one job, with the moment it was seen (Unix seconds), without end.
pub(super) fn sights(client: &kube::Client, ec2: Control, namespace: &str, job: &str) -> BoxStream<'static, (f64, Sight)> {
    let named = watcher::Config::default().fields(&format!("metadata.name={job}"));
    let labelled = watcher::Config::default().labels(&format!("{}={job}", names::JOB));
    let jobs = Api::<GpuJob>::namespaced(client.clone(), namespace);
    let pods = Api::<Pod>::namespaced(client.clone(), namespace);
    let streams = [
        watch(jobs, named, |job| Sight::Job(Box::new(job)), |_| None),
        watch(
            Api::<GpuNode>::all(client.clone()),
            watcher::Config::default(),
            |node| Sight::Intent(Box::new(node)),
            |name| Some(Sight::IntentGone(name)),
        ),
        watch(pods, labelled, |pod| Sight::Pod(Box::new(pod)), |_| None),
        watch(Api::<Node>::all(client.clone()), watcher::Config::default(), |node| Sight::Node(Box::new(node)), |_| None),
        books(ec2),
        unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Sight::Tick, ()))
        })
        .boxed(),
    ];
    select_all(streams).map(|sight| (now(), sight)).boxed()
}

/// Unix seconds.
pub(super) fn now() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

fn watch<K>(api: Api<K>, config: watcher::Config, there: fn(K) -> Sight, gone: fn(String) -> Option<Sight>) -> BoxStream<'static, Sight>
where
    K: kube::Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let events = watcher(api, config).default_backoff();
    events
        .filter_map(move |event| async move {
            // Errors are the watch's to mend: it starts again by itself.
            match event.ok()? {
                watcher::Event::Apply(object) | watcher::Event::InitApply(object) => Some(there(object)),
                watcher::Event::Delete(object) => gone(object.name_any()),
                watcher::Event::Init | watcher::Event::InitDone => None,
            }
        })
        .boxed()
}

fn books(ec2: Control) -> BoxStream<'static, Sight> {
    unfold((ec2, None::<u64>), |(ec2, seen)| async move {
        tokio::time::sleep(READ).await;
        let (books, seen) = read(&ec2, seen).await.unwrap_or((Books::default(), seen));
        Some((Sight::Books(books), (ec2, seen)))
    })
    .boxed()
}

async fn read(ec2: &Control, seen: Option<u64>) -> anyhow::Result<(Books, Option<u64>)> {
    let calls = list(ec2.get(&format!("calls?after={}", seen.unwrap_or(0))).await?);
    let bill = list(ec2.get("bill").await?["instances"].take());
    let instances = ec2.instances().await?;
    let last = calls.iter().filter_map(|call| call["seq"].as_u64()).max();
    Ok((Books { calls, instances, bill }, last.or(seen)))
}

fn list(value: Value) -> Vec<Value> {
    if let Value::Array(rows) = value { rows } else { vec![] }
}
