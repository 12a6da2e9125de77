//! Many jobs at once, one node each; then they all end, and the pool drains to zero.

use super::cluster;
use super::kubelets::Kubelets;
use super::operator::{Operator, Provider, sum, writes, writes_by_kind};
use super::report::Report;
use crate::host::Paths;
use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The operator's, by name and labels.
type Metrics = BTreeMap<String, f64>;

/// Between two looks at the operator's metrics.
const LOOK: Duration = Duration::from_millis(250);

/// `cargo soak burst`.
#[derive(Debug, Clone, clap::Args)]
pub struct Burst {
    /// Jobs, each of one GPU and so of one node
    #[arg(long, default_value_t = 1000)]
    pub jobs: usize,
    /// Who sells the capacity
    #[arg(long, value_enum, default_value = "stub")]
    pub provider: Provider,
    /// Seconds after which it counts as stuck
    #[arg(long, default_value_t = 900)]
    pub limit: u64,
}

impl Default for Burst {
    fn default() -> Self {
        Self { jobs: 1000, provider: Provider::Stub, limit: 900 }
    }
}

impl Burst {
    /// Runs it and prints its figures.
    ///
    /// # Errors
    /// Something does not come within the limit, or more instances were bought than there are jobs.
    #[allow(clippy::cast_precision_loss)]
    pub async fn run(&self, paths: &Paths) -> Result<()> {
        let client = cluster::prepare(paths).await?;
        let ec2 = if self.provider == Provider::Ec2 { cluster::ec2(paths).await? } else { String::new() };
        cluster::pool(paths, &client, 10_000).await?;
        let operator = Operator::start(paths, self.provider, &ec2).await?;
        cluster::pool_ready(&client).await?;
        let kubelets = Kubelets::start(&client);
        let (before, start, count) = (operator.metrics().await?, Instant::now(), self.jobs as f64);
        let usage_before = operator.usage()?;
        let mut report = Report::default();
        println!("burst of {} jobs, one node each, provider {:?}:", self.jobs, self.provider);

        let creating = tokio::spawn({
            let (client, jobs) = (client.clone(), self.jobs);
            async move { cluster::create_jobs(&client, jobs).await.map(|()| start.elapsed().as_secs_f64()) }
        });
        let launches = |metrics: &_| sum(metrics, "gpujob_provider_call_seconds_count", &["operation=\"launch\"", "outcome=\"ok\""]);
        self.reach(&operator, &kubelets, start, |m| launches(m) >= 1.0).await?;
        report.figure("first launch answered (s)", start.elapsed().as_secs_f64());
        self.reach(&operator, &kubelets, start, |m| launches(m) >= count).await?;
        report.figure("last launch answered (s)", start.elapsed().as_secs_f64());
        report.figure("jobs created (s)", creating.await??);
        self.reach(&operator, &kubelets, start, |m| sum(m, "gpujob_nodes", &["state=\"ready\""]) >= count).await?;
        report.figure("last node ready (s)", start.elapsed().as_secs_f64());
        self.reach(&operator, &kubelets, start, |m| sum(m, "gpujob_jobs", &["state=\"Running\""]) >= count).await?;
        report.figure("last job running (s)", start.elapsed().as_secs_f64());
        let (up, usage) = (operator.metrics().await?, operator.usage()?);
        report.figure("operator's writes a node, from apply to running", (writes(&up) - writes(&before)) / count);
        by_kind(&mut report, "up", &before, &up, count);
        report.figure("operator's CPU (s), from apply to running", usage.cpu_seconds - usage_before.cpu_seconds);
        report.figure("operator's peak memory (MiB)", usage.peak);

        let drain = Instant::now();
        kubelets.finish();
        self.reach(&operator, &kubelets, drain, |m| sum(m, "gpujob_jobs_ended_total", &[]) >= count).await?;
        report.figure("last job ended, after the programs' ends (s)", drain.elapsed().as_secs_f64());
        self.reach(&operator, &kubelets, drain, |m| sum(m, "gpujob_nodes", &[]) < 0.5).await?;
        report.figure("drained, idle window of 30 s included (s)", drain.elapsed().as_secs_f64());
        let (down, usage_down) = (operator.metrics().await?, operator.usage()?);
        report.figure("operator's writes a node, ends and drain", (writes(&down) - writes(&up)) / count);
        by_kind(&mut report, "down", &up, &down, count);
        report.figure("operator's CPU (s), ends and drain", usage_down.cpu_seconds - usage.cpu_seconds);
        report.figure("operator's peak memory in all (MiB)", usage_down.peak);

        let succeeded = cluster::succeeded(&client).await?;
        ensure!(succeeded == self.jobs, "{succeeded} of {} jobs have succeeded", self.jobs);
        ensure!((launches(&down) - count).abs() < 0.5, "{} instances were bought for {} jobs", launches(&down), self.jobs);
        tokio::time::sleep(Duration::from_secs(60)).await;
        let settled = operator.metrics().await?;
        report.figure("operator's writes in the minute after", writes(&settled) - writes(&down));
        report.figure("operator's memory a minute after (MiB)", operator.usage()?.rss);
        cluster::delete_jobs(&client).await?;
        operator.stop().await;
        cluster::end_ec2(paths).await;
        report.finish(if self.provider == Provider::Stub { "burst" } else { "burst over EC2's token buckets" });
        Ok(())
    }

    /// Looks at the operator's metrics until they are as wanted.
    async fn reach(&self, operator: &Operator, kubelets: &Kubelets, since: Instant, wanted: impl Fn(&Metrics) -> bool) -> Result<()> {
        loop {
            let metrics = operator.metrics().await?;
            if wanted(&metrics) {
                return Ok(());
            }
            ensure!(kubelets.alive(), "the played kubelets have ended");
            let shown = metrics.iter().filter(|(key, _)| key.starts_with("gpujob_jobs") || key.starts_with("gpujob_nodes"));
            let shown: Vec<String> = shown.map(|(key, value)| format!("{key} {value}")).collect();
            ensure!(since.elapsed() < Duration::from_secs(self.limit), "not reached in {} s: {}", self.limit, shown.join(", "));
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// What the writes between two looks were.
fn by_kind(report: &mut Report, when: &str, before: &Metrics, after: &Metrics, nodes: f64) {
    let before = writes_by_kind(before);
    for (kind, writes) in writes_by_kind(after) {
        let more = writes - before.get(&kind).copied().unwrap_or(0.0);
        // Those of the pool and of the start are no matter of nodes.
        if more / nodes >= 0.01 {
            report.figure(&format!("  {when}: {kind}"), more / nodes);
        }
    }
}
