//! What the operator is told at its start.

use clap::{Parser, Subcommand};
use std::ffi::OsString;

/// Command line of the operator.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "gpujob-operator",
    version,
    about = "Buys GPU capacity for GpuJobs, runs them, delivers their results, and gives the capacity back.",
    after_help = "Flags without a command are those of `run`."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the operator's program does.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Be the operator; this is what flags alone mean
    Run(Args),
    /// Before an uninstall: have everything given back, and wait until it is
    Drain(crate::drain::Args),
}

impl Cli {
    /// Reads a command line, program name included.
    ///
    /// # Errors
    /// It is wrong, or asks for help or the version.
    pub fn read(words: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut words: Vec<OsString> = words.into_iter().collect();
        let flag = words.get(1).is_none_or(|word| word.to_string_lossy().starts_with('-'));
        let about = words.get(1).is_some_and(|word| ["-h", "--help", "-V", "--version"].iter().any(|known| word == known));
        if flag && !about {
            words.insert(1.min(words.len()), "run".into());
        }
        Self::try_parse_from(words)
    }
}

/// Flags of `run`; every one has an environment variable, so that the chart can set either.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Image of gpujob-transfer, which copies inputs in and results out beside each job.
    #[arg(long, env = "GPUJOB_TRANSFER_IMAGE")]
    pub transfer_image: String,
    /// Pull policy of that image: Always, IfNotPresent or Never.
    #[arg(long, env = "GPUJOB_TRANSFER_PULL_POLICY")]
    pub transfer_pull_policy: Option<String>,
    /// The namespace that the operator runs in: its Lease is there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "gpujob-system")]
    pub namespace: String,
    /// This replica's name in the Lease.
    #[arg(long, env = "POD_NAME", default_value = "gpujob-operator")]
    pub identity: String,
    /// Where /metrics, /healthz and /readyz are served.
    #[arg(long, env = "GPUJOB_LISTEN", default_value = "0.0.0.0:8080")]
    pub listen: std::net::SocketAddr,
    /// Seconds after which another replica takes over from a silent leader.
    #[arg(long, env = "GPUJOB_LEASE_SECONDS", default_value_t = 15)]
    pub lease_seconds: u32,
    /// Log lines as JSON instead of text.
    #[arg(long, env = "GPUJOB_LOG_JSON", default_value_t = true, action = clap::ArgAction::Set)]
    pub log_json: bool,
}

/// What the controllers need of it, with what was learned from the cluster.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Image of gpujob-transfer.
    pub transfer_image: String,
    /// Its pull policy, if one was given.
    pub transfer_image_pull_policy: Option<String>,
    /// The cluster's identity: the UID of namespace `kube-system`. Names and Helm values get copied, this does not.
    pub cluster: String,
    /// The operator's namespace.
    pub namespace: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Command, clap::Error> {
        Cli::read(line.split(' ').map(Into::into)).map(|cli| cli.command)
    }

    #[test]
    fn flags_alone_run_the_operator() {
        for line in ["gpujob-operator --transfer-image=t:1", "gpujob-operator run --transfer-image t:1"] {
            assert!(matches!(read(line), Ok(Command::Run(args)) if args.transfer_image == "t:1" && args.lease_seconds == 15), "{line}");
        }
        let drain = read("gpujob-operator drain --timeout 10m --namespace x");
        assert!(matches!(drain, Ok(Command::Drain(args)) if args.timeout.0 == 600 && args.namespace == "x"));
        assert!(read("gpujob-operator drain --timeout 10").is_err());
        let help = read("gpujob-operator --help").expect_err("help is no command").to_string();
        assert!(help.contains("drain"), "{help}");
    }
}
