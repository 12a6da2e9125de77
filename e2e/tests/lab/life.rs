//! The lab itself: up again, its environment, its registry, and nothing left after down.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuPool;
use gpujob_e2e::lab::Lab;
use gpujob_e2e::soak::given;
use gpujob_e2e::{cluster, command, down, http, process};
use kube::Api;
use kube::api::ListParams;
use std::time::{Duration, Instant};
use tokio::process::Command;

/// A second `up` is for doing nothing; other cases may be at work beside it.
const QUICK: Duration = Duration::from_secs(10);

/// The lab's own program, which cargo builds for this test.
pub(crate) fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_gpujob-lab"))
}

async fn parts() -> Result<Vec<String>> {
    let mut status = program();
    status.arg("status");
    let text = command::output(status).await?;
    Ok(text.lines().take_while(|line| *line != "INSTANCES").map(str::to_owned).collect())
}

pub(crate) async fn second_up(_: Given) -> Result<()> {
    let before = parts().await?;
    ensure!(before.iter().all(|part| !part.contains(" down")), "{before:?}");
    let started = Instant::now();
    Lab::up().await?;
    ensure!(started.elapsed() < QUICK, "{:?}", started.elapsed());
    ensure!(parts().await? == before, "a part was started anew: {before:?}");
    Ok(())
}

/// `eval "$(cargo lab env)"` in a bare shell, then kubectl, helm, boto3, as a person would.
pub(crate) async fn environment(given: Given) -> Result<()> {
    let script = format!(
        r#"set -eu
eval "$({} env)"
kubectl get gpupools.gpujob.dev lab --output jsonpath='{{.metadata.name}}'
helm list --namespace gpujob-system --short
{} -c 'import boto3; print(len(boto3.client("ec2").describe_subnets()["Subnets"]), boto3.client("s3").list_buckets()["Owner"] is not None)'
echo "$LAB_REGISTRY $AWS_ENDPOINT_URL_SQS $AWS_ENDPOINT_URL_SSM $AWS_EC2_METADATA_DISABLED"
"#,
        env!("CARGO_BIN_EXE_gpujob-lab"),
        given.lab.paths.venv("python").display(),
    );
    let mut shell = Command::new("sh");
    let path = std::env::var("PATH").unwrap_or_default();
    shell.args(["-c", &script]).env_clear().env("PATH", path).env("HOME", given.lab.paths.state.join("nobody"));
    let said = command::output(shell).await?;
    for part in ["lab", "gpujob", "3 True", "10.77.0.1:5000 http://10.77.0.1:4566 http://10.77.0.1:4566 true"] {
        ensure!(said.contains(part), "{part:?} is not in {said:?}");
    }
    Ok(())
}

/// `cargo lab push FOLDER NAME`: the registry then has it, and says so over HTTP.
pub(crate) async fn push(_: Given) -> Result<()> {
    let context = tempfile::tempdir()?;
    std::fs::write(context.path().join("Containerfile"), "FROM scratch\nCOPY hello /hello\n")?;
    std::fs::write(context.path().join("hello"), "hello")?;
    let mut push = program();
    push.arg("push").arg(context.path()).arg("e2e/hello:1");
    let reference = command::output(push).await?;
    ensure!(reference.trim() == "10.77.0.1:5000/e2e/hello:1", "{reference:?}");
    let tags = http::get_json("http://10.77.0.1:5000/v2/e2e/hello/tags/list").await?;
    ensure!(tags["tags"].as_array().context("tags")?.iter().any(|tag| tag == "1"), "{tags}");
    Ok(())
}

/// A machine that stopped in the middle: nothing of the lab runs, and all of its files are there. The next `up` begins anew, because
/// EC2's books are gone: over the old data the operator would look for instances and launch templates that never were.
pub(crate) async fn crashed(given: Given) -> Result<()> {
    let (client, name) = (&given.client, "before-the-crash");
    cluster::apply(client, &given::sleeper(given::NAMESPACE, name, "nowhere").to_string()).await?;
    process::kill_marked().await;
    Lab::up().await?;
    let pools: Api<GpuPool> = Api::all(given.lab.client().await?);
    let asked = pools.list(&ListParams::default()).await;
    ensure!(
        matches!(&asked, Err(kube::Error::Api(status)) if status.code == 404),
        "the old cluster is there: {:?}",
        asked.map(|pools| pools.items.len())
    );
    ensure!(given.lab.ec2().instances().await?.is_empty(), "EC2 has instances");
    Ok(())
}

pub(crate) async fn down(given: Given) -> Result<()> {
    given.down().await?;
    let left = down::left(&given.lab.paths);
    ensure!(left.is_empty(), "still there: {left:?}");
    // Again, on nothing.
    given.down().await
}
