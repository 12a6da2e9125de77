//! What the README tells people to type is typed somewhere in these tests.

use crate::life::program;
use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_e2e::host::{Paths, REGISTRY};
use gpujob_e2e::{command, http};
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

/// The images of "A real cluster", in a registry that is anybody's, and the options that are printed for the chart.
pub(crate) async fn images(_: Given) -> Result<()> {
    let mut publish = program();
    publish.args(["images", &format!("{REGISTRY}/team"), "--tag", "mine", "--insecure"]);
    let said = command::output(publish).await?;
    let options = said.lines().last().unwrap_or_default();
    for (option, name) in [("image", "operator"), ("transferImage", "transfer")] {
        let wanted = format!("--set {option}.repository={REGISTRY}/team/gpujob/{name} --set {option}.tag=mine");
        ensure!(options.contains(&wanted), "{said}");
        let manifest = format!("http://{REGISTRY}/v2/team/gpujob/{name}/tags/list");
        let tags = http::get_json(&manifest).await?;
        ensure!(tags["tags"].as_array().is_some_and(|tags| tags.iter().any(|tag| tag == "mine")), "{tags}");
    }
    let mut wrong = program();
    wrong.args(["images", "https://registry.example/team"]);
    let error = command::output(wrong).await.err().context("an address is no registry")?.to_string();
    ensure!(error.contains("registry.example/team"), "{error}");
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
