//! Many jobs that may not run: what it costs to hold them, and that nothing is written while nothing changes.

use super::cluster;
use super::operator::{Operator, Provider, sum, writes};
use super::report::Report;
use crate::host::Paths;
use anyhow::{Result, ensure};
use std::time::{Duration, Instant};

/// `cargo soak waiting`.
#[derive(Debug, Clone, clap::Args)]
pub struct Waiting {
    /// Jobs that wait: their pool may hold no node
    #[arg(long, default_value_t = 10_000)]
    pub jobs: usize,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { jobs: 10_000 }
    }
}

impl Waiting {
    /// Runs it and prints its figures.
    ///
    /// # Errors
    /// Something does not come.
    #[allow(clippy::cast_precision_loss)]
    pub async fn run(&self, paths: &Paths) -> Result<()> {
        let client = cluster::prepare(paths).await?;
        cluster::pool(paths, &client, 0).await?;
        let operator = Operator::start(paths, Provider::Stub, "").await?;
        cluster::pool_ready(&client).await?;
        let mut report = Report::default();
        println!("{} jobs that wait:", self.jobs);
        report.figure("memory before (MiB)", operator.usage()?.rss);
        let start = Instant::now();
        cluster::create_jobs(&client, self.jobs).await?;
        report.figure("jobs created (s)", start.elapsed().as_secs_f64());
        let quiet = quiet(&operator).await?;
        report.figure("every job says why it waits (s)", quiet.duration_since(start).as_secs_f64());
        let metrics = operator.metrics().await?;
        report.figure("operator's writes a job", writes(&metrics) / self.jobs as f64);
        report.figure("operator's CPU so far (s)", operator.usage()?.cpu_seconds);
        settled(&operator, &mut report, "").await?;
        operator.stop().await;

        // A restart with everything there: what a new leader goes through.
        let start = Instant::now();
        let operator = Operator::start(paths, Provider::Stub, "").await?;
        report.figure("restart: caches filled (s)", start.elapsed().as_secs_f64());
        let known = sum(&operator.metrics().await?, "gpujob_jobs", &[]);
        ensure!((known - self.jobs as f64).abs() < 0.5, "the operator knows {known} jobs");
        settled(&operator, &mut report, "restart: ").await?;
        report.figure("restart: peak memory, of the first list (MiB)", operator.usage()?.peak);
        report.figure("restart: operator's CPU (s)", operator.usage()?.cpu_seconds);
        cluster::delete_jobs(&client).await?;
        operator.stop().await;
        report.finish("waiting");
        Ok(())
    }
}

/// When the writes stopped: the last moment before 10 s without one.
async fn quiet(operator: &Operator) -> Result<Instant> {
    let (mut last, mut since) = (-1.0, Instant::now());
    loop {
        let now = writes(&operator.metrics().await?);
        if now > last {
            (last, since) = (now, Instant::now());
        }
        if since.elapsed() > Duration::from_secs(10) {
            return Ok(since);
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

/// A minute in which nothing should happen: writes, CPU, and the memory at its end.
async fn settled(operator: &Operator, report: &mut Report, when: &str) -> Result<()> {
    tokio::time::sleep(Duration::from_secs(10)).await;
    let (before, used) = (writes(&operator.metrics().await?), operator.usage()?.cpu_seconds);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let written = writes(&operator.metrics().await?) - before;
    report.figure(&format!("{when}writes in a quiet minute"), written);
    ensure!(written < 0.5, "{written} writes in a minute in which nothing happened");
    report.figure(&format!("{when}CPU in a quiet minute (s)"), operator.usage()?.cpu_seconds - used);
    report.figure(&format!("{when}memory after it (MiB)"), operator.usage()?.rss);
    Ok(())
}
