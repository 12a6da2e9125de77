//! Control groups: everything of the lab lives below one folder, in every hierarchy of version 1 or in version 2's one.

use anyhow::Result;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const ROOT: &str = "/sys/fs/cgroup";
/// The folder that all of the lab's groups are in.
const OURS: &str = "gpujob-lab";
/// The kernel takes a moment to let go of groups whose last process has just died.
const PATIENCE: Duration = Duration::from_secs(2);

/// The group of an instance as the kubelet's `cgroupRoot` names it.
pub fn name(id: &str) -> String {
    format!("/{OURS}/{id}")
}

/// Whether this machine has only the unified hierarchy.
fn unified() -> bool {
    Path::new(ROOT).join("cgroup.controllers").exists()
}

/// The places where groups can be made.
fn hierarchies() -> Vec<PathBuf> {
    if unified() {
        return vec![PathBuf::from(ROOT)];
    }
    let folders = fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.path());
    // `cpu` and `cpuacct` are often links to one mount: only what is no link. `unified`, which runc fills too, is among them.
    folders.filter(|folder| folder.join("cgroup.procs").exists() && !folder.is_symlink()).collect()
}

/// Makes an instance's groups, so that its kubelet finds them.
///
/// # Errors
/// The kernel refuses.
pub fn make(id: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let (parent, own) = (hierarchy.join(OURS), hierarchy.join(OURS).join(id));
        fs::create_dir_all(&own)?;
        if unified() {
            // Controllers must be handed down level by level before a child can use them.
            let controllers = fs::read_to_string(hierarchy.join("cgroup.controllers"))?;
            let all: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
            for level in [hierarchy.clone(), parent, own] {
                let _ = fs::write(level.join("cgroup.subtree_control"), all.join(" "));
            }
            continue;
        }
        // A new cpuset has no processors, and nothing can run in it until it has.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if hierarchy.join(file).exists() {
                let value = fs::read(hierarchy.join(file))?;
                for level in [&parent, &own] {
                    fs::write(level.join(file), &value)?;
                }
            }
        }
    }
    Ok(())
}

/// Removes an instance's groups, deepest first. What still holds a process stays.
pub fn remove(id: &str) {
    let patience = Instant::now() + PATIENCE;
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(OURS).join(id), patience);
    }
}

/// Removes all groups of the lab.
pub fn remove_all() {
    let patience = Instant::now() + PATIENCE;
    for hierarchy in hierarchies() {
        remove_tree(&hierarchy.join(OURS), patience);
    }
}

/// Groups of the lab that exist now.
pub fn left() -> Vec<PathBuf> {
    hierarchies().into_iter().map(|hierarchy| hierarchy.join(OURS)).filter(|group| group.exists()).collect()
}

fn remove_tree(group: &Path, patience: Instant) {
    let children = fs::read_dir(group).into_iter().flatten().flatten();
    for child in children.filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&child.path(), patience);
    }
    while let Err(error) = fs::remove_dir(group) {
        if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > patience {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
