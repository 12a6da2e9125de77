//! `cargo demo`: the main job on real input, from nothing to results to zero.
//!
//! ```text
//! lab up → install → bucket, digits, Secret → kubectl apply → what is seen, as it is seen → results checked → zero → receipt
//! ```
//!
//! [`flow`] is all of it but the lab itself, so that the end-to-end tests run the very same thing. Nothing is taken from the
//! operator's word that can be asked elsewhere: the launch and the bill from EC2, the files from the store.

mod delivered;
mod flow;
mod sample;
mod share;
mod show;
mod sight;
mod timeline;
pub mod zero;

pub use delivered::{Delivered, File, fetch};
pub use flow::{Run, Scope, flow};
pub use sample::{Sample, secret};
pub use share::exit_moment;
pub use show::Show;

use crate::host::prerequisites;
use crate::lab::Lab;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};

/// Runs the demo; `keep` leaves the lab up. Ctrl-C takes it down as well.
///
/// # Errors
/// Anything that did not hold.
pub async fn run(keep: bool) -> Result<()> {
    // Before anything else: where no lab can run there is none to take down.
    prerequisites()?;
    let started = Instant::now();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut outcome = tokio::select! {
        outcome = whole() => outcome,
        _ = interrupt.recv() => Err(Stopped.into()),
        _ = terminate.recv() => Err(Stopped.into()),
    };
    // Ctrl-C reaches the programs that we run, too, and their failure may be seen before our own signal.
    if outcome.is_err() && tokio::time::timeout(Duration::from_millis(200), interrupt.recv()).await.is_ok() {
        outcome = Err(Stopped.into());
    }
    let lab = Lab::default();
    let stopped = outcome.as_ref().is_err_and(anyhow::Error::is::<Stopped>);
    let down = if keep && !stopped {
        Ok(())
    } else {
        eprintln!("\nLab down");
        lab.down().await
    };
    match (outcome, down) {
        (Ok(()), Ok(())) => {
            println!("\nAll of it held. {:.0} s from start to end.", started.elapsed().as_secs_f64());
            if keep {
                println!("The lab is up: eval \"$(cargo lab env)\", then kubectl get gpujobs,gpunodes,gpupools. `cargo lab down` ends it.");
            }
            Ok(())
        }
        (Err(error), Ok(())) => Err(error),
        (Ok(()), Err(error)) => Err(error.context("the lab could not be taken down")),
        (Err(error), Err(left)) => bail!("{error:#}; and then the lab could not be taken down: {left:#}"),
    }
}

/// A person or the system said so.
#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped;

async fn whole() -> Result<()> {
    eprintln!("Lab up");
    let lab = Lab::up().await?;
    eprintln!("\nInstall");
    lab.install().await?;
    println!();
    let mut show = Show::stdout();
    flow(&lab, &Sample::digits(&lab.paths), Scope::Cluster, &mut show).await.map(drop)
}
