//! Wires everything together and runs it until it is told to stop.

use crate::clock::{Clock, SystemClock};
use crate::context::{Ctx, within};
use crate::http::Readiness;
use crate::queue::{JobKey, Queues, Receivers, drive};
use crate::requests::Requests;
use crate::settings::{Args, Settings};
use crate::{capacity, cloud, events, http, job, leader, metrics, node, notice, pool, providers, scheduler, sweep, throttle, watch};
use anyhow::Context;
use gpujob_crds::GpuJob;
use gpujob_provider_core::Clouds;
use k8s_openapi::api::core::v1::Namespace;
use kube::runtime::reflector::ObjectRef;
use kube::{Api, ResourceExt};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Runs the operator until `shutdown`, with the providers that are built in.
///
/// # Errors
/// When it cannot start: no cluster, no CRDs after a long wait, no port.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    run_with(args, |kubernetes| Arc::new(providers::BuiltIn::new(kubernetes)), shutdown).await
}

/// The same with other providers, made for the cluster's version: load tests bring one that costs nothing.
///
/// # Errors
/// As [`run`].
pub async fn run_with(args: Args, clouds: impl FnOnce(&str) -> Arc<dyn Clouds>, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (readiness, served) = (Arc::new(Readiness::default()), Arc::new(OnceLock::new()));
    let listener = tokio::net::TcpListener::bind(args.listen).await.with_context(|| format!("listening on {}", args.listen))?;
    tokio::spawn(http::serve(listener, readiness.clone(), served.clone(), shutdown.clone()));

    readiness.waiting_for("the API server");
    let config = kube::Config::infer().await.context("finding the cluster: run in a pod, or set KUBECONFIG")?;
    let requests = Requests::default();
    let client = kube::client::ClientBuilder::try_from(config).context("connecting to the cluster")?.with_layer(&requests).build();
    let cluster = cluster_identity(&client, &shutdown).await?;
    let version = client.apiserver_version().await.context("asking the API server for its version")?;
    // Some distributions write `35+`.
    let kubernetes = format!("{}.{}", version.major, version.minor.trim_end_matches(|c: char| !c.is_ascii_digit()));
    readiness.waiting_for("the CRDs of gpujob.dev and the caches");

    let parts = Parts {
        client,
        clock: Arc::new(SystemClock),
        clouds: clouds(&kubernetes),
        requests,
        identity: args.identity,
        lease: Duration::from_secs(args.lease_seconds.into()),
        settings: Settings {
            transfer_image: args.transfer_image,
            transfer_image_pull_policy: args.transfer_pull_policy,
            cluster,
            namespace: args.namespace,
        },
    };
    operate(parts, shutdown, |ctx| {
        tracing::info!(cluster = ctx.settings.cluster, kubernetes, "ready");
        let _ = served.set(ctx);
        readiness.set_ready();
    })
    .await
}

/// What an operator is made of, beyond its own code: the machine's things in a process, virtual ones in the simulator.
pub struct Parts {
    /// The API server.
    pub client: kube::Client,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The providers.
    pub clouds: Arc<dyn Clouds>,
    /// What `client` counts into.
    pub requests: Requests,
    /// This replica's name in the Lease.
    pub identity: String,
    /// How long a silent leader keeps the Lease.
    pub lease: Duration,
    /// What the controllers were told.
    pub settings: Settings,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("identity", &self.identity).field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Fills the caches, says so through `ready`, runs for the Lease, and runs all controllers until `shutdown`. Then gives the Lease up.
///
/// # Errors
/// When a watch ends before its cache was filled.
pub async fn operate(parts: Parts, shutdown: CancellationToken, ready: impl FnOnce(Arc<Ctx>)) -> anyhow::Result<()> {
    let Parts { client, clock, clouds, requests, identity, lease, settings } = parts;
    let (queues, ends) = Queues::new();
    let stores = watch::start(&client, &queues, &shutdown);
    let candidate = Arc::new(leader::Candidate {
        api: Api::namespaced(client.clone(), &settings.namespace),
        identity: identity.clone(),
        lease,
        clock: clock.clone(),
    });
    tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        filled = stores.ready() => filled?,
    }
    // Caches first, then the Lease: who leads can act at once.
    let (leadership, campaign) = candidate.run(shutdown.clone());
    let metrics = Arc::new(metrics::Metrics::default());
    let ctx = Arc::new(Ctx {
        recorder: events::Recorder::new(client.clone(), clock.clone(), identity),
        client,
        clock,
        stores,
        leader: leadership,
        settings,
        clouds: Arc::new(throttle::Throttled::new(clouds, metrics.clone())),
        cloud_view: Arc::default(),
        capacity: Arc::new(capacity::Capacity::default()),
        queues,
        prefetch: Arc::default(),
        outdated: Arc::default(),
        metrics,
        requests,
    });
    ready(ctx.clone());
    // First nothing acts any more, then the Lease is given up, so that the other replica need not wait. Controllers are dropped
    // where they stand: what they were at is as after a crash, and whoever leads next goes on from there.
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = controllers(ctx, ends, shutdown.clone()) => {}
    }
    let release = async {
        let _ = campaign.await;
        candidate.release().await;
    };
    let _ = tokio::time::timeout(Duration::from_secs(5), release).await;
    Ok(())
}

/// Runs every controller until `shutdown`.
pub async fn controllers(ctx: Arc<Ctx>, ends: Receivers, shutdown: CancellationToken) {
    let launches = Arc::new(node::Launches::default());
    let limit = Duration::from_secs(60);
    let pace = Duration::from_millis(20);
    let c = ctx.clone();
    let jobs = drive("job", ends.jobs, pace, limit, shutdown.clone(), move |(namespace, name): JobKey| {
        let ctx = c.clone();
        Box::pin(async move {
            let key = ObjectRef::<GpuJob>::new(&name).within(&namespace);
            counted(&ctx, "job", job::reconcile(&key, &ctx).await)
        })
    });
    let c = ctx.clone();
    let nodes = drive("node", ends.nodes, pace, limit, shutdown.clone(), move |name: String| {
        let (ctx, launches) = (c.clone(), launches.clone());
        Box::pin(async move { counted(&ctx, "node", node::reconcile(&name, &ctx, &launches).await) })
    });
    let (c, checks) = (ctx.clone(), Arc::new(pool::Checks::default()));
    let pools = drive("pool", ends.pools, Duration::from_millis(500), limit, shutdown.clone(), move |name: String| {
        let (ctx, checks) = (c.clone(), checks.clone());
        Box::pin(async move { counted(&ctx, "pool", pool::reconcile(&name, &ctx, &checks).await) })
    });
    tokio::join!(
        jobs,
        nodes,
        pools,
        scheduler::run(ctx.clone(), ends.scheduler, shutdown.clone()),
        cloud::run(ctx.clone(), shutdown.clone()),
        notice::run(ctx.clone(), shutdown.clone()),
        sweep::run(ctx.clone(), shutdown.clone()),
        look_at_everything(ctx, shutdown),
    );
}

fn counted<E: std::error::Error + Send + Sync + 'static>(
    ctx: &Ctx,
    controller: &'static str,
    looked: Result<Option<Duration>, E>,
) -> crate::queue::Looked {
    ctx.metrics.looked(controller, if looked.is_ok() { "ok" } else { "error" });
    looked.map_err(Into::into)
}

/// When leadership is won, when a drain begins or ends, and every 5 minutes as a safety net, everything is worth a look.
async fn look_at_everything(ctx: Arc<Ctx>, shutdown: CancellationToken) {
    let mut leader = ctx.leader.clone();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            leads = leader.changed() => if !leads { continue },
            () = tokio::time::sleep(Duration::from_secs(300)) => {}
        }
        for job in watch::sorted(&ctx.stores.jobs) {
            let _ = ctx.queues.jobs.send((job.namespace().unwrap_or_default(), job.name_any()));
        }
        for node in watch::sorted(&ctx.stores.nodes) {
            let _ = ctx.queues.nodes.send(node.name_any());
        }
        for pool in watch::sorted(&ctx.stores.pools) {
            let _ = ctx.queues.pools.send(pool.name_any());
        }
        for pod in watch::sorted(&ctx.stores.pods) {
            if let Some(job) = pod.labels().get(gpujob_crds::names::JOB) {
                let _ = ctx.queues.jobs.send((pod.namespace().unwrap_or_default(), job.clone()));
            }
        }
        let _ = ctx.queues.scheduler.send(());
        ctx.cloud_view.refresh();
    }
}

/// The UID of namespace `kube-system`: it stays the same when everything else is copied to another cluster.
async fn cluster_identity(client: &kube::Client, shutdown: &CancellationToken) -> anyhow::Result<String> {
    loop {
        match within(Api::<Namespace>::all(client.clone()).get("kube-system")).await {
            Ok(namespace) => return namespace.metadata.uid.context("namespace kube-system has no UID"),
            Err(error) => tracing::warn!(%error, "waiting for the API server"),
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => anyhow::bail!("told to stop while waiting for the API server"),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}
