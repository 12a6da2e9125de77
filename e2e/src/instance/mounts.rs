//! The inside of an instance: this machine's programs, and its own everything else.
//!
//! Nothing that an instance writes may stay on the machine or meet another instance: the kubelet's device plugin
//! folder, containerd's sockets and `/run/netns` are constants in their programs, and user data writes where it likes.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Folders that are this machine's below and the instance's own above.
const OVERLAID: [&str; 2] = ["/etc", "/usr/local"];

/// Makes the instance's view of the file system. Runs as its first process, in its mount namespace.
///
/// # Errors
/// A mount is refused.
pub(super) fn make(state: &Path, folder: &Path) -> Result<()> {
    for path in OVERLAID {
        let layer = folder.join("overlay").join(path.trim_start_matches('/').replace('/', "-"));
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir_all(&work)?;
        let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
        mount(&["-t", "overlay", "overlay", "-o", &options, path])?;
    }
    mount(&["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/run"])?;
    mount(&["-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp"])?;
    // /var/lib becomes empty but for the lab's own folder, which is carried across.
    let (state_text, carried) = (state.to_string_lossy(), Path::new("/run/carried"));
    fs::create_dir_all(carried)?;
    mount(&["--bind", &state_text, "/run/carried"])?;
    mount(&["-t", "tmpfs", "-o", "mode=0755", "tmpfs", "/var/lib"])?;
    fs::create_dir_all(state)?;
    mount(&["--move", "/run/carried", &state_text])?;
    fs::remove_dir(carried)?;
    for (own, place) in [("kubelet", "/var/lib/kubelet"), ("cni-state", "/var/lib/cni"), ("log", "/var/log")] {
        let own = folder.join(own);
        fs::create_dir_all(&own)?;
        fs::create_dir_all(place)?;
        mount(&["--bind", &own.to_string_lossy(), place])?;
    }
    mount(&["--make-rshared", "/var/lib/kubelet"])?;
    for place in ["/run/containerd", "/run/netns", "/run/lock", "/var/log/pods", "/var/lib/cloud"] {
        fs::create_dir_all(place)?;
    }
    // What user data writes to the console must not be written on this machine's.
    let console = folder.join("log/console.log");
    fs::File::create(&console)?;
    if Path::new("/dev/console").exists() {
        mount(&["--bind", &console.to_string_lossy(), "/dev/console"])?;
    }
    Ok(())
}

fn mount(arguments: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(arguments).output().context("could not run mount")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "mount {}: {said}", arguments.join(" "));
    Ok(())
}
