//! CoreDNS, as a process on the bridge: answers for the cluster's services and pods, and for nothing else.

use crate::host::{HOST_IP, Paths};
use crate::process::Daemon;
use anyhow::Result;
use std::fs;
use std::process::Command;

/// Its name among the lab's servers.
pub const SERVER: &str = "coredns";

/// Starts it unless it runs. It waits by itself for the API server.
///
/// # Errors
/// Its configuration cannot be written or it cannot be started.
pub fn ensure_running(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    if daemon.pid().is_some() {
        return Ok(());
    }
    let configuration = paths.state.join("Corefile");
    let kubeconfig = paths.kubeconfig("admin");
    // No forwarding: nothing in the lab needs a name from outside, and a query that leaves this machine would be a leak.
    fs::write(
        &configuration,
        format!(
            "cluster.local:53 in-addr.arpa:53 {{\n  bind {HOST_IP}\n  errors\n  cache 5\n  \
             kubernetes cluster.local in-addr.arpa {{\n    kubeconfig {} lab\n    pods insecure\n    ttl 5\n  }}\n}}\n\
             .:53 {{\n  bind {HOST_IP}\n  errors\n  template ANY ANY {{\n    rcode NXDOMAIN\n  }}\n}}\n",
            kubeconfig.display()
        ),
    )?;
    let mut command = Command::new(paths.bin("coredns"));
    command.arg("-conf").arg(configuration);
    daemon.start(&command)?;
    Ok(())
}
