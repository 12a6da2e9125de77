//! The operator ends in every way that it can: the short forms of `cargo soak`.

use crate::session::Given;
use anyhow::{Result, ensure};
use gpujob_e2e::soak::{kill, nobody_home, takeover};

/// Once each: stopped, lost with its machine, killed.
pub(crate) async fn followed(given: Given) -> Result<()> {
    let summary = takeover::run(&given.lab, 1).await?;
    eprintln!("  {summary}");
    ensure!(summary.0.len() == 3, "{summary}");
    Ok(())
}

/// Three jobs, two kills.
pub(crate) async fn killed_at_random(given: Given) -> Result<()> {
    let plan = kill::Plan { runs: 1, jobs: 3, kills: 2, seed: None };
    let summary = kill::run(&given.lab, &plan).await?;
    eprintln!("  {summary}");
    Ok(())
}

/// The case that needs no more than the pool's own field.
pub(crate) async fn nobody_is_home(given: Given) -> Result<()> {
    let summary = nobody_home::run(&given.lab, Some(nobody_home::Case::NoOperator)).await?;
    eprintln!("  {summary}");
    Ok(())
}
