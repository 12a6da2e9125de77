//! `cargo lab down`: ends what the lab started, whatever state a crash left it in, and nothing else.

use crate::host::Paths;
use crate::instance::{self, cgroup};
use crate::lock::Lock;
use crate::network;
use crate::process::{Daemon, kill_marked, marked};
use crate::progress::step;
use crate::services::{ec2, object_store};
use anyhow::{Result, bail};
use futures::future::join_all;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// Ends everything and checks that nothing is left. The last run's logs are kept in the cache's `last-logs`.
///
/// # Errors
/// Something of the lab could not be removed; the error lists it.
pub async fn down(paths: &Paths) -> Result<()> {
    let _lock = Lock::take()?;
    clear(paths).await
}

/// The same for who holds the lock already.
pub(crate) async fn clear(paths: &Paths) -> Result<()> {
    step("instances and servers", stop_all(paths)).await?;
    step("network, groups and files", async {
        network::remove(paths).await;
        cgroup::remove_all();
        keep_logs(paths);
        object_store::remove_sockets();
        remove_state(paths).await
    })
    .await?;
    let left = left(paths);
    if !left.is_empty() {
        bail!("still there: {}", left.join(", "));
    }
    Ok(())
}

async fn stop_all(paths: &Paths) -> Result<()> {
    // No grace: nothing here holds data that anybody wants. The cloud goes first, so that it boots nothing meanwhile.
    let server = |name: String| async move { Daemon::server(paths, &name).stop(Duration::ZERO).await };
    server(ec2::SERVER.to_owned()).await;
    let instances = names(&paths.state.join("instances"));
    join_all(instances.iter().map(|id| instance::kill_processes(paths, id))).await;
    let servers = names(&paths.state.join("run")).into_iter();
    let servers = servers.filter_map(|file| file.strip_suffix(".pid").map(str::to_owned));
    join_all(servers.map(server)).await;
    // What lost its pid file in a crash still carries the mark.
    kill_marked().await;
    join_all(instances.iter().map(|id| instance::clear_away(paths, id))).await;
    Ok(())
}

async fn remove_state(paths: &Paths) -> Result<()> {
    for mount in mounts(paths) {
        let _ = crate::command::run("umount", ["--lazy", &mount]).await;
    }
    match fs::remove_dir_all(&paths.state) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// What is left of a lab on this machine, in words; empty after a good `down`.
pub fn left(paths: &Paths) -> Vec<String> {
    let mut left: Vec<String> = marked().iter().map(|pid| format!("process {pid}")).collect();
    left.extend(network::links().iter().map(|link| format!("interface {link}")));
    left.extend(network::namespaces().iter().map(|namespace| format!("network namespace {namespace}")));
    left.extend(cgroup::left().iter().map(|group| format!("group {}", group.display())));
    left.extend(mounts(paths).iter().map(|mount| format!("mount {mount}")));
    if paths.state.exists() {
        left.push(format!("{}", paths.state.display()));
    }
    left
}

/// Mounts of this machine below the lab's state, deepest first.
fn mounts(paths: &Paths) -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = table.lines().filter_map(|line| line.split(' ').nth(1));
    let mut ours: Vec<String> = places.filter(|place| Path::new(place).starts_with(&paths.state)).map(str::to_owned).collect();
    ours.sort_by_key(|place| std::cmp::Reverse(place.len()));
    ours
}

fn keep_logs(paths: &Paths) {
    let (logs, kept) = (paths.state.join("log"), paths.cache.join("last-logs"));
    if logs.exists() {
        let _ = fs::remove_dir_all(&kept);
        // Another file system than the state's is possible, so a copy.
        let _ = std::process::Command::new("cp").arg("-r").arg(&logs).arg(&kept).status();
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}
