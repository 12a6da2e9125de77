//! A copy of the workspace in which a bug is planted and built.

use super::workspace;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is built anew for every bug. Not optimised: a bug shows within a few schedules, and its build is most of the wait.
const OURS: [&str; 3] = ["gpujob-crds", "gpujob-operator", "gpujob-sim"];

/// A scratch copy of the workspace, with a target folder of its own that begins with this one's dependencies.
pub(super) struct Copy {
    folder: PathBuf,
    target: PathBuf,
    /// The simulator, with the bug that was built last.
    pub(super) program: PathBuf,
}

impl Copy {
    /// Tracked and new files alike, as they are now.
    pub(super) fn make() -> anyhow::Result<Copy> {
        let cache =
            std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
        let folder = cache.context("neither HOME nor XDG_CACHE_HOME is set")?.join("gpujob/planted");
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        // The running binary is target/<triple>/debug/gpujob-sim. Its target folder is not built into: cargo would take what
        // has a bug for what has none.
        let exe = std::env::current_exe().context("finding this program")?;
        let here = exe.ancestors().nth(3).map(Path::to_path_buf).context("finding the target folder")?;
        let triple = exe.ancestors().nth(2).and_then(Path::file_name).context("finding the target folder")?.to_owned();
        let target = here.join("planted");
        for profile in [PathBuf::from("debug"), Path::new(&triple).join("debug")] {
            for part in ["deps", ".fingerprint", "build"] {
                link(&here.join(&profile).join(part), &target.join(&profile).join(part))?;
            }
        }
        let program = target.join(triple).join("debug/gpujob-sim");
        Ok(Copy { folder, target, program })
    }

    /// The workspace as it is, without what was planted before. Files that have not changed keep their times, so that only
    /// what a patch touches is built.
    pub(super) fn reset(&self) -> anyhow::Result<()> {
        let listed =
            Command::new("git").args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).current_dir(workspace()).output()?;
        let names = String::from_utf8(listed.stdout).context("file names")?;
        let mut wanted = std::collections::BTreeSet::new();
        for name in names.split('\0').filter(|n| !n.is_empty()) {
            let (from, to) = (workspace().join(name), self.folder.join(name));
            let Ok(bytes) = std::fs::read(&from) else { continue };
            wanted.insert(to.clone());
            if std::fs::read(&to).is_ok_and(|there| there == bytes) {
                continue;
            }
            std::fs::create_dir_all(to.parent().unwrap_or(&self.folder))?;
            std::fs::write(&to, bytes).with_context(|| format!("copying {name}"))?;
        }
        // A file that a patch or an older workspace has left would be built too.
        prune(&self.folder, &wanted)
    }

    pub(super) fn apply(&self, patch: &Path) -> anyhow::Result<()> {
        // Outside of any repository `git apply` is `patch`, and as strict.
        let output = Command::new("git")
            .env("GIT_CEILING_DIRECTORIES", self.folder.parent().unwrap_or(&self.folder))
            .arg("apply")
            .arg(patch)
            .current_dir(&self.folder)
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(())
    }

    pub(super) fn build(&self) -> anyhow::Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--package", "gpujob-sim", "--package", "gpujob-benches", "--bin", "gpujob-sim"])
            .args(OURS.iter().flat_map(|package| {
                ["opt-level=0", "debug=false"]
                    .into_iter()
                    .flat_map(move |set| ["--config".to_owned(), format!("profile.dev.package.{package}.{set}")])
            }))
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

/// Hard links to everything but our own crates: they are what is built anew.
fn link(from: &Path, to: &Path) -> anyhow::Result<()> {
    let Ok(entries) = std::fs::read_dir(from) else { return Ok(()) };
    std::fs::create_dir_all(to)?;
    for entry in entries {
        let (path, name) = (entry.as_ref().map(std::fs::DirEntry::path).unwrap_or_default(), entry?.file_name());
        let target = to.join(&name);
        if name.to_string_lossy().contains("gpujob") || name.to_string_lossy().contains("cuda") {
            continue;
        }
        if path.is_dir() {
            link(&path, &target)?;
        } else if !target.exists() {
            std::fs::hard_link(&path, &target)
                .or_else(|_| std::fs::copy(&path, &target).map(drop))
                .with_context(|| format!("linking {}", path.display()))?;
        }
    }
    Ok(())
}

/// Removes files that are not wanted.
fn prune(folder: &Path, wanted: &std::collections::BTreeSet<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            prune(&path, wanted)?;
        } else if !wanted.contains(&path) {
            std::fs::remove_file(&path)?;
        }
    }
    Ok(())
}
