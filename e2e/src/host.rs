//! The machine that the lab runs on: addresses, places, and what must be there before anything starts.

use std::path::{Path, PathBuf};

/// The bridge that joins instances, servers and this machine.
pub const BRIDGE: &str = "gjlab0";
/// This machine on the bridge; every server of the lab listens here or on loopback.
pub const HOST_IP: &str = "10.77.0.1";
/// Length of the bridge's prefix: the whole VPC, so that instances of all zones see each other.
pub const PREFIX: u8 = 16;
/// The always-on node's address.
pub const SYSTEM_NODE_IP: &str = "10.77.1.1";
/// Cluster services.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// The cluster's DNS service.
pub const DNS_SERVICE_IP: &str = "10.96.0.10";
/// All pods; each node takes a /24 of it.
pub const POD_CIDR: &str = "10.78.0.0/16";
/// The registry that images are pulled from, over plain HTTP.
pub const REGISTRY: &str = "10.77.0.1:5000";
/// The API server as clients and kubelets name it.
pub const API_SERVER: &str = "https://10.77.0.1:6443";
/// EC2, SSM, SQS, IAM, STS and Pricing.
pub const AWS_ENDPOINT: &str = "http://10.77.0.1:4566";
/// Object storage.
pub const S3_ENDPOINT: &str = "http://10.77.0.1:8333";
/// The region that the lab plays.
pub const REGION: &str = "us-east-1";
/// The cluster's name, as in an EKS NodeConfig.
pub const CLUSTER: &str = "lab";

/// Where the lab keeps its things. There is one lab a machine, so these are fixed but for HOME.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Runtime state: removed by `down`.
    pub state: PathBuf,
    /// What is dear to make again: kept by `down`.
    pub cache: PathBuf,
    /// The repository.
    pub repository: PathBuf,
}

impl Paths {
    /// The places of this machine's lab.
    pub fn here() -> Self {
        let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            state: PathBuf::from("/var/lib/gpujob-lab"),
            cache: home.join(".cache/gpujob"),
            repository: manifest.parent().unwrap_or(manifest).to_owned(),
        }
    }

    /// The multi-call program.
    pub fn kubebox(&self) -> PathBuf {
        self.cache.join("bin/kubebox")
    }

    /// One name of the multi-call program, or the lab's own program.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.state.join("bin").join(name)
    }

    /// Something of the private Python environment.
    pub fn venv(&self, name: &str) -> PathBuf {
        self.cache.join("venv/bin").join(name)
    }

    /// A certificate (`.crt`) or key (`.key`).
    pub fn pki(&self, name: &str) -> PathBuf {
        self.state.join("pki").join(name)
    }

    /// The kubeconfig of one identity; `admin` is for people and tests.
    pub fn kubeconfig(&self, identity: &str) -> PathBuf {
        self.state.join("kubeconfig").join(format!("{identity}.yaml"))
    }

    /// One instance's files.
    pub fn instance(&self, id: &str) -> PathBuf {
        self.state.join("instances").join(id)
    }
}

/// Why the lab cannot run on this machine, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Missing {
    /// Namespaces and containerd are Linux's.
    #[error("the lab needs Linux, this is {0}: run it in a Linux virtual machine")]
    Linux(&'static str),
    /// Namespaces, bridges and cgroups need root.
    #[error("the lab needs root (it makes namespaces, a bridge and cgroups): run it as root, for example with `sudo -E`")]
    Root,
    /// A program that the lab does not install itself.
    #[error("the lab needs `{program}`, which is not in PATH: {remedy}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
    /// A kernel feature.
    #[error("the lab needs {feature}: {remedy}")]
    Kernel {
        /// What is absent.
        feature: &'static str,
        /// What to do about it.
        remedy: &'static str,
    },
}

/// Checks what the lab cannot install itself. Cheap: no process is started but `unshare`, once.
///
/// # Errors
/// The first thing that is missing.
pub fn prerequisites() -> Result<(), Missing> {
    if std::env::consts::OS != "linux" {
        return Err(Missing::Linux(std::env::consts::OS));
    }
    // SAFETY: geteuid only reads the process's credentials.
    if unsafe { libc::geteuid() } != 0 {
        return Err(Missing::Root);
    }
    if !Paths::here().kubebox().exists() && !in_path("go") {
        let remedy = "install Go 1.25 or newer (https://go.dev/dl), the control plane is built with it";
        return Err(Missing::Program { program: "go", remedy });
    }
    if !in_path("apt-get") {
        let needed = [
            ("containerd", "install containerd 1.6 or newer"),
            ("runc", "install runc"),
            ("iptables", "install iptables"),
            ("buildah", "install buildah"),
            ("ip", "install iproute2"),
        ];
        for (program, remedy) in needed {
            if !in_path(program) {
                return Err(Missing::Program { program, remedy });
            }
        }
    }
    let namespaces = std::process::Command::new("unshare")
        .args(["--mount", "--net", "--pid", "--uts", "--ipc", "--fork", "true"])
        .stderr(std::process::Stdio::null())
        .status();
    if !namespaces.is_ok_and(|status| status.success()) {
        return Err(Missing::Kernel {
            feature: "permission to make namespaces",
            remedy: "this looks like an unprivileged container; use a virtual machine or a privileged container",
        });
    }
    Ok(())
}

/// Whether a program of this name is in PATH.
pub fn in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_missing_thing_says_what_to_do() {
        let missing = [Missing::Linux("macos"), Missing::Root, Missing::Program { program: "go", remedy: "install Go" }];
        for one in missing {
            assert!(one.to_string().contains(": "), "{one}");
        }
    }

    #[test]
    fn path_is_searched() {
        assert!(in_path("sh"));
        assert!(!in_path("no-such-program-here"));
    }
}
