//! `cargo soak`: long proofs on the lab, each also run in a short form by `cargo test`.
//!
//! Each subcommand prints what it does as it goes, and one line at its end. Its exit code is not 0 unless all of it held. Nothing
//! is taken from the operator's word: launches and what is left are asked from EC2, results are read from the store.

pub mod given;
pub mod kill;
pub mod nobody_home;
mod sim;
pub mod takeover;
pub mod transfer;

use crate::lab::Lab;
use crate::load;
use anyhow::{Context, Result};
use clap::Subcommand;
use std::future::Future;
use std::time::Instant;

/// One proof.
#[derive(Debug, Clone, Subcommand)]
pub enum Soak {
    /// Kill -9 the operator at random moments while jobs run: no double launch, no orphan, all results whole, zero at the end
    Kill(kill::Plan),
    /// Kill, lose and stop the leading operator, and measure until the other one acts
    Takeover {
        /// How often each
        #[arg(long, default_value_t = 5)]
        runs: usize,
    },
    /// No operator, no credentials, no API server, no kubelet: instances end themselves
    NobodyHome {
        /// Only this case
        #[arg(long)]
        case: Option<nobody_home::Case>,
    },
    /// A burst of jobs, one node each, then the drain: times, writes, CPU and memory of the operator
    Burst(load::Burst),
    /// Jobs that may not run: what it costs to hold them, and that nothing is written while nothing changes
    Waiting(load::Waiting),
    /// Random lives of the operator in virtual time
    Sim {
        /// How many
        #[arg(long, default_value_t = 100_000)]
        schedules: u64,
    },
    /// Known bugs, each planted in a copy of the source: the simulator must find every one
    Planted,
    /// The data path against a real store: 64 writers race 200 times, then kill -9 at random bytes, attempts that race, nodes that return
    Transfer(transfer::Plan),
    /// All of them, the long way
    All,
}

/// Runs proofs; the lab is brought up if it is not, and taken down unless `keep`.
///
/// # Errors
/// Something did not hold.
pub async fn run(soak: Soak, keep: bool) -> Result<()> {
    match soak {
        Soak::Sim { schedules } => sim::schedules(schedules).await,
        Soak::Planted => sim::planted().await,
        Soak::Transfer(plan) => say(transfer::run(&plan).await?),
        Soak::Burst(burst) => on_bare_lab(keep, |lab| async move { burst.run(&lab.paths).await }).await,
        Soak::Waiting(waiting) => on_bare_lab(keep, |lab| async move { waiting.run(&lab.paths).await }).await,
        Soak::Kill(plan) => on_lab(keep, |lab| async move { say(kill::run(&lab, &plan).await?) }).await,
        Soak::Takeover { runs } => on_lab(keep, |lab| async move { say(takeover::run(&lab, runs).await?) }).await,
        Soak::NobodyHome { case } => on_lab(keep, |lab| async move { say(nobody_home::run(&lab, case).await?) }).await,
        Soak::All => {
            on_lab(false, |lab| async move {
                say(takeover::run(&lab, 5).await?)?;
                say(kill::run(&lab, &kill::Plan::default()).await?)?;
                say(nobody_home::run(&lab, None).await?)
            })
            .await?;
            // Each on a lab of its own: what one leaves in etcd is what the next would measure.
            on_bare_lab(false, |lab| async move { load::Burst::default().run(&lab.paths).await }).await?;
            on_bare_lab(keep, |lab| async move { load::Waiting::default().run(&lab.paths).await }).await?;
            sim::schedules(100_000).await?;
            sim::planted().await?;
            say(transfer::run(&transfer::Plan::default()).await?)
        }
    }
}

fn say(summary: impl std::fmt::Display) -> Result<()> {
    println!("{summary}");
    Ok(())
}

/// Without GpuJob installed: load tests run the operator as a process of this machine, to see what it costs.
async fn on_bare_lab<F: Future<Output = Result<()>>>(keep: bool, proof: impl FnOnce(Lab) -> F) -> Result<()> {
    let lab = Lab::up().await?;
    let outcome = proof(lab.clone()).await;
    if !keep {
        lab.down().await?;
    }
    outcome
}

async fn on_lab<F: Future<Output = Result<()>>>(keep: bool, proof: impl FnOnce(Lab) -> F) -> Result<()> {
    let started = Instant::now();
    let lab = Lab::up().await?;
    let outcome = async {
        lab.install().await.context("install")?;
        proof(lab.clone()).await
    }
    .await;
    if !keep {
        let down = lab.down().await;
        outcome?;
        down.context("the lab could not be taken down")?;
    } else {
        outcome?;
    }
    eprintln!("{:.0} s", started.elapsed().as_secs_f64());
    Ok(())
}
