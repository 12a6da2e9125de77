//! Everything that a person may delete, whenever: it goes, nothing is left of it, and no finalizer holds it.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::{GpuJob, GpuPool, names};
use gpujob_e2e::cluster;
use gpujob_e2e::progress::until;
use gpujob_e2e::soak::given;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;

const POOL: &str = "deletes";
/// Launch, boot and start, with other cases beside it.
const STARTS: Duration = Duration::from_secs(120);
/// A job's pods get 10 s to end.
const GOES: Duration = Duration::from_secs(40);
/// A pod whose Node went first is ended by Kubernetes' own collector: a minute after it has missed the Node.
const COLLECTED: Duration = Duration::from_secs(100);

pub(crate) async fn leave_nothing(given: Given) -> Result<()> {
    let client = &given.client;
    given::inputs(&given.lab, client).await?;
    // One machine for all: four GPUs, kept between the cases.
    let one = json!({"instances": {"types": [given::FOUR_GPUS], "models": null}, "limits": {"nodes": 3}, "idleAfter": "20s", "deletion": "Refuse"});
    given::pool(&given.lab, client, POOL, &one).await?;
    tokio::try_join!(jobs(&given), nodes(&given), namespace(&given))?;
    pool(&given).await
}

/// A job in each state of its life.
async fn jobs(given: &Given) -> Result<()> {
    let broken = json!({"name": "main", "image": "10.77.0.1:5000/no/such:1"});
    let failing = json!({"name": "main", "image": "cuda-sample", "args": ["--input", "/no/such/folder"]});
    let mut waiting = given::sleeper(given::NAMESPACE, "del-waiting", POOL);
    waiting["spec"]["budget"] = json!({"pricePerHour": "0.001"});
    let cases: [(&str, Value); 7] = [
        ("Waiting", waiting),
        ("Launching", given::sleeper(given::NAMESPACE, "del-launching", POOL)),
        ("Starting", given::job(given::NAMESPACE, "del-starting", POOL, &broken)),
        ("Running", given::sleeper(given::NAMESPACE, "del-running", POOL)),
        ("Delivering", given::trainer("del-delivering", POOL)),
        ("Succeeded", given::trainer("del-succeeded", POOL)),
        ("Failed", given::job(given::NAMESPACE, "del-failed", POOL, &failing)),
    ];
    for (state, job) in cases {
        let name = job["metadata"]["name"].as_str().context("a job has a name")?.to_owned();
        given::forget(&given.client, given::NAMESPACE, &name, GOES).await?;
        cluster::apply(&given.client, &job.to_string()).await?;
        let seen = given::state(&given.client, given::NAMESPACE, &name, &[state], STARTS).await?;
        let uid = Api::<GpuJob>::namespaced(given.client.clone(), given::NAMESPACE).get(&name).await?.uid().context("it has a UID")?;
        given::forget(&given.client, given::NAMESPACE, &name, GOES).await.with_context(|| format!("deleted while {state}"))?;
        gone(given, given::NAMESPACE, &uid).await.with_context(|| format!("deleted while {state}: {seen:?}"))?;
    }
    Ok(())
}

/// Neither pods nor reservations of this job are left.
async fn gone(given: &Given, namespace: &str, uid: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(given.client.clone(), namespace);
    let labelled = ListParams::default().labels(&format!("{}={uid}", names::JOB_UID));
    until("the end of its pods and reservations", COLLECTED, || async {
        let left: Vec<String> = pods.list(&labelled).await?.iter().map(ResourceExt::name_any).collect();
        ensure!(left.is_empty(), "pods {left:?} are there");
        let held = given::nodes(&given.client, POOL).await?.into_iter().filter(|node| node.reservation_of(uid).is_some()).count();
        ensure!(held == 0, "{held} GpuNodes are reserved for it");
        Ok(())
    })
    .await
}

/// A GpuNode, and then the Node of its successor, deleted under a job: each time the job gets another, and the instance ends.
async fn nodes(given: &Given) -> Result<()> {
    let (client, name) = (&given.client, "del-node");
    given::forget(client, given::NAMESPACE, name, GOES).await?;
    let mut job = given::sleeper(given::NAMESPACE, name, POOL);
    // On a machine of its own: others run on the shared one.
    job["spec"]["gpu"]["count"] = json!(4);
    cluster::apply(client, &job.to_string()).await?;
    for (attempt, what) in [(1, "GpuNode"), (2, "Node")] {
        until(&format!("attempt {attempt}"), STARTS, || async {
            let status = given::status(client, given::NAMESPACE, name).await?;
            ensure!(
                status.attempt == Some(attempt) && status.state.as_deref() == Some("Running"),
                "{:?} {:?}",
                status.attempt,
                status.state
            );
            Ok(())
        })
        .await?;
        let status = given::status(client, given::NAMESPACE, name).await?;
        let on = status.node.context("it runs on a GpuNode")?;
        let node = given::nodes(client, POOL).await?.into_iter().find(|node| node.name_any() == on).context("which is there")?;
        let (id, kube_node) = node.status.and_then(|s| Some((s.instance?.id, s.node_name?))).context("with an instance and a Node")?;
        match what {
            "GpuNode" => Api::<gpujob_crds::GpuNode>::all(client.clone()).delete(&on, &Default::default()).await.map(drop)?,
            _ => Api::<Node>::all(client.clone()).delete(&kube_node, &Default::default()).await.map(drop)?,
        }
        until(&format!("the end of {id}, whose {what} was deleted"), Duration::from_secs(150), || async {
            let one = given.lab.ec2().get(&format!("instances/{id}")).await?;
            ensure!(one["state"] == "terminated", "{id} is {}", one["state"]);
            ensure!(given::nodes(client, POOL).await?.iter().all(|node| node.name_any() != on), "GpuNode {on} is there");
            Ok(())
        })
        .await?;
    }
    let status = given::state(client, given::NAMESPACE, name, &["Running"], STARTS).await?;
    ensure!(status.failures.unwrap_or(0) == 0 && status.interruptions == Some(2), "{status:?}");
    given::forget(client, given::NAMESPACE, name, GOES).await
}

/// A namespace with a job that runs in it.
async fn namespace(given: &Given) -> Result<()> {
    let (client, name) = (&given.client, "del-namespace");
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    cluster::apply(client, &object.to_string()).await?;
    cluster::apply(client, &given::sleeper(name, "inside", POOL).to_string()).await?;
    given::state(client, name, "inside", &["Running"], STARTS).await?;
    let uid = Api::<GpuJob>::namespaced(client.clone(), name).get("inside").await?.uid().context("it has a UID")?;
    namespaces.delete(name, &Default::default()).await?;
    until("the end of the namespace", Duration::from_secs(60), || async {
        match namespaces.get_opt(name).await? {
            None => Ok(()),
            Some(there) => anyhow::bail!("it is there: {:?}", there.status.and_then(|s| s.conditions)),
        }
    })
    .await?;
    gone(given, name, &uid).await
}

/// A pool with a node: refused while it says Refuse, drained when it says Drain.
async fn pool(given: &Given) -> Result<()> {
    let (client, name) = (&given.client, "del-pool");
    cluster::apply(client, &given::sleeper(given::NAMESPACE, name, POOL).to_string()).await?;
    given::state(client, given::NAMESPACE, name, &["Running"], STARTS).await?;
    let pools: Api<GpuPool> = Api::all(client.clone());
    until("the pool to count its nodes", Duration::from_secs(10), || async {
        ensure!(pools.get(POOL).await?.status.and_then(|s| s.nodes).is_some_and(|nodes| nodes > 0), "it counts none");
        Ok(())
    })
    .await?;
    let refused = pools.delete(POOL, &Default::default()).await.err().context("a pool with nodes that says Refuse must stay")?;
    ensure!(refused.to_string().contains("deletion: Refuse") && refused.to_string().contains("set spec.deletion to Drain"), "{refused}");

    let drain = Patch::Merge(json!({"spec": {"deletion": "Drain", "idleAfter": "1h"}}));
    pools.patch(POOL, &PatchParams::default(), &drain).await?;
    pools.delete(POOL, &Default::default()).await?;
    tokio::time::sleep(Duration::from_secs(1)).await; // until the operator has seen it
    // What runs goes on; what comes now gets nothing.
    cluster::apply(client, &given::sleeper(given::NAMESPACE, "del-late", POOL).to_string()).await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let runs = given::status(client, given::NAMESPACE, name).await?;
    ensure!(runs.state.as_deref() == Some("Running") && runs.attempt == Some(1), "{runs:?}");
    let late = given::status(client, given::NAMESPACE, "del-late").await?;
    ensure!(late.state.as_deref() == Some("Waiting"), "{late:?}");
    given::forget(client, given::NAMESPACE, name, GOES).await?;
    until("the end of the pool", Duration::from_secs(60), || async {
        ensure!(pools.get_opt(POOL).await?.is_none(), "it is there");
        let left: Vec<Value> = given::instances(&given.lab, POOL).await?.into_iter().filter(|one| one["state"] != "terminated").collect();
        ensure!(left.is_empty(), "EC2 has {left:?}");
        Ok(())
    })
    .await?;
    given::forget(client, given::NAMESPACE, "del-late", GOES).await
}
