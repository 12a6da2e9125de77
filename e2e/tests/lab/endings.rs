//! Jobs that cannot succeed: each says why, keeps what there is, and leaves nothing that costs.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::conditions::{find, is_true, job as condition};
use gpujob_crds::{GpuJob, GpuNode};
use gpujob_e2e::cluster;
use gpujob_e2e::demo::{fetch, secret};
use gpujob_e2e::progress::until;
use gpujob_transfer::receipt::Ended;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::OnceCell;

const NAMESPACE: &str = "default";
/// Launch, boot, and one attempt, with three others beside it.
const ENDS_WITHIN: Duration = Duration::from_secs(150);
/// How soon after the first pod that could know it a setting that cannot work must be told.
const TOLD_WITHIN: f64 = 30.0;

/// A job like the sample, with its own names.
pub(crate) struct Trying {
    pub(crate) name: &'static str,
    pub(crate) bucket: &'static str,
    pub(crate) input: String,
    pub(crate) secret: &'static str,
    pub(crate) arguments: Value,
    /// The pool; any when absent.
    pub(crate) pool: Option<&'static str>,
    /// Its folder of checkpoints, saved as often as may be.
    pub(crate) checkpoints: Option<&'static str>,
}

/// Put there once: cases run side by side, and an input that another case writes again is changed under the job that fetches it.
static INPUT: OnceCell<()> = OnceCell::const_new();

async fn input(given: &Given) -> Result<()> {
    let store = given.lab.s3();
    store.create_bucket("gpujob-endings").await?;
    let digits = std::fs::read(given.lab.paths.repository.join("images/cuda-sample/data/digits.csv.gz"))?;
    store.put("gpujob-endings", "digits/digits.csv.gz", &digits).await
}

impl Trying {
    pub(crate) fn new(name: &'static str) -> Self {
        let bucket = "gpujob-endings";
        Self {
            name,
            bucket,
            input: format!("s3://{bucket}/digits/"),
            secret: "endings-keys",
            arguments: json!(["--input", "/data", "--results", "/results", "--epochs", "2"]),
            pool: None,
            checkpoints: None,
        }
    }

    /// Puts bucket, input and keys there, takes away what an earlier run on a kept lab left, and applies the job.
    pub(crate) async fn apply(&self, given: &Given) -> Result<()> {
        forget(given, self.name).await?;
        let store = given.lab.s3();
        for key in store.list("gpujob-endings", &format!("runs/{}/", self.name)).await.unwrap_or_default() {
            store.delete("gpujob-endings", &key).await?;
        }
        INPUT.get_or_try_init(|| input(given)).await?;
        cluster::apply(&given.client, &secret(NAMESPACE, "endings-keys", &store.access_key, &store.secret_key)).await?;
        cluster::apply(&given.client, &secret(NAMESPACE, "endings-wrong-keys", "nobody", "nothing")).await?;
        let mut job = json!({
            "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": self.name, "namespace": NAMESPACE},
            "spec": {
                "gpu": {"count": 1},
                "backoffLimit": 0,
                "inputs": [{"from": self.input, "path": "/data"}],
                "results": {"path": "/results", "to": format!("s3://{}/runs/{}/", self.bucket, self.name), "summary": "metrics.json"},
                "storage": {"credentials": {"secretName": self.secret}},
                "template": {"spec": {"containers": [{"name": "train", "image": "cuda-sample", "args": self.arguments}]}},
            },
        });
        if let Some(pool) = self.pool {
            job["spec"]["pools"] = json!([pool]);
        }
        if let Some(folder) = self.checkpoints {
            job["spec"]["checkpoints"] = json!({"path": folder, "interval": "2s"});
        }
        cluster::apply(&given.client, &job.to_string()).await
    }
}

/// The job once it has ended, and the first pod that could have said how it will, as last seen: the one that looks while the instance
/// boots, or the attempt's.
pub(crate) async fn ended(given: &Given, name: &str, limit: Duration) -> Result<(GpuJob, Option<Pod>)> {
    let jobs: Api<GpuJob> = Api::namespaced(given.client.clone(), NAMESPACE);
    let pods: Api<Pod> = Api::namespaced(given.client.clone(), NAMESPACE);
    let selected = ListParams::default().labels(&format!("gpujob.dev/job={name},gpujob.dev/role in (attempt,check)"));
    let seen = tokio::sync::Mutex::new((None, None));
    until(&format!("the end of {name}"), limit, || async {
        let mut seen = seen.lock().await;
        let first = pods.list(&selected).await?.items.into_iter().min_by_key(|pod| pod.creation_timestamp().map(|time| time.0));
        seen.1 = first.or(seen.1.take());
        let job = jobs.get(name).await?;
        let status = job.status.clone().unwrap_or_default();
        let verdict = find(&status.conditions, condition::SUCCEEDED).cloned().context("no verdict yet")?;
        ensure!(
            verdict.status != "Unknown",
            "{}: {}; {:?}",
            verdict.reason,
            verdict.message,
            find(&status.conditions, condition::ASSIGNED).map(|c| &c.message)
        );
        seen.0 = Some(job);
        Ok(())
    })
    .await?;
    let (job, pod) = seen.into_inner();
    Ok((job.context("it ended")?, pod))
}

/// Waits until the job's GpuNode and its instance are gone, as EC2 has it.
pub(crate) async fn released(given: &Given, job: &GpuJob) -> Result<()> {
    let name = job.status.as_ref().and_then(|status| status.attempts.last()?.node.clone()).context("an attempt names its GpuNode")?;
    let nodes: Api<GpuNode> = Api::all(given.client.clone());
    until(&format!("the end of {name}"), Duration::from_secs(90), || async {
        ensure!(nodes.get_opt(&name).await?.is_none(), "GpuNode {name} is there");
        let live = given.lab.ec2().live_instances().await?;
        let ours: Vec<_> = live.iter().filter(|instance| instance["tags"]["gpujob.dev/node"] == name.as_str()).collect();
        ensure!(ours.is_empty(), "EC2 has {ours:?}");
        Ok(())
    })
    .await
}

/// A setting that cannot work: told with this reason, within 30 s of the first pod that could know it, and nothing is left.
async fn told(given: &Given, trying: &Trying, reason: &str, words: &[&str]) -> Result<()> {
    trying.apply(given).await?;
    let (job, pod) = ended(given, trying.name, ENDS_WITHIN).await?;
    let now = Timestamp::now();
    let status = job.status.as_ref().context("a status")?;
    let verdict = find(&status.conditions, condition::SUCCEEDED).context("a verdict")?;
    ensure!(verdict.status == "False" && verdict.reason == reason, "{verdict:?}");
    for word in words {
        ensure!(verdict.message.contains(word), "{:?} does not name {word}", verdict.message);
    }
    ensure!(is_true(&status.conditions, condition::STALLED), "a person must act, and Stalled does not say so");
    ensure!(status.attempts.len() == 1, "a setting that cannot work: {:?}", status.attempts);
    // A pod that has answered is removed at once: on a busy machine nobody may have seen it begin.
    let began = pod.and_then(|pod| pod.status?.start_time).or_else(|| job.creation_timestamp()).context("the job was made")?.0;
    let took = now.duration_since(began).as_secs_f64();
    ensure!(took < TOLD_WITHIN, "told {took:.0} s after the first pod began");
    released(given, &job).await
}

pub(crate) async fn missing_bucket(given: Given) -> Result<()> {
    let trying = Trying { bucket: "gpujob-no-such-bucket", ..Trying::new("no-bucket") };
    told(&given, &trying, "BucketNotFound", &["gpujob-no-such-bucket"]).await
}

pub(crate) async fn wrong_keys(given: Given) -> Result<()> {
    let trying = Trying { secret: "endings-wrong-keys", ..Trying::new("wrong-keys") };
    told(&given, &trying, "InvalidCredentials", &[]).await
}

pub(crate) async fn missing_input(given: Given) -> Result<()> {
    let trying = Trying { input: "s3://gpujob-endings/nothing-here/".into(), ..Trying::new("no-input") };
    told(&given, &trying, "InputNotFound", &["nothing-here"]).await
}

/// A program that fails by itself: exit code and its last words in the status, log and manifest in the store.
pub(crate) async fn failing_program(given: Given) -> Result<()> {
    let trying = Trying { arguments: json!(["--input", "/no/such/folder", "--results", "/results"]), ..Trying::new("fails") };
    trying.apply(&given).await?;
    let (job, _) = ended(&given, trying.name, ENDS_WITHIN).await?;
    let status = job.status.as_ref().context("a status")?;
    let verdict = find(&status.conditions, condition::SUCCEEDED).context("a verdict")?;
    let attempt = status.attempts.last().context("an attempt")?;
    let code = attempt.exit_code.context("the exit code is recorded")?;
    ensure!(code != 0 && verdict.status == "False", "exit code {code}, {verdict:?}");
    ensure!(
        verdict.message.contains(&format!("code {code}")) || verdict.message.contains(&format!("exit {code}")),
        "{:?} does not say {code}",
        verdict.message
    );
    let said = format!("{} {}", verdict.message, attempt.message.clone().unwrap_or_default());
    ensure!(said.contains("/no/such/folder"), "the program's last words are not told: {said}");
    ensure!(
        status.attempts.len() == 1 && status.failures == Some(1),
        "backoffLimit 0: {:?} failures, {:?}",
        status.failures,
        status.attempts
    );

    let prefix = format!("runs/{}/", trying.name);
    let delivered = fetch(&given.lab.s3(), trying.bucket, &prefix).await?;
    ensure!(delivered.manifest.outcome == Ended::Failed && delivered.manifest.exit_code == Some(code), "{:?}", delivered.manifest);
    let log = given.lab.s3().get(trying.bucket, &format!("{prefix}.gpujob/logs/0-1.log")).await?.context("the log is kept")?;
    ensure!(String::from_utf8_lossy(&log).contains("/no/such/folder"), "the log has not the program's words");
    released(&given, &job).await?;
    forget(&given, trying.name).await
}

/// Deletes a job and waits until it is gone.
async fn forget(given: &Given, name: &str) -> Result<()> {
    let jobs: Api<GpuJob> = Api::namespaced(given.client.clone(), NAMESPACE);
    if jobs.get_opt(name).await?.is_none() {
        return Ok(());
    }
    jobs.delete(name, &Default::default()).await?;
    until("the job to be deleted", Duration::from_secs(20), || async {
        ensure!(jobs.get_opt(name).await?.is_none(), "it is there");
        Ok(())
    })
    .await
}
