//! Planted bugs: small patches of the operator, each a mistake that somebody could make. Every one is applied to a copy of the
//! workspace, the simulator is built there and run, and must fail. The product's code has no switches for this.
//!
//! A patch begins with what the mistake is, in words that git skips, and a line `Scenario: NAME` that says where it is looked
//! for first; where that finds nothing, chance follows.

#![allow(clippy::disallowed_methods)] // real time, for people who wait

mod scratch;

use crate::scenario::catalog;
use anyhow::{Context, bail};
use scratch::Copy;
use std::path::{Path, PathBuf};
use std::process::Command;
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
        let found = hunt(&copy.program, &scenario(patch)?).with_context(|| format!("running with {name}"))?;
        good &= found.caught;
        println!("{name:<28} {:<8} {:>6}  {}", if found.caught { "yes" } else { "NO" }, begun.elapsed().as_secs(), found.by);
    }
    Ok(good)
}

/// The scenario that a patch names.
///
/// # Errors
/// When it names none, or one that does not exist.
pub fn scenario(patch: &Path) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(patch).with_context(|| format!("reading {}", patch.display()))?;
    let preamble = text.split("diff --git").next().unwrap_or_default();
    let name = preamble.lines().find_map(|l| l.strip_prefix("Scenario: ")).map(str::trim);
    let name = name.with_context(|| format!("{} has no line `Scenario: NAME` above its diff", patch.display()))?;
    if catalog::named(name).is_none() {
        bail!("{}: there is no scenario {name:?}", patch.display());
    }
    Ok(name.to_owned())
}

/// Every crash in the scenario where the bug should show, then every request of it late, then chance; until something is found.
fn hunt(program: &Path, scenario: &str) -> anyhow::Result<Found> {
    let there = ["--exhaustive", "--scenario", scenario];
    for hunt in [there.to_vec(), [&there[..], &["--late"]].concat(), vec!["--schedules", "300"]] {
        let output = Command::new(program).args(&hunt).args(["--first", "-o", "json"]).output()?;
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
    Ok(Found { caught: false, by: format!("nothing: every crash and every late request in {scenario}, and 300 random schedules, passed") })
}
