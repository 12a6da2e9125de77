//! The data path against a real store: kill -9 at random bytes, attempts that race, nodes that are cut off and return.

use crate::host::Paths;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// What begins the line that says how the stories went. `transfer/tests/store/soak/mod.rs` prints it when none has failed.
const SUMMARY: &str = "soak transfer:";

/// How long it goes on.
#[derive(Debug, Clone, Args)]
pub struct Plan {
    /// How many stories
    #[arg(long, default_value_t = 240)]
    runs: u64,
    /// The first one's seed: with `--runs 1`, one story again
    #[arg(long, default_value_t = 0)]
    seed: u64,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { runs: 240, seed: 0 }
    }
}

/// Races 64 conditional puts 200 times, then tells the stories. Returns their summary.
///
/// # Errors
/// A test has failed, or has not run.
pub async fn run(plan: &Plan) -> Result<String> {
    // Without one winner of each race no story means anything.
    tests("race::", &[("GPUJOB_RACE", "long".into())]).await?;
    let (runs, seed) = (plan.runs.to_string(), plan.seed.to_string());
    let summary = tests("soak::", &[("GPUJOB_SOAK_RUNS", runs), ("GPUJOB_SOAK_SEED", seed)]).await?;
    summary.context("no story was told: is the test in transfer/tests/store/soak/mod.rs still there?")
}

/// Runs the tests of that name, with what they print for all to see. Returns their summary, if they printed one.
async fn tests(name: &str, environment: &[(&str, String)]) -> Result<Option<String>> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["test", "--quiet", "--package", "gpujob-transfer", "--test", "store", "--", "--nocapture", name]);
    command.envs(environment.iter().map(|(key, value)| (key, value))).current_dir(Paths::here().repository);
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().context("could not start cargo")?;
    let Some(output) = child.stdout.take() else { bail!("cargo has no output") };
    let (mut lines, mut summary, mut ran) = (BufReader::new(output).lines(), None, false);
    while let Some(line) = lines.next_line().await? {
        println!("{line}");
        ran |= line.contains("test result: ok.") && !line.contains(" 0 passed");
        if let Some(at) = line.find(SUMMARY) {
            summary = Some(line[at..].to_string());
        }
    }
    let status = child.wait().await?;
    ensure!(status.success(), "the tests {name} of gpujob-transfer have failed: what they print above names the seed");
    ensure!(ran, "no test of gpujob-transfer is named {name}");
    Ok(summary)
}
