//! What the operator is told at its start.

use clap::Parser;

/// Command line of the operator; every flag has an environment variable, so that the chart can set either.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "gpujob-operator",
    version,
    about = "Buys GPU capacity for GpuJobs, runs them, delivers their results, and gives the capacity back."
)]
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
