//! The operator as a process of this machine, over the lab's API server, and what it costs.

use crate::host::Paths;
use crate::lab::{CLOUD_ENDPOINTS, Lab};
use crate::process::Daemon;
use crate::{http, progress};
use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

/// Where its metrics are. The object store takes its own ports plus 10,000: not 18080.
const LISTEN: &str = "127.0.0.1:17080";
/// `/proc` counts CPU in these, on every Linux that Kubernetes runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// What sells the capacity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Provider {
    /// The simulator's cloud, inside the operator's process: it answers at once.
    Stub,
    /// The lab's EC2 with its token buckets, through the real SDK; its instances boot nothing.
    Ec2,
}

impl Provider {
    fn program(self) -> &'static str {
        match self {
            Provider::Stub => "gpujob-operator-sim",
            Provider::Ec2 => "gpujob-operator",
        }
    }
}

/// The running operator.
#[derive(Debug)]
pub(super) struct Operator {
    daemon: Daemon,
    pid: u32,
}

/// What the process has used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    /// Of both modes.
    pub(super) cpu_seconds: f64,
    /// Resident now, MiB.
    pub(super) rss: f64,
    /// The most that was ever resident, MiB.
    pub(super) peak: f64,
}

impl Operator {
    /// Starts it and waits until its caches are filled.
    pub(super) async fn start(paths: &Paths, provider: Provider, ec2: &str) -> Result<Self> {
        let program = std::env::current_exe()?.with_file_name(provider.program());
        ensure!(program.exists(), "{} is missing: `cargo build --bins`", program.display());
        let mut command = Command::new(program);
        command.envs(Lab { paths: paths.clone() }.environment());
        for name in CLOUD_ENDPOINTS {
            command.env(name, ec2);
        }
        command.args(["--transfer-image", "none", "--listen", LISTEN, "--namespace", super::cluster::SYSTEM, "--identity", "load"]);
        command.env("RUST_LOG", "warn");
        let daemon = Daemon::server(paths, "load-operator");
        daemon.stop(Duration::from_secs(5)).await;
        let pid = daemon.start(&command)?;
        progress::until("the operator", Duration::from_secs(300), || async {
            daemon.living()?;
            http::get(&format!("http://{LISTEN}/readyz")).await?.success().map(drop)
        })
        .await?;
        Ok(Self { daemon, pid })
    }

    /// Ends it.
    pub(super) async fn stop(self) {
        self.daemon.stop(Duration::from_secs(10)).await;
    }

    /// All its metrics: name with labels, and value.
    pub(super) async fn metrics(&self) -> Result<BTreeMap<String, f64>> {
        self.daemon.living()?;
        let text = http::get(&format!("http://{LISTEN}/metrics")).await?.success()?.text();
        Ok(parse(&text))
    }

    /// What it has used so far.
    pub(super) fn usage(&self) -> Result<Usage> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).context("the operator has ended")?;
        let mebibytes = |key: &str| -> Result<f64> {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"))?;
            Ok(line.trim().trim_end_matches(" kB").trim().parse::<f64>()? / 1024.0)
        };
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // After the name in parentheses, which may hold spaces: field 3 on. User and system time are 14 and 15.
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks = |index: usize| fields.get(index).and_then(|text| text.parse::<f64>().ok()).context("no times");
        Ok(Usage { cpu_seconds: (ticks(11)? + ticks(12)?) / TICKS_PER_SECOND, rss: mebibytes("VmRSS:")?, peak: mebibytes("VmHWM:")? })
    }
}

/// The samples of a text in OpenMetrics' form.
pub(crate) fn parse(text: &str) -> BTreeMap<String, f64> {
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples.filter_map(|line| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?)))).collect()
}

/// The sum of the samples of one metric whose labels have all of these.
pub(super) fn sum(metrics: &BTreeMap<String, f64>, name: &str, labels: &[&str]) -> f64 {
    let fits = |key: &str| key.split('{').next() == Some(name) && labels.iter().all(|label| key.contains(label));
    metrics.iter().filter(|(key, _)| fits(key)).map(|(_, value)| value).sum()
}

/// Requests that changed something, those of the Lease left out: it is renewed whatever happens.
pub(crate) fn writes(metrics: &BTreeMap<String, f64>) -> f64 {
    writes_by_kind(metrics).values().sum()
}

/// The same, by verb and resource: `patch gpunodes/status`. What the API server refused has changed nothing and is not among them.
pub(crate) fn writes_by_kind(metrics: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let mut kinds = BTreeMap::new();
    for (key, value) in metrics.iter().filter(|(key, _)| key.starts_with("gpujob_api_requests_total{")) {
        let label = |name: &str| key.split_once(&format!("{name}=\"")).and_then(|(_, rest)| rest.split('"').next());
        let (Some(verb), Some(resource), Some(code)) = (label("verb"), label("resource"), label("code")) else { continue };
        if ["create", "update", "patch", "delete", "deletecollection"].contains(&verb) && resource != "leases" && code.starts_with('2') {
            *kinds.entry(format!("{verb} {resource}")).or_default() += value;
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_leave_reads_refusals_and_the_lease_out() {
        let metrics = parse(
            "# HELP x\ngpujob_api_requests_total{verb=\"create\",resource=\"gpunodes\",code=\"201\"} 3\n\
             gpujob_api_requests_total{verb=\"get\",resource=\"gpujobs\",code=\"200\"} 9\n\
             gpujob_api_requests_total{verb=\"update\",resource=\"leases\",code=\"200\"} 7\n\
             gpujob_api_requests_total{verb=\"patch\",resource=\"gpunodes/status\",code=\"200\"} 2\n\
             gpujob_api_requests_total{verb=\"patch\",resource=\"gpunodes/status\",code=\"409\"} 5\ngpujob_nodes{state=\"ready\"} 4\n",
        );
        assert!((writes(&metrics) - 5.0).abs() < 1e-9);
        assert!((sum(&metrics, "gpujob_nodes", &["state=\"ready\""]) - 4.0).abs() < 1e-9);
        assert!(sum(&metrics, "gpujob_nodes", &["state=\"gone\""]).abs() < 1e-9);
    }
}
