//! Nobody is left who would end an instance: it ends itself. Every case breaks one thing, waits for EC2 to say that the instance
//! shut itself down, mends it, and sees the operator clear up after it.

use super::given;
use crate::fault::OPERATOR_NAMESPACE;
use crate::install;
use crate::lab::Lab;
use crate::operator::{self, REPLICAS};
use crate::process::Daemon;
use crate::progress::until;
use crate::services::control_plane;
use anyhow::{Context, Result, ensure};
use gpujob_crds::names;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{Patch, PatchParams};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use std::fmt;
use std::time::{Duration, Instant};
use tokio::process::Command;

const POOL: &str = "nobody";
/// How long an instance may live, in the cases that count on that: it boots within 20 s.
const LIFETIME: u64 = 50;
/// Between the timer's end and EC2's word, and what a machine at work adds.
const SLACK: Duration = Duration::from_secs(25);

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// The operator is gone, without a drain
    NoOperator,
    /// Its keys are worth nothing any more
    NoRights,
    /// It ends as soon as it starts
    CrashLoop,
    /// The API server does not answer anybody
    Silent,
    /// The kubelet never joins, and the operator is gone
    NeverJoins,
}

const ALL: [Case; 5] = [Case::NoOperator, Case::NoRights, Case::CrashLoop, Case::Silent, Case::NeverJoins];

impl Case {
    /// The pool's changes: short timers. Those that no field sets are set as a pool's own script may.
    fn pool(self) -> Value {
        let own = |numbers: &str| json!({"aws": {"bootstrap": {"userData": format!("mkdir -p /etc/gpujob\nprintf '{numbers}' >/etc/gpujob/dead-man\n")}}});
        match self {
            Case::NoOperator | Case::NoRights | Case::CrashLoop => json!({"maxLifetime": format!("{LIFETIME}s"), "idleAfter": "1h"}),
            Case::Silent => own("SILENT_FOR=15\\nEVERY=3\\n"),
            Case::NeverJoins => own("JOIN_WITHIN=20\\nEVERY=3\\n"),
        }
    }

    /// When the instance must be gone, counted from the break.
    fn limit(self) -> Duration {
        let timer = match self {
            Case::NoOperator | Case::NoRights | Case::CrashLoop => LIFETIME,
            Case::Silent => 15 + 10,
            Case::NeverJoins => 20,
        };
        Duration::from_secs(timer) + SLACK
    }

    async fn break_it(self, lab: &Lab, client: &kube::Client) -> Result<()> {
        match self {
            Case::NoOperator | Case::NeverJoins => operator::scale(client, 0).await,
            // IAM takes no policy without a statement.
            Case::NoRights => {
                let nothing = json!({"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]});
                lab.ec2().user(install::USER, &nothing).await.map(drop)
            }
            Case::CrashLoop => {
                operator::scale(client, 0).await?;
                arguments(client, &json!([{"op": "add", "path": ARGUMENT, "value": "--no-such-flag"}])).await?;
                operator::scale(client, REPLICAS).await
            }
            Case::Silent => signal_api_server(lab, libc::SIGSTOP),
        }
    }

    async fn mend(self, lab: &Lab, client: &kube::Client) -> Result<()> {
        match self {
            Case::NoOperator | Case::NeverJoins => operator::scale(client, REPLICAS).await,
            Case::NoRights => install::rights(&lab.paths).await.map(drop),
            Case::CrashLoop => {
                operator::scale(client, 0).await?;
                arguments(client, &json!([{"op": "remove", "path": ARGUMENT}])).await?;
                operator::scale(client, REPLICAS).await
            }
            Case::Silent => signal_api_server(lab, libc::SIGCONT),
        }
    }
}

/// The operator's first argument.
const ARGUMENT: &str = "/spec/template/spec/containers/0/args/0";

async fn arguments(client: &kube::Client, patch: &Value) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(client.clone(), OPERATOR_NAMESPACE);
    let patch = Patch::Json::<()>(serde_json::from_value(patch.clone())?);
    deployments.patch("gpujob", &PatchParams::default(), &patch).await.map(drop).context("changing the operator's arguments")
}

fn signal_api_server(lab: &Lab, signal: i32) -> Result<()> {
    let pid = Daemon::server(&lab.paths, control_plane::SERVERS[1]).pid().context("the API server runs")?;
    // SAFETY: kill has no memory effects; the pid file says that it is our own server.
    let sent = unsafe { libc::kill(i32::try_from(pid)?, signal) };
    ensure!(sent == 0, "the API server could not be signalled");
    Ok(())
}

/// With nobody to drain, `gpujob-operator drain` says what is left and what to do, and leaves no order behind.
async fn drain_says_so(lab: &Lab) -> Result<()> {
    let mut drain = Command::new(install::binaries(&lab.paths)?.join("gpujob-operator"));
    drain.args(["drain", "--timeout", "4s", "--namespace", OPERATOR_NAMESPACE]).envs(lab.environment());
    let said = drain.kill_on_drop(true).output().await.context("could not start the drain")?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(!said.status.success(), "it succeeded with an instance left");
    for part in ["not drained within 4s", "GpuNodes gn-", "start one", "maxLifetime"] {
        ensure!(text.contains(part), "{part:?} is not in {text:?}");
    }
    let leases: Api<Lease> = Api::namespaced(lab.client().await?, OPERATOR_NAMESPACE);
    ensure!(!leases.get(names::LEASE).await?.annotations().contains_key(names::DRAINING), "the order was not taken back");
    Ok(())
}

/// How long instances lived after the break.
#[derive(Debug)]
pub struct Summary(pub Vec<(Case, Duration)>);

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = self.0.iter().map(|(case, took)| format!("{case:?} after {:.0} s", took.as_secs_f64()));
        write!(f, "soak nobody-home: the instance ended itself: {}", said.collect::<Vec<_>>().join(", "))
    }
}

/// One case, or all of them.
///
/// # Errors
/// An instance lives on, or something is left at the end.
pub async fn run(lab: &Lab, case: Option<Case>) -> Result<Summary> {
    let client = lab.client().await?;
    let mut all = vec![];
    for case in ALL.into_iter().filter(|one| case.is_none_or(|only| only == *one)) {
        let took = once(lab, &client, case).await.with_context(|| format!("{case:?}"))?;
        eprintln!("  {case:?}: the instance ended itself {:.0} s after the break", took.as_secs_f64());
        all.push((case, took));
    }
    Ok(Summary(all))
}

async fn once(lab: &Lab, client: &kube::Client, case: Case) -> Result<Duration> {
    operator::whole(client, Duration::from_secs(120)).await?;
    given::pool(lab, client, POOL, &case.pool()).await?;
    let joins = case != Case::NeverJoins;
    if !joins {
        lab.ec2().fault(&json!({"kind": "node", "no_join": true})).await?;
    }
    let before = given::instances(lab, POOL).await?.len();
    crate::cluster::apply(client, &given::sleeper(given::NAMESPACE, "nobody", POOL).to_string()).await?;
    if joins {
        given::state(client, given::NAMESPACE, "nobody", &["Running"], Duration::from_secs(60)).await?;
    }
    let id = tokio::sync::Mutex::new(String::new());
    until("the instance", Duration::from_secs(60), || async {
        let one = given::instances(lab, POOL).await?.into_iter().nth(before).filter(|one| one["state"] == "running");
        *id.lock().await = one.context("EC2 has none that runs")?["id"].as_str().unwrap_or_default().to_owned();
        Ok(())
    })
    .await?;
    let (id, broken) = (id.into_inner(), Instant::now());
    case.break_it(lab, client).await?;
    if case == Case::NoOperator {
        drain_says_so(lab).await?;
    }
    let gone = until(&format!("the end of {id}"), case.limit(), || async {
        let one = lab.ec2().get(&format!("instances/{id}")).await?;
        ensure!(one["state"] == "terminated", "{id} is {}", one["state"]);
        ensure!(one["reason"] == "Client.InstanceInitiatedShutdown", "{id} ended otherwise: {}", one["reason"]);
        Ok(())
    })
    .await;
    let took = broken.elapsed();
    lab.ec2().delete("faults").await?;
    case.mend(lab, client).await?;
    gone?;
    until("an answer of the API server", Duration::from_secs(60), || crate::cluster::ready(client)).await?;
    given::forget(client, given::NAMESPACE, "nobody", Duration::from_secs(120)).await?;
    given::close(client, POOL, Duration::from_secs(180)).await?;
    given::zero(lab, Duration::from_secs(60)).await?;
    Ok(took)
}
