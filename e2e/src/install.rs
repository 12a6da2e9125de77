//! `cargo lab install`: GpuJob itself, as anyone would install it: images pushed, chart installed by helm, a pool applied.

use crate::fault::OPERATOR_NAMESPACE;
use crate::host::{API_SERVER, AWS_ENDPOINT, CLUSTER, Paths, REGION, SERVICE_CIDR};
use crate::lab::{CLOUD_ENDPOINTS, Lab};
use crate::operator::REPLICAS;
use crate::progress::{step, until};
use crate::services::ec2::Control;
use crate::{cluster, command, images};
use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use gpujob_crds::GpuPool;
use gpujob_crds::conditions::{find, is_true, pool::READY};
use kube::Api;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// The Secret with the operator's AWS keys.
const CREDENTIALS: &str = "gpujob-aws";
/// The IAM user that the operator is, held to the policy that ships.
pub const USER: &str = "gpujob-operator";

/// Images of ours, as pods name them.
#[derive(Debug, Clone)]
pub struct Images {
    /// The operator.
    pub operator: String,
    /// The data mover.
    pub transfer: String,
    /// The sample job.
    pub cuda_sample: String,
}

/// Builds, pushes, installs, and applies the sample pool `lab`, which admits every namespace.
///
/// # Errors
/// A build, helm or the API server fails.
pub async fn install(paths: &Paths) -> Result<()> {
    step("binaries", build(paths)).await?;
    let images = step("images", push(paths)).await?;
    step("chart", chart(paths, &images)).await?;
    step("sample pool", async {
        let client = cluster::client(paths).await?;
        cluster::apply(&client, &pool(paths)?).await?;
        let pools: Api<GpuPool> = Api::all(client);
        until("the sample pool to be ready", Duration::from_secs(60), || async {
            let status = pools.get("lab").await?.status.unwrap_or_default();
            ensure!(is_true(&status.conditions, READY), "{:?}", find(&status.conditions, READY));
            Ok(())
        })
        .await
    })
    .await
}

/// Builds every binary as `cargo test` does, so that nothing is compiled twice.
///
/// # Errors
/// cargo fails.
pub async fn build(paths: &Paths) -> Result<()> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--quiet", "--bins"]).current_dir(&paths.repository);
    command::output(command).await.map(drop)
}

/// Builds and pushes our three images.
///
/// # Errors
/// A binary is missing or buildah fails.
pub async fn push(paths: &Paths) -> Result<Images> {
    let (programs, folder) = (binaries(paths)?, paths.repository.join("images"));
    // Tagged by content: the chart rolls a changed operator out, and leaves an unchanged one alone.
    let program = async |name: &str| {
        let program = programs.join(format!("gpujob-{name}"));
        images::Registry::lab(paths).push_program(&folder, name, &program, None).await
    };
    let sample = async {
        let context = tempfile::tempdir()?;
        let stage = paths.repository.join("images/cuda-sample/stage");
        let mut command = Command::new(stage);
        // Linked dynamically, for it loads libcuda: another set of flags, so a target folder of its own.
        command.arg(context.path()).env("CARGO_TARGET_DIR", paths.repository.join("target/dynamic"));
        command::output(command).await?;
        // The name that `image: cuda-sample` stands for: nodes of the lab ask our registry first for such short names.
        images::push(paths, context.path(), "library/cuda-sample").await
    };
    let (operator, transfer, cuda_sample) = tokio::try_join!(program("operator"), program("transfer"), sample)?;
    Ok(Images { operator, transfer, cuda_sample })
}

/// Installs or upgrades the chart with what the lab's cluster needs, and waits until the operator is ready.
///
/// # Errors
/// helm fails, or the operator does not become ready.
pub async fn chart(paths: &Paths, images: &Images) -> Result<()> {
    let client = cluster::client(paths).await?;
    let (access_key, secret_key) = rights(paths).await?;
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": CREDENTIALS, "namespace": OPERATOR_NAMESPACE},
        "stringData": {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key},
    });
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": OPERATOR_NAMESPACE}});
    cluster::apply(&client, &format!("{namespace}\n---\n{secret}\n")).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("values.json");
    fs::write(&file, values(images).to_string())?;
    let mut helm = Command::new(paths.bin("helm"));
    helm.args(["upgrade", "--install", "gpujob"]).arg(paths.repository.join("charts/gpujob"));
    helm.args(["--namespace", OPERATOR_NAMESPACE, "--create-namespace", "--wait", "--timeout", "120s", "--values"]);
    helm.arg(file).envs(Lab { paths: paths.clone() }.environment()).env("HELM_CACHE_HOME", folder.path());
    helm.env("HELM_CONFIG_HOME", folder.path()).env("HELM_DATA_HOME", folder.path());
    command::output(helm).await.map(drop)
}

/// Gives the operator's IAM user what the policy that ships allows; returns its access key and secret.
///
/// # Errors
/// EC2 does not answer.
pub async fn rights(paths: &Paths) -> Result<(String, String)> {
    let policy = fs::read_to_string(policy_file(paths)?)?;
    let policy: Value = serde_json::from_str(&policy).context("the IAM policy is no JSON")?;
    Control::lab().user(USER, &policy).await
}

fn values(images: &Images) -> Value {
    let image = |reference: &str| {
        let (repository, tag) = reference.rsplit_once(':').unwrap_or((reference, "latest"));
        json!({"repository": repository, "tag": tag, "pullPolicy": "Always"})
    };
    let service = |name: &str| name.trim_start_matches("AWS_ENDPOINT_URL_").to_lowercase();
    let endpoints: serde_json::Map<_, _> = CLOUD_ENDPOINTS.iter().map(|name| (service(name), json!(AWS_ENDPOINT))).collect();
    json!({
        "image": image(&images.operator),
        "transferImage": image(&images.transfer),
        "replicas": REPLICAS,
        "aws": {"region": REGION, "credentialsSecret": CREDENTIALS, "endpoints": endpoints, "metadata": false},
    })
}

/// The sample pool `lab` as YAML, with this cluster's address and CA.
///
/// # Errors
/// The lab was never up.
pub fn pool(paths: &Paths) -> Result<String> {
    let authority = STANDARD.encode(fs::read(paths.pki("ca.crt"))?);
    let replacements = [
        ("REGION", REGION),
        ("CLUSTER_NAME", CLUSTER),
        ("API_SERVER", API_SERVER),
        ("CERTIFICATE_AUTHORITY", authority.as_str()),
        ("SERVICE_CIDR", SERVICE_CIDR),
    ];
    Ok(replacements.iter().fold(include_str!("pool.yaml").to_owned(), |text, (name, value)| text.replace(name, value)))
}

fn policy_file(paths: &Paths) -> Result<PathBuf> {
    let places = ["charts/gpujob/iam-policy.json", "charts/gpujob/files/iam-policy.json", "manifests/aws/iam-policy.json"];
    let found = places.iter().map(|place| paths.repository.join(place)).find(|file| file.exists());
    found.with_context(|| format!("no IAM policy ships; looked at {}", places.join(", ")))
}

/// Where cargo puts the static binaries of this workspace: beside the lab's own program, which cargo built too.
pub(crate) fn binaries(paths: &Paths) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let beside = own.ancestors().skip(1).take(2).find(|folder| folder.join("gpujob-operator").exists());
    beside.map(Path::to_owned).with_context(|| format!("cargo left no gpujob-operator in {}", paths.repository.join("target").display()))
}
