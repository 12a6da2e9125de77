//! How long nobody acts after the leading operator ends: by the Lease, and by what a person sees, a job applied right then.

use super::given;
use crate::lab::Lab;
use crate::operator::{self, End, Replica};
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuJob;
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;
use std::fmt;
use std::time::{Duration, Instant};

const POOL: &str = "takeover";

/// One end of a leader and what followed.
#[derive(Debug, Clone, Copy)]
pub struct Takeover {
    /// How it ended.
    pub how: End,
    /// Until a living process holds the Lease.
    pub led: Duration,
    /// Until the job that was applied right after the end has its GpuNode, which is the one write before its launch.
    pub acted: Duration,
}

/// What must hold of it: 20 s after a death, 3 s after a stop.
fn limit(how: End) -> Duration {
    match how {
        End::Killed | End::Lost => Duration::from_secs(20),
        End::Stopped => Duration::from_secs(3),
    }
}

/// Ends the leader once and measures. The lab is whole before and after.
///
/// # Errors
/// Nobody followed in time.
pub async fn once(lab: &Lab, client: &kube::Client, how: End, number: usize) -> Result<Takeover> {
    let leader = operator::whole(client, Duration::from_secs(120)).await?;
    // What is launched here is never needed: let it boot for ever, which costs the machine nothing.
    lab.ec2().fault(&json!({"kind": "node", "slow_boot_seconds": 3600})).await?;
    let name = format!("takeover-{}-{number}", format!("{how:?}").to_lowercase());
    given::forget(client, given::NAMESPACE, &name, Duration::from_secs(30)).await?;
    let ended = (Instant::now(), jiff::Timestamp::now());
    operator::end(client, &leader, how).await?;
    let job: GpuJob = serde_json::from_value(given::sleeper(given::NAMESPACE, &name, POOL))?;
    Api::<GpuJob>::namespaced(client.clone(), given::NAMESPACE).create(&PostParams::default(), &job).await?;
    let (led, acted) = tokio::try_join!(
        async {
            until("another leader", Duration::from_secs(40), || follows(client, &leader, how, ended.1)).await?;
            anyhow::Ok(ended.0.elapsed())
        },
        async {
            until("a GpuNode for the job", Duration::from_secs(60), || async {
                let nodes = given::nodes(client, POOL).await?;
                ensure!(nodes.iter().any(|node| node.spec.launched_for.iter().any(|r| r.name == name)), "there is none");
                Ok(())
            })
            .await?;
            anyhow::Ok(ended.0.elapsed())
        },
    )?;
    // The old leader may have written the GpuNode in its last moment. Deleted before anybody has sent its launch, it would be held
    // until five minutes of listings have shown that nothing was bought.
    until("an instance for the GpuNode", Duration::from_secs(60), || async {
        let nodes = given::nodes(client, POOL).await?;
        ensure!(nodes.iter().all(|node| node.status.as_ref().is_some_and(|status| status.instance.is_some())), "there is none");
        Ok(())
    })
    .await?;
    lab.ec2().delete("faults").await?;
    given::forget(client, given::NAMESPACE, &name, Duration::from_secs(60)).await?;
    let nodes: Api<gpujob_crds::GpuNode> = Api::all(client.clone());
    for node in given::nodes(client, POOL).await? {
        nodes.delete(&node.metadata.name.unwrap_or_default(), &Default::default()).await?;
    }
    until("the end of what was launched", Duration::from_secs(120), || async {
        ensure!(given::nodes(client, POOL).await?.is_empty(), "a GpuNode is there");
        Ok(())
    })
    .await?;
    Ok(Takeover { how, led, acted })
}

/// Whether a living process has written the Lease since. One that was killed comes back under the same name.
async fn follows(client: &kube::Client, leader: &Replica, how: End, since: jiff::Timestamp) -> Result<()> {
    let leases: Api<Lease> = Api::namespaced(client.clone(), crate::fault::OPERATOR_NAMESPACE);
    let record = leases.get(gpujob_crds::names::LEASE).await?.spec.context("a record")?;
    let holder = record.holder_identity.unwrap_or_default();
    let renewed = record.renew_time.is_some_and(|at| at.0 > since);
    ensure!(renewed && !holder.is_empty() && (how == End::Killed || holder != leader.pod), "{holder} holds it");
    Ok(())
}

/// What was measured.
#[derive(Debug)]
pub struct Summary(pub Vec<Takeover>);

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = vec![];
        for how in [End::Lost, End::Killed, End::Stopped] {
            let of = |value: fn(&Takeover) -> Duration| {
                let mut all: Vec<f64> = self.0.iter().filter(|t| t.how == how).map(|t| value(t).as_secs_f64()).collect();
                all.sort_by(f64::total_cmp);
                let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
                (all.len(), format!("{:.2} s ({:.2} to {:.2})", at(all.len() / 2), at(0), at(all.len().saturating_sub(1))))
            };
            let ((count, led), (_, acted)) = (of(|t| t.led), of(|t| t.acted));
            if count > 0 {
                parts.push(format!("{how:?} x{count}: led again after {led}, acted after {acted}"));
            }
        }
        write!(f, "soak takeover: {}", parts.join("; "))
    }
}

/// Every way of ending, `runs` times each.
///
/// # Errors
/// Somebody was late.
pub async fn run(lab: &Lab, runs: usize) -> Result<Summary> {
    let client = lab.client().await?;
    given::pool(lab, &client, POOL, &json!({"limits": {"nodes": 2}})).await?;
    let mut all = vec![];
    for number in 0..runs {
        for how in [End::Stopped, End::Lost, End::Killed] {
            let took = once(lab, &client, how, number).await?;
            eprintln!("  {how:?}: led again after {:.2} s, acted after {:.2} s", took.led.as_secs_f64(), took.acted.as_secs_f64());
            ensure!(took.acted < limit(how), "{how:?}: nobody acted for {:.1} s", took.acted.as_secs_f64());
            all.push(took);
        }
    }
    given::close(&client, POOL, Duration::from_secs(60)).await?;
    Ok(Summary(all))
}
