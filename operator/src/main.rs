//! The operator's binary: flags, logs, signals.

use gpujob_operator::settings::{Cli, Command};
use gpujob_operator::{drain, run};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let cli = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let shutdown = CancellationToken::new();
    let (stop, mut term, mut int) = (shutdown.clone(), signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::spawn(async move {
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        stop.cancel();
    });
    match cli.command {
        Command::Run(args) => {
            let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube=warn"));
            if args.log_json {
                tracing_subscriber::fmt().json().with_env_filter(filter).init();
            } else {
                tracing_subscriber::fmt().with_env_filter(filter).init();
            }
            run::run(args, shutdown).await
        }
        // It talks to the person who uninstalls: lines, not logs.
        Command::Drain(args) => drain::run(args, shutdown).await,
    }
}
