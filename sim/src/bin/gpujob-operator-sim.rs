//! The real operator over a real API server, buying from the simulator's cloud in real time: for load tests, which are not
//! about EC2. Flags and environment are the operator's own. Its instances boot nothing: somebody else plays their kubelets.

use clap::Parser;
use gpujob_operator::clock::SystemClock;
use gpujob_operator::run::run_with;
use gpujob_operator::settings::Args;
use gpujob_provider_core::Rates;
use gpujob_sim::cloud::{FakeCloud, Operation};
use std::sync::Arc;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// As EC2 takes it, so that calls overlap as they would.
const LAUNCH_TAKES: Duration = Duration::from_millis(500);

#[derive(Parser)]
struct Simulated {
    #[command(flatten)]
    operator: Args,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Simulated::parse().operator;
    tracing_subscriber::fmt().with_env_filter(EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"))).init();
    let shutdown = CancellationToken::new();
    let (stop, mut term) = (shutdown.clone(), signal(SignalKind::terminate())?);
    tokio::spawn(async move {
        let _ = term.recv().await;
        stop.cancel();
    });
    let cloud = FakeCloud::new(Arc::new(SystemClock));
    // What is measured is the operator, not its patience.
    cloud.set_rates(Rates::UNLIMITED);
    cloud.set_latency(Operation::Launch, LAUNCH_TAKES);
    run_with(args, move |_| cloud.clouds(), shutdown).await
}
