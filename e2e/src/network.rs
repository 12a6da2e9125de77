//! The lab's network: one bridge, one network namespace an instance, and a few firewall rules, all recognisable as ours.

use crate::command::{line, run};
use crate::host::{BRIDGE, HOST_IP, POD_CIDR, PREFIX, Paths};
use anyhow::{Context, Result};
use std::fs;
use std::path::{Path, PathBuf};

/// Prefix of every interface and network namespace that the lab makes.
const OURS: &str = "gj-";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Chains and matches that let the bridge's traffic through where a firewall (Docker's, say) would drop it.
const RULES: [(&str, &[&str]); 3] = [("FORWARD", &["-i", BRIDGE]), ("FORWARD", &["-o", BRIDGE]), ("INPUT", &["-i", BRIDGE])];
const COMMENT: [&str; 6] = ["-m", "comment", "--comment", "gpujob-lab", "-j", "ACCEPT"];

/// Makes the bridge, the rules and forwarding. Idempotent.
///
/// # Errors
/// `ip` or `iptables` failed.
pub async fn ensure(paths: &Paths) -> Result<()> {
    if !exists(BRIDGE) {
        line(&format!("ip link add {BRIDGE} type bridge")).await?;
    }
    line(&format!("ip address replace {HOST_IP}/{PREFIX} dev {BRIDGE}")).await?;
    line(&format!("ip link set {BRIDGE} up")).await?;
    let before = paths.state.join("run/ip_forward");
    if !before.exists() {
        fs::create_dir_all(paths.state.join("run"))?;
        fs::write(&before, fs::read(FORWARDING)?)?;
    }
    fs::write(FORWARDING, "1")?;
    for (chain, matches) in RULES {
        if iptables("-C", chain, matches).await.is_err() {
            iptables("-I", chain, matches).await?;
        }
    }
    Ok(())
}

/// Takes away everything that [`ensure`] and [`attach`] made, in whatever state a crash left it.
pub async fn remove(paths: &Paths) {
    for namespace in namespaces() {
        let _ = line(&format!("ip netns delete {namespace}")).await;
    }
    // `ip netns` makes the folder a mount of itself; without namespaces in it nobody needs it.
    if names("/run/netns").is_empty() && Path::new("/run/netns").exists() {
        let _ = line("umount /run/netns").await;
        let _ = fs::remove_dir("/run/netns");
    }
    for link in links() {
        let _ = line(&format!("ip link delete {link}")).await;
    }
    for (chain, matches) in RULES {
        while iptables("-D", chain, matches).await.is_ok() {}
    }
    let before = paths.state.join("run/ip_forward");
    if let Ok(value) = fs::read(&before) {
        let _ = fs::write(FORWARDING, value);
        let _ = fs::remove_file(before);
    }
}

/// Interfaces of the lab that exist now.
pub fn links() -> Vec<String> {
    names("/sys/class/net").into_iter().filter(|name| name == BRIDGE || name.starts_with(OURS)).collect()
}

/// Network namespaces of the lab that exist now.
pub fn namespaces() -> Vec<String> {
    names("/run/netns").into_iter().filter(|name| name.starts_with(OURS)).collect()
}

/// An instance's network namespace, as a file for `nsenter --net`.
pub fn namespace_file(id: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(format!("{OURS}{id}"))
}

/// Gives an instance its namespace, its interface `eth0` with this address, and a route to its pods (`10.78.N.0/24`).
///
/// # Errors
/// `ip` failed.
pub async fn attach(id: &str, address: &str, pods: u8) -> Result<()> {
    detach(id).await;
    let (namespace, outside) = (format!("{OURS}{id}"), outside(id));
    line(&format!("ip netns add {namespace}")).await?;
    line(&format!("ip link add {outside} type veth peer name eth0 netns {namespace}")).await?;
    let inside = format!("link set lo up\naddress add {address}/{PREFIX} dev eth0\nlink set eth0 up\nroute add default via {HOST_IP}\n");
    let outside = format!(
        "link set {outside} master {BRIDGE} up\nneighbour flush to {address} dev {BRIDGE}\n\
         route replace {} via {address} dev {BRIDGE}\n",
        pod_range(pods)
    );
    // One process for each side: starting `ip` is most of what an address costs.
    let mut command = tokio::process::Command::new("ip");
    command.args(["-n", &namespace, "-batch", "-"]);
    crate::command::feed(command, &inside).await.context("inside the instance")?;
    let mut command = tokio::process::Command::new("ip");
    command.args(["-force", "-batch", "-"]);
    crate::command::feed(command, &outside).await.context("at the bridge")?;
    Ok(())
}

/// Takes an instance's namespace and interface away; its route goes with them. Nothing there is no error.
pub async fn detach(id: &str) {
    if exists(&outside(id)) {
        let _ = line(&format!("ip link delete {}", outside(id))).await;
    }
    if namespace_file(id).exists() {
        let _ = line(&format!("ip netns delete {OURS}{id}")).await;
    }
}

/// The pod addresses of the node with this number.
pub fn pod_range(number: u8) -> String {
    let network = POD_CIDR.split('.').take(2).collect::<Vec<_>>().join(".");
    format!("{network}.{number}.0/24")
}

/// An interface's name holds 15 characters: the last of the id are those that differ.
fn outside(id: &str) -> String {
    format!("{OURS}{}", &id[id.len().saturating_sub(11)..])
}

fn exists(link: &str) -> bool {
    PathBuf::from("/sys/class/net").join(link).exists()
}

fn names(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

async fn iptables(what: &str, chain: &str, matches: &[&str]) -> Result<String> {
    let words = ["-w", "10", what, chain].into_iter().chain(matches.iter().copied()).chain(COMMENT);
    run("iptables", words).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_fit() {
        assert_eq!(outside("i-0123456789abcdef0"), "gj-6789abcdef0");
        assert!(outside("i-0123456789abcdef0").len() <= 15);
        assert_eq!(outside("system"), "gj-system");
    }

    #[test]
    fn pods_have_a_range_a_node() {
        assert_eq!(pod_range(7), "10.78.7.0/24");
    }
}
