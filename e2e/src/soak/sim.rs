//! The proofs that need no lab.

use crate::host::Paths;
use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Random schedules; the simulator's own last line is the summary.
pub(super) async fn schedules(count: u64) -> Result<()> {
    simulator(&["--schedules", &count.to_string()]).await
}

/// The planted bugs.
pub(super) async fn planted() -> Result<()> {
    simulator(&["planted"]).await
}

/// Runs `cargo sim`, with what it prints for all to see.
async fn simulator(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["run", "--quiet", "--bin", "gpujob-sim", "--"]).args(arguments).current_dir(Paths::here().repository);
    let status = command.kill_on_drop(true).status().await.context("could not start cargo")?;
    ensure!(status.success(), "cargo sim {} failed", arguments.join(" "));
    Ok(())
}
