//! An instance's life seen from outside: started by a hook, watched by a supervisor of its own.

use super::{Event, SYSTEM, cgroup, clear_away};
use crate::host::{API_SERVER, CLUSTER, Paths, SERVICE_CIDR, SYSTEM_NODE_IP};
use crate::network;
use crate::process::{Daemon, MARK};
use crate::services::ec2::Control;
use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::fs;
use std::io::Write;
use std::process::Command;

/// The supervisor's name among an instance's processes.
pub(super) const SUPERVISOR: &str = "supervisor";
/// The process that holds the namespaces open; its death is the instance's.
pub(super) const BUNDLE: &str = "bundle";

/// Starts an instance and returns at once: its supervisor goes on.
///
/// # Errors
/// Its files cannot be written or its supervisor not be started.
pub fn boot(paths: &Paths, event: &Event) -> Result<()> {
    let folder = paths.instance(&event.id);
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("event.json"), serde_json::to_vec_pretty(event)?)?;
    let mut command = Command::new(paths.bin("gpujob-lab"));
    command.args(["instance", "supervise", &event.id]);
    Daemon::within(&folder, SUPERVISOR).start(&command)?;
    Ok(())
}

/// Starts the always-on node unless it runs. It is an instance like any other, but no EC2 knows of it.
///
/// # Errors
/// As [`boot`].
pub async fn boot_system_node(paths: &Paths) -> Result<()> {
    if Daemon::within(&paths.instance(SYSTEM), SUPERVISOR).pid().is_some() {
        return Ok(());
    }
    // What a crash left of the last one.
    clear_away(paths, SYSTEM).await;
    let authority = STANDARD.encode(fs::read(paths.pki("ca.crt"))?);
    let user_data = format!(
        "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n--//\nContent-Type: application/node.eks.aws\n\n\
         apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  cluster:\n    name: {CLUSTER}\n    \
         apiServerEndpoint: {API_SERVER}\n    certificateAuthority: {authority}\n    cidr: {SERVICE_CIDR}\n  \
         kubelet:\n    flags: [\"--node-labels=gpujob.dev/lab-node=system\"]\n--//--\n"
    );
    boot(
        paths,
        &Event {
            id: SYSTEM.to_owned(),
            kind: "m7i.large".to_owned(),
            gpus: 0,
            zone: "us-east-1a".to_owned(),
            market: "on-demand".to_owned(),
            ip: SYSTEM_NODE_IP.to_owned(),
            private_dns: format!("ip-{}.ec2.internal", SYSTEM_NODE_IP.replace('.', "-")),
            user_data,
            reason: None,
            faults: super::Faults::default(),
        },
    )
}

/// Runs an instance to its end, clears it away and reports how it ended. This is the supervisor's whole life.
///
/// # Errors
/// The instance could not be started; that is reported as its end, too.
pub async fn supervise(paths: &Paths, id: &str) -> Result<()> {
    let event = Event::of(paths, id)?;
    let outcome = live(paths, &event).await;
    let switched_off = paths.instance(id).join("switched-off").exists();
    clear_away(paths, id).await;
    if id != SYSTEM {
        let reason = if switched_off { "Client.InstanceInitiatedShutdown" } else { "Server.InternalError" };
        Control::lab().report(id, "terminated", Some(reason)).await?;
    }
    outcome
}

async fn live(paths: &Paths, event: &Event) -> Result<()> {
    let id = event.id.as_str();
    let folder = paths.instance(id);
    let pods = take_pod_range(paths, id)?;
    fs::write(folder.join("pods"), network::pod_range(pods))?;
    cgroup::make(id)?;
    network::attach(id, &event.ip, pods).await?;
    let mut command = tokio::process::Command::new("nsenter");
    // `ip netns exec` would do, but it remounts /sys, and the cgroup hierarchies below it vanish.
    command.arg(format!("--net={}", network::namespace_file(id).display()));
    command.args(["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child", "--mount-proc"]);
    command.arg(paths.bin("gpujob-lab")).args(["instance", "init", id]).env(MARK, "1");
    let mut bundle = command.spawn().context("could not start the instance's namespaces")?;
    let pid = bundle.id().context("it has just been started")?;
    Daemon::within(&folder, BUNDLE).record(pid)?;
    if id != SYSTEM {
        // Should the cloud not listen, the instance goes on: real ones do not ask either.
        if let Err(error) = Control::lab().report(id, "running", None).await {
            eprintln!("could not report {id} as running: {error:#}");
        }
    }
    bundle.wait().await?;
    Ok(())
}

/// Takes the first free /24 of the pods' addresses. The file is the lock.
fn take_pod_range(paths: &Paths, id: &str) -> Result<u8> {
    let folder = paths.state.join("pod-ranges");
    fs::create_dir_all(&folder)?;
    for number in 1..=254 {
        let made = fs::File::options().write(true).create_new(true).open(folder.join(number.to_string()));
        if let Ok(mut file) = made {
            file.write_all(id.as_bytes())?;
            return Ok(number);
        }
    }
    anyhow::bail!("254 instances run; the lab has no addresses for another one's pods")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_taken_once_and_in_order() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let paths = Paths { state: folder.path().to_owned(), ..Paths::here() };
        assert_eq!(take_pod_range(&paths, "a")?, 1);
        assert_eq!(take_pod_range(&paths, "b")?, 2);
        fs::remove_file(folder.path().join("pod-ranges/1"))?;
        assert_eq!(take_pod_range(&paths, "c")?, 1);
        Ok(())
    }
}
