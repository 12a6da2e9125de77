//! Zero, as EC2 itself says it: what it still has that carries our tag.

use crate::command;
use crate::lab::Lab;
use anyhow::{Context, Result};
use tokio::process::Command;

/// Asks EC2's own API, as its customer, for instances, volumes and addresses: of one GpuNode, or of the whole cluster. Empty
/// means zero.
///
/// # Errors
/// EC2 does not answer.
pub async fn left(lab: &Lab, node: Option<&str>) -> Result<Vec<String>> {
    let mut command = Command::new(lab.paths.venv("python"));
    command.args(["-c", include_str!("zero.py"), node.unwrap_or_default()]).envs(lab.environment());
    serde_json::from_str(&command::output(command).await?).context("the answer about what is left")
}
