//! SeaweedFS: object storage that checks checksums and honours conditional writes, as S3 does.

use crate::host::{HOST_IP, Paths};
use crate::process::Daemon;
use crate::progress::until;
use crate::s3::S3;
use anyhow::Result;
use serde_json::json;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Its name among the lab's servers.
pub const SERVER: &str = "seaweedfs";
/// All ports that it takes: master, volumes, filer and S3, each with its gRPC port.
const PORTS: [u16; 8] = [19333, 29333, 18080, 28080, 18888, 28888, 8333, 18333];
/// A bucket that only says that writes work.
const PROBE: &str = "lab-probe";

/// Starts it unless it runs. [`ready`] waits for it; until then other parts can start.
///
/// # Errors
/// Its files cannot be written or it cannot be started.
pub fn start(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    if daemon.pid().is_some() {
        return Ok(());
    }
    let data = paths.state.join("seaweedfs");
    fs::create_dir_all(&data)?;
    let identities = paths.state.join("seaweedfs.json");
    let store = S3::lab();
    let actions = ["Admin", "Read", "Write", "List", "Tagging"];
    let credentials = json!([{"accessKey": store.access_key, "secretKey": store.secret_key}]);
    fs::write(&identities, json!({"identities": [{"name": "lab", "credentials": credentials, "actions": actions}]}).to_string())?;
    let mut command = Command::new(paths.venv("weed"));
    command.arg("server");
    // Master, volumes and filer are for S3 alone; each also takes its port plus 10,000 for gRPC.
    command.args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.port=19333", "-volume.port=18080", "-filer.port=18888"]);
    command.args(["-s3", "-s3.port=8333", "-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false", "-s3.allowEmptyFolder=false"]);
    command.arg(format!("-s3.ip.bind={HOST_IP}"));
    command.arg(format!("-s3.config={}", identities.display())).arg(format!("-dir={}", data.display()));
    // Each bucket takes volumes of its own, so there must be room for many; they hold no space until written.
    command.args(["-volume.max=5000", "-master.volumeSizeLimitMB=1024", "-volume.minFreeSpace=1"]);
    command.env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1");
    // It reports usage to its makers unless told not to. Nothing of the lab leaves this machine.
    command.arg("-master.telemetry=false");
    daemon.start(&command)?;
    Ok(())
}

/// Removes the sockets that it leaves in /tmp, whose names it does not let us choose: they end with our ports.
pub fn remove_sockets() {
    for entry in fs::read_dir("/tmp").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let ours = PORTS.iter().any(|port| name.ends_with(&format!("-{port}.sock")));
        if name.starts_with("seaweedfs-") && ours {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Waits until an object can be written: the first answer comes a little before the first volume can be.
///
/// # Errors
/// It ended, or takes longer than a minute.
pub async fn ready(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    let store = S3::lab();
    until("object storage", Duration::from_secs(60), || async {
        daemon.living()?;
        store.create_bucket(PROBE).await?;
        store.put(PROBE, "written", b"yes").await
    })
    .await
}
