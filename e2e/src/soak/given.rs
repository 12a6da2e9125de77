//! What proofs put into the lab, and what they look at: pools and jobs of their own, and EC2's books.

use crate::demo::{secret, zero};
use crate::lab::Lab;
use crate::progress::until;
use crate::{cluster, install};
use anyhow::{Context, Result, ensure};
use gpujob_crds::conditions::{find, is_true, pool::READY};
use gpujob_crds::{GpuJob, GpuJobStatus, GpuNode, GpuPool};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use std::time::Duration;

/// Where proofs' jobs are.
pub const NAMESPACE: &str = "default";
/// The bucket of inputs and results.
pub const BUCKET: &str = "gpujob-soak";
const SECRET: &str = "soak-keys";
/// An instance with four GPUs: many jobs, one kubelet.
pub const FOUR_GPUS: &str = "g4dn.12xlarge";

/// Applies a pool as the sample one with these changes (a merge patch of its spec), and waits until it can sell something.
///
/// # Errors
/// The API server refuses it, or it does not become Ready.
pub async fn pool(lab: &Lab, client: &kube::Client, name: &str, changes: &Value) -> Result<()> {
    let mut pool: Value = serde_saphyr::from_str(&install::pool(&lab.paths)?)?;
    pool["metadata"]["name"] = json!(name);
    merge(&mut pool["spec"], changes);
    cluster::apply(client, &pool.to_string()).await?;
    let pools: Api<GpuPool> = Api::all(client.clone());
    until(&format!("pool {name}"), Duration::from_secs(60), || async {
        let status = pools.get(name).await?.status.unwrap_or_default();
        ensure!(is_true(&status.conditions, READY), "{:?}", find(&status.conditions, READY));
        Ok(())
    })
    .await
}

/// A merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    match patch.as_object() {
        Some(patch) => patch.iter().for_each(|(name, value)| match value {
            Value::Null => target.as_object_mut().map_or((), |target| drop(target.remove(name))),
            value => merge(&mut target[name], value),
        }),
        None => *target = patch.clone(),
    }
}

/// A job that does nothing until it is told to end, and keeps nothing.
pub fn sleeper(namespace: &str, name: &str, pool: &str) -> Value {
    job(namespace, name, pool, &json!({"name": "main", "image": "lab/pause:1"}))
}

/// A job that asks for one GPU of this pool.
pub fn job(namespace: &str, name: &str, pool: &str, container: &Value) -> Value {
    json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": name, "namespace": namespace},
        "spec": {"gpu": {"count": 1}, "pools": [pool], "backoffLimit": 0, "template": {"spec": {"containers": [container]}}},
    })
}

/// A job with inputs and results: a few epochs on the digits. Needs [`inputs`].
pub fn trainer(name: &str, pool: &str) -> Value {
    let arguments = json!(["--input", "/data", "--results", "/results", "--epochs", "5"]);
    let mut job = job(NAMESPACE, name, pool, &json!({"name": "train", "image": "cuda-sample", "args": arguments}));
    job["spec"]["inputs"] = json!([{"from": format!("s3://{BUCKET}/digits/"), "path": "/data"}]);
    job["spec"]["results"] = json!({"path": "/results", "to": format!("s3://{BUCKET}/{}", results(name)), "onExisting": "Overwrite"});
    job["spec"]["storage"] = json!({"credentials": {"secretName": SECRET}});
    job
}

/// Where a trainer's results go, in [`BUCKET`].
pub fn results(name: &str) -> String {
    format!("runs/{name}/")
}

/// Puts there what trainers need.
///
/// # Errors
/// The store or the API server does not answer.
pub async fn inputs(lab: &Lab, client: &kube::Client) -> Result<()> {
    let store = lab.s3();
    store.create_bucket(BUCKET).await?;
    let digits = std::fs::read(lab.paths.repository.join("images/cuda-sample/data/digits.csv.gz"))?;
    store.put(BUCKET, "digits/digits.csv.gz", &digits).await?;
    cluster::apply(client, &secret(NAMESPACE, SECRET, &store.access_key, &store.secret_key)).await
}

/// A job's status.
///
/// # Errors
/// It is not there.
pub async fn status(client: &kube::Client, namespace: &str, name: &str) -> Result<GpuJobStatus> {
    Ok(Api::<GpuJob>::namespaced(client.clone(), namespace).get(name).await?.status.unwrap_or_default())
}

/// Waits until the job's state is one of these.
///
/// # Errors
/// It does not come; the error says what the job says.
pub async fn state(client: &kube::Client, namespace: &str, name: &str, wanted: &[&str], limit: Duration) -> Result<GpuJobStatus> {
    let seen = tokio::sync::Mutex::new(GpuJobStatus::default());
    until(&format!("{name} to be {}", wanted.join(" or ")), limit, || async {
        let status = status(client, namespace, name).await?;
        let said = status.conditions.iter().map(|c| format!("{} {}: {}", c.type_, c.reason, c.message)).collect::<Vec<_>>();
        ensure!(status.state.as_deref().is_some_and(|s| wanted.contains(&s)), "it is {:?}; {}", status.state, said.join("; "));
        *seen.lock().await = status;
        Ok(())
    })
    .await?;
    Ok(seen.into_inner())
}

/// Deletes a job and waits until it is gone, finalizers and all. One that is not there is gone.
///
/// # Errors
/// It does not go; the error says what holds it.
pub async fn forget(client: &kube::Client, namespace: &str, name: &str, limit: Duration) -> Result<()> {
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), namespace);
    if jobs.get_opt(name).await?.is_none() {
        return Ok(());
    }
    jobs.delete(name, &Default::default()).await?;
    until(&format!("{name} to be gone"), limit, || async {
        match jobs.get_opt(name).await? {
            None => Ok(()),
            Some(job) => anyhow::bail!("it is there, held by {:?}", job.metadata.finalizers),
        }
    })
    .await
}

/// The GpuNodes of a pool.
///
/// # Errors
/// The API server does not answer.
pub async fn nodes(client: &kube::Client, pool: &str) -> Result<Vec<GpuNode>> {
    let all = Api::<GpuNode>::all(client.clone()).list(&ListParams::default()).await?;
    Ok(all.into_iter().filter(|node| node.spec.pool == pool).collect())
}

/// EC2's instances of a pool, dead ones included.
///
/// # Errors
/// EC2 does not answer.
pub async fn instances(lab: &Lab, pool: &str) -> Result<Vec<Value>> {
    let all = lab.ec2().instances().await?;
    Ok(all.into_iter().filter(|instance| instance["tags"]["gpujob.dev/pool"] == pool).collect())
}

/// Waits until EC2, asked by boto3 as its customer, has nothing left of the whole cluster.
///
/// # Errors
/// Something is left.
pub async fn zero(lab: &Lab, limit: Duration) -> Result<()> {
    until("zero", limit, || async {
        let left = zero::left(lab, None).await?;
        ensure!(left.is_empty(), "EC2 has {}", left.join(", "));
        Ok(())
    })
    .await
}

/// Deletes a pool and waits until it is gone.
///
/// # Errors
/// It does not go.
pub async fn close(client: &kube::Client, pool: &str, limit: Duration) -> Result<()> {
    let pools: Api<GpuPool> = Api::all(client.clone());
    pools.delete(pool, &Default::default()).await.with_context(|| format!("deleting pool {pool}"))?;
    until(&format!("the end of pool {pool}"), limit, || async {
        match pools.get_opt(pool).await? {
            None => Ok(()),
            Some(pool) => anyhow::bail!("it is there with {:?} GpuNodes", pool.status.and_then(|s| s.nodes)),
        }
    })
    .await
}
