//! `gpujob-operator drain`: gives the order, waits for zero, and says what is left.

use super::order::{DRAINED, RENEWED};
use crate::clock::{Clock, SystemClock};
use crate::context::{ApiError, within};
use anyhow::Context;
use gpujob_crds::duration::Seconds;
use gpujob_crds::{GpuJob, GpuNode, GpuPool, conditions, names};
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Api, ListParams, ObjectList, PartialObjectMeta, Patch, PatchParams};
use kube::{Client, ResourceExt};
use serde_json::json;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Zero must have been seen for this long without a break: a launch that was decided on before the order was read is then seen.
const QUIET: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// A line at least this often.
const SAY: Duration = Duration::from_secs(15);
/// So many of a kind are named.
const SHOWN: usize = 5;

/// Command line of `drain`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The namespace that the operator runs in: its Lease is there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "gpujob-system")]
    pub namespace: String,
    /// How long to wait for zero, such as 280s or 10m.
    #[arg(long, default_value = "280s")]
    pub timeout: Seconds,
}

/// What is not given back yet.
#[derive(Debug, Default, PartialEq, Eq)]
struct Left {
    nodes: Vec<String>,
    jobs: Vec<String>,
    pools: Vec<String>,
}

impl Left {
    fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.jobs.is_empty() && self.pools.is_empty()
    }
}

impl std::fmt::Display for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kinds = [("GpuNodes", &self.nodes), ("GpuJobs", &self.jobs), ("GpuPools", &self.pools)];
        let said = kinds.iter().filter(|(_, names)| !names.is_empty()).map(|(kind, names)| {
            let some = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
            let more = if names.len() > SHOWN { format!(" and {} more", names.len() - SHOWN) } else { String::new() };
            format!("{kind} {some}{more}")
        });
        f.write_str(&said.collect::<Vec<_>>().join("; "))
    }
}

/// Orders the drain and waits until nothing is left. Takes the order back when that does not come.
///
/// # Errors
/// No cluster, not zero within the time (the error says what is left and what to do), or `shutdown`.
pub async fn run(args: Args, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = Client::try_default().await.context("finding the cluster: run in a pod, or set KUBECONFIG")?;
    let limit = Duration::from_secs(u64::try_from(args.timeout.0).unwrap_or(0));
    let leases: Api<Lease> = Api::namespaced(client.clone(), &args.namespace);
    println!("draining: nothing is bought any more, every node is given back; at most {}", args.timeout);
    let ended = tokio::select! {
        biased;
        () = shutdown.cancelled() => Err(anyhow::anyhow!("told to stop")),
        ended = tokio::time::timeout(limit, wait(&client, &leases)) => match ended {
            Ok(ended) => ended,
            Err(_) => Err(late(&client, &leases, args.timeout).await),
        },
    };
    // Those that still run must not buy until they are deleted; after a failure they shall go on.
    let last = if ended.is_ok() { json!(DRAINED) } else { serde_json::Value::Null };
    if let Err(error) = order(&leases, last).await {
        println!("the order could not be {}: {error:#}", if ended.is_ok() { "closed" } else { "taken back, it lapses in a minute" });
    }
    ended
}

async fn wait(client: &Client, leases: &Api<Lease>) -> anyhow::Result<()> {
    let mut renewed: Option<Instant> = None;
    let mut quiet: Option<Instant> = None;
    let mut said: Option<(Instant, String)> = None;
    loop {
        if renewed.is_none_or(|at| at.elapsed() >= RENEWED) {
            match order(leases, json!(SystemClock.now())).await {
                Ok(()) => renewed = Some(Instant::now()),
                Err(error) => println!("giving the order: {error:#}"),
            }
        }
        match left(client).await {
            Ok(left) if left.is_empty() => {
                if quiet.get_or_insert_with(Instant::now).elapsed() >= QUIET {
                    println!("drained: nothing is left");
                    return Ok(());
                }
            }
            Ok(left) => {
                quiet = None;
                let text = format!("waiting for {left}");
                if said.as_ref().is_none_or(|(at, old)| *old != text || at.elapsed() >= SAY) {
                    println!("{text}");
                    said = Some((Instant::now(), text));
                }
            }
            Err(error) => {
                quiet = None;
                println!("looking at what is left: {error:#}");
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Writes the annotation; where no operator ever led, the Lease is made for the one that may come.
async fn order(leases: &Api<Lease>, value: serde_json::Value) -> anyhow::Result<()> {
    let patch = json!({"metadata": {"annotations": {names::DRAINING: value}}});
    match within(leases.patch(names::LEASE, &PatchParams::default(), &Patch::Merge(&patch))).await {
        Err(error) if error.is_not_found() && value.is_null() => Ok(()),
        Err(error) if error.is_not_found() => {
            let lease = json!({"metadata": {"name": names::LEASE, "annotations": {names::DRAINING: value}}});
            within(leases.create(&Default::default(), &serde_json::from_value(lease)?)).await?;
            Ok(())
        }
        other => Ok(other.map(drop)?),
    }
}

/// What is not given back: instances, and finalizers that nobody would take away later.
async fn left(client: &Client) -> anyhow::Result<Left> {
    let all = ListParams::default();
    let nodes = served(within(Api::<GpuNode>::all(client.clone()).list(&all)).await)?;
    // Jobs may be many, and their templates large: only what holds them is read.
    let jobs = served(within(Api::<GpuJob>::all(client.clone()).list_metadata(&all)).await)?;
    let pools = served(within(Api::<GpuPool>::all(client.clone()).list_metadata(&all)).await)?;
    let job = |job: &PartialObjectMeta<GpuJob>| format!("{}/{}", job.namespace().unwrap_or_default(), job.name_any());
    Ok(Left {
        nodes: nodes.iter().map(|node| format!("{} ({})", node.name_any(), state(node))).collect(),
        jobs: jobs.iter().filter(|j| holds(*j, names::JOB_FINALIZER)).map(job).collect(),
        pools: pools.iter().filter(|p| holds(*p, names::POOL_FINALIZER)).map(ResourceExt::name_any).collect(),
    })
}

/// None of a kind that the API server does not serve: its CRD was removed before us.
fn served<K: Clone>(listed: Result<ObjectList<K>, ApiError>) -> Result<Vec<K>, ApiError> {
    match listed {
        Ok(list) => Ok(list.items),
        Err(error) if error.is_not_found() => Ok(vec![]),
        Err(error) => Err(error),
    }
}

fn holds(object: &impl ResourceExt, finalizer: &str) -> bool {
    object.finalizers().iter().any(|f| f == finalizer)
}

fn state(node: &GpuNode) -> String {
    let ready = node.status.as_ref().and_then(|s| conditions::find(&s.conditions, conditions::node::READY));
    ready.map_or_else(|| "new".into(), |c| if c.status == "True" { "Ready".into() } else { c.reason.clone() })
}

/// Why it is not over: what is left, whether anybody works on it, and what to do.
async fn late(client: &Client, leases: &Api<Lease>, limit: Seconds) -> anyhow::Error {
    let left = left(client).await.map_or_else(|error| format!("what is left is not known ({error:#})"), |left| format!("left are {left}"));
    let lease = within(leases.get_opt(names::LEASE)).await.ok().flatten().and_then(|lease| lease.spec);
    let holder = lease.as_ref().and_then(|spec| spec.holder_identity.clone()).filter(|holder| !holder.is_empty());
    let silent = lease.and_then(|spec| spec.renew_time).map_or(i64::MAX, |at| SystemClock.now().duration_since(at.0).as_secs());
    let who = match holder {
        Some(holder) if silent < 60 => format!("{holder} leads: see its log"),
        Some(holder) => format!("{holder} led last, and is silent: no operator runs, start one"),
        None => "no operator leads: start one".to_owned(),
    };
    anyhow::anyhow!(
        "not drained within {limit}: {left}. {who}. Then uninstall again. With `helm uninstall --no-hooks` whatever is left ends by its own \
         timer only, at the latest after its pool's maxLifetime"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_named_and_short() {
        let names = |n: usize| (0..n).map(|i| format!("gn-{i}")).collect();
        assert_eq!(Left { nodes: names(2), ..Left::default() }.to_string(), "GpuNodes gn-0, gn-1");
        let many = Left { nodes: names(7), jobs: vec!["a/b".into()], pools: vec![] };
        assert_eq!(many.to_string(), "GpuNodes gn-0, gn-1, gn-2, gn-3, gn-4 and 2 more; GpuJobs a/b");
        assert!(Left::default().is_empty() && !many.is_empty());
    }
}
