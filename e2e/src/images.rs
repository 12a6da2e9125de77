//! Images: built by buildah without any daemon, pushed to the lab's registry.

use crate::command;
use crate::host::{Paths, REGISTRY};
use crate::instance;
use anyhow::{Context, Result};
use std::fs;
use std::path::Path;
use tokio::process::Command;

/// Builds the folder's Containerfile and pushes it as `REGISTRY/NAME`; returns that reference. A NAME without a tag
/// gets `latest`.
///
/// # Errors
/// buildah fails; its words are in the error.
pub async fn push(paths: &Paths, context: &Path, name: &str) -> Result<String> {
    push_with(paths, context, &context.join("Containerfile"), name).await
}

/// As [`push`], with a Containerfile from elsewhere.
///
/// # Errors
/// As [`push`].
pub async fn push_with(paths: &Paths, context: &Path, containerfile: &Path, name: &str) -> Result<String> {
    let tagged = if name.rsplit('/').next().unwrap_or(name).contains(':') { name.to_owned() } else { format!("{name}:latest") };
    let reference = format!("{REGISTRY}/{tagged}");
    // chroot isolation needs no container engine, and no network of its own for a RUN line.
    let mut build = buildah(paths);
    build.args(["build", "--quiet", "--isolation", "chroot", "--format", "oci", "--layers=false", "--tag", &reference]);
    build.arg("--file").arg(containerfile).arg(context);
    command::output(build).await.with_context(|| format!("building {name}"))?;
    let mut push = buildah(paths);
    push.args(["push", "--quiet", "--tls-verify=false", &reference]);
    let pushed = command::output(push).await.with_context(|| format!("pushing {name}"));
    let mut forget = buildah(paths);
    forget.args(["rmi", "--force", &reference]);
    let _ = command::output(forget).await;
    pushed?;
    Ok(reference)
}

/// Pushes the image of every pod's sandbox.
///
/// # Errors
/// As [`push`].
pub async fn push_pause(paths: &Paths) -> Result<()> {
    let context = tempfile::tempdir()?;
    fs::copy(paths.cache.join("bin/pause"), context.path().join("pause"))?;
    fs::write(context.path().join("Containerfile"), "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n")?;
    push(paths, context.path(), instance::PAUSE).await.map(drop)
}

/// buildah with storage of its own below the lab's state, so that `down` forgets it and no other engine sees it.
fn buildah(paths: &Paths) -> Command {
    let storage = paths.state.join("buildah");
    let mut command = Command::new("buildah");
    command.arg("--root").arg(storage.join("root")).arg("--runroot").arg(storage.join("run"));
    // Plain copies: overlay mounts could outlive a crash, and our images are one layer.
    command.args(["--storage-driver", "vfs"]);
    command.env("TMPDIR", "/tmp").env("XDG_RUNTIME_DIR", storage.join("run"));
    command
}
