//! The end of an instance: hard, as a terminated virtual machine's is, and traceless.

use super::boot::{BUNDLE, SUPERVISOR};
use super::cgroup;
use crate::host::Paths;
use crate::network;
use crate::process::{Daemon, kill};
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ends an instance at once and clears it away; one that is not there is fine.
pub async fn end(paths: &Paths, id: &str) {
    kill_processes(paths, id).await;
    clear_away(paths, id).await;
}

/// Kills an instance's processes, all at once.
pub async fn kill_processes(paths: &Paths, id: &str) {
    let folder = paths.instance(id);
    // Supervisor and bundle are one process group; the second line is for a supervisor that was killed alone.
    Daemon::within(&folder, SUPERVISOR).stop(Duration::ZERO).await;
    if let Some(pid) = Daemon::within(&folder, BUNDLE).pid() {
        kill(pid);
    }
}

/// Removes what an instance leaves once its processes are dead: interface, groups, files. Its logs are kept.
pub async fn clear_away(paths: &Paths, id: &str) {
    let folder = paths.instance(id);
    network::detach(id).await;
    cgroup::remove(id);
    keep_logs(&folder.join("log"), &paths.state.join("log/instances").join(id));
    release_pod_range(paths, id);
    // The last of its processes may still be on its way out, and hold a mount in its own namespace.
    for _ in 0..40 {
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            _ => break,
        }
    }
}

fn release_pod_range(paths: &Paths, id: &str) {
    for entry in fs::read_dir(paths.state.join("pod-ranges")).into_iter().flatten().flatten() {
        if fs::read_to_string(entry.path()).is_ok_and(|owner| owner == id) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn keep_logs(from: &Path, to: &Path) {
    if !from.exists() {
        return;
    }
    let _ = fs::remove_dir_all(to);
    let _ = fs::create_dir_all(to);
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = fs::rename(entry.path(), to.join(entry.file_name()));
        }
    }
}
