//! What the README tells people to type is typed somewhere in these tests.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_e2e::command;
use gpujob_e2e::host::Paths;
use std::fs;
use tokio::process::Command;

/// Commands in the README's console blocks, and who runs each.
const RUN_BY: [(&str, &str); 7] = [
    ("cargo demo", "demo_from_zero_to_results_to_zero, and .ci/run's machine by hand"),
    ("cargo test", "whoever runs this"),
    ("cargo lab up", "every case here"),
    ("cargo lab env", "env_lets_any_client_work"),
    ("cargo lab install", "every case here"),
    ("cargo lab status", "a_second_up_is_quick_and_changes_nothing"),
    ("cargo lab down", "down_leaves_nothing"),
];

/// What the text tells to do outside of blocks, as samples and charts that other cases apply.
const NAMED: [&str; 6] = [
    "manifests/aws/iam-policy.json",
    "manifests/samples/gpupool-aws.yaml",
    "manifests/samples/gpujob-minimal.yaml",
    "manifests/samples/gpujob-digits.yaml",
    "manifests/samples/secret-s3.yaml",
    "charts/gpujob",
];

pub(crate) async fn commands() -> Result<()> {
    let root = Paths::here().repository;
    let text = fs::read_to_string(root.join("README.md"))?;
    let typed = typed(&text);
    ensure!(
        typed.contains(&"cargo demo".to_owned()) && typed.contains(&"cargo test".to_owned()),
        "the two commands are not there: {typed:?}"
    );
    for command in &typed {
        ensure!(RUN_BY.iter().any(|(known, _)| known == command), "`{command}` is in the README and no test runs it");
    }
    for alias in ["lab", "demo"] {
        let aliases = fs::read_to_string(root.join(".cargo/config.toml"))?;
        ensure!(aliases.lines().any(|line| line.starts_with(&format!("{alias} = "))), "cargo {alias} is no alias");
    }
    for path in NAMED {
        ensure!(text.contains(path), "the README does not name {path}, which a case applies");
        ensure!(root.join(path).exists(), "{path} is named and not there");
    }
    for link in links(&text) {
        ensure!(root.join(link).exists(), "the README links to {link}, which is not there");
    }
    Ok(())
}

/// The line of "A real cluster, in three steps" that installs, against this cluster: as an upgrade, for the release is there,
/// and without effect, for other cases need it as it is.
pub(crate) async fn install_line(given: Given) -> Result<()> {
    let text = fs::read_to_string(given.lab.paths.repository.join("README.md"))?;
    let mut lines = text.split('`').filter(|part| part.starts_with("helm install "));
    let words: Vec<&str> = lines.next_back().context("the README installs with helm")?.split_whitespace().skip(2).collect();
    let mut helm = Command::new(given.lab.paths.bin("helm"));
    helm.args(["upgrade", "--install", "--dry-run=server"]).args(&words).current_dir(&given.lab.paths.repository);
    for option in ["image.repository=", "transferImage.repository="] {
        ensure!(text.contains(&format!("--set {option}")), "the README does not say --set {option}");
        helm.args(["--set", &format!("{option}10.77.0.1:5000/readme")]);
    }
    helm.envs(given.lab.environment());
    let said = command::output(helm).await?;
    ensure!(said.contains("10.77.0.1:5000/readme"), "the chart does not use image.repository");
    Ok(())
}

/// Lines after `$ ` in ```console blocks.
fn typed(text: &str) -> Vec<String> {
    let blocks = text.split("```console\n").skip(1).filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    blocks.flat_map(str::lines).filter_map(|line| line.strip_prefix("$ ")).map(|line| line.trim().to_owned()).collect()
}

/// Targets of links that are files of the repository.
fn links(text: &str) -> Vec<&str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target));
    targets.filter(|target| !target.contains("://") && !target.starts_with('#')).collect()
}
