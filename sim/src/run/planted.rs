//! Planted bugs: small patches of the operator, each a mistake that somebody could make. Every one is applied to a copy of the
//! workspace, the simulator is built there and run, and must fail. The product's code has no switches for this.

#![allow(clippy::disallowed_methods)] // real time, for people who wait

use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Where this workspace was when it was built.
#[must_use]
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// All patches, by name.
///
/// # Errors
/// When `sim/bugs` cannot be read, or is empty.
pub fn patches() -> anyhow::Result<Vec<(String, PathBuf)>> {
    let folder = workspace().join("sim/bugs");
    let mut found: Vec<(String, PathBuf)> = vec![];
    for entry in std::fs::read_dir(&folder).with_context(|| format!("reading {}: run this where it was built", folder.display()))? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == "patch") {
            found.push((path.file_stem().unwrap_or_default().to_string_lossy().into_owned(), path));
        }
    }
    found.sort();
    if found.is_empty() {
        bail!("{} holds no patches", folder.display());
    }
    Ok(found)
}

/// Whether a patch applies to the workspace as it is. `Err`: git's words.
///
/// # Errors
/// When git cannot be run.
pub fn applies(patch: &Path) -> anyhow::Result<Result<(), String>> {
    let output = Command::new("git").arg("apply").arg("--check").arg(patch).current_dir(workspace()).output().context("running git")?;
    Ok(if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()) })
}

/// How a simulator with a bug did.
struct Found {
    caught: bool,
    by: String,
}

/// Plants every bug, or the one of this name, and prints a table. `Ok(false)`: one was not found.
///
/// # Errors
/// When a patch does not apply any more, or a copy cannot be made or built.
pub fn run(only: Option<&str>) -> anyhow::Result<bool> {
    let all: Vec<_> = patches()?.into_iter().filter(|(name, _)| only.is_none_or(|only| only == name)).collect();
    if all.is_empty() {
        bail!("there is no patch {:?} in sim/bugs", only.unwrap_or_default());
    }
    for (name, patch) in &all {
        applies(patch)?.map_err(|why| anyhow::anyhow!("{name} no longer applies, mend the patch: {why}"))?;
    }
    let copy = Copy::make()?;
    println!("{:<28} {:<8} {:>6}  by", "bug", "caught", "s");
    let mut good = true;
    for (name, patch) in &all {
        let begun = Instant::now();
        copy.reset()?;
        copy.apply(patch).with_context(|| format!("planting {name}"))?;
        copy.build().with_context(|| format!("building with {name}"))?;
        let found = copy.hunt().with_context(|| format!("running with {name}"))?;
        good &= found.caught;
        println!("{name:<28} {:<8} {:>6}  {}", if found.caught { "yes" } else { "NO" }, begun.elapsed().as_secs(), found.by);
    }
    Ok(good)
}

/// What is built anew for every bug. Not optimised: a bug shows within a few schedules, and its build is most of the wait.
const OURS: [&str; 3] = ["gpujob-crds", "gpujob-operator", "gpujob-sim"];

/// A scratch copy of the workspace, with a target folder of its own that begins with this one's dependencies.
struct Copy {
    folder: PathBuf,
    target: PathBuf,
    program: PathBuf,
}

impl Copy {
    /// Tracked and new files alike, as they are now.
    fn make() -> anyhow::Result<Copy> {
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
    fn reset(&self) -> anyhow::Result<()> {
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

    fn apply(&self, patch: &Path) -> anyhow::Result<()> {
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

    fn build(&self) -> anyhow::Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["build", "--quiet", "--package", "gpujob-sim", "--package", "gpujob-benches", "--bin", "gpujob-sim"])
            .args(OURS.iter().flat_map(|package| ["--config".to_owned(), format!("profile.dev.package.{package}.opt-level=0")]))
            .env("CARGO_TARGET_DIR", &self.target)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            bail!("{}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// First lives without any fault, then every crash, then chance; until something is found.
    fn hunt(&self) -> anyhow::Result<Found> {
        for hunt in [vec!["--exhaustive"], vec!["--schedules", "3000"]] {
            let output = Command::new(&self.program).args(&hunt).args(["--first", "-o", "json"]).output()?;
            if output.status.code() == Some(1) {
                let text = String::from_utf8_lossy(&output.stdout);
                let mut lines = text.lines().filter_map(|l| serde_json::from_str::<serde_json::Value>(l).ok());
                let (first, last) = (lines.next().unwrap_or_default(), lines.next_back().unwrap_or_default());
                let (schedule, why) = (&first["schedule"], &first["violations"][0]);
                let word = |v: &serde_json::Value| v.as_str().unwrap_or_default().to_owned();
                let by = format!(
                    "{} ({}) after {} schedules, {}: {}",
                    word(&schedule["name"]),
                    word(&schedule["scenario"]),
                    last["schedules"],
                    word(&why["oracle"]),
                    word(&why["what"])
                );
                return Ok(Found { caught: true, by });
            }
            if !output.status.success() {
                bail!("{}", String::from_utf8_lossy(&output.stderr));
            }
        }
        Ok(Found { caught: false, by: "nothing: 3,000 random schedules and every crash passed".into() })
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
