//! `helm uninstall` with a job that runs: EC2 is at zero before the operator is gone, what people made stays, and the next install
//! goes on with it.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuJob;
use gpujob_crds::conditions::{find, job as condition};
use gpujob_e2e::fault::OPERATOR_NAMESPACE;
use gpujob_e2e::progress::until;
use gpujob_e2e::soak::given;
use gpujob_e2e::{cluster, command, operator};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{Api, ResourceExt};
use serde_json::json;
use std::time::{Duration, Instant};
use tokio::process::Command;

const POOL: &str = "lab";
/// The usual notice, the end of the instance, the quiet at the end.
const DRAINS: Duration = Duration::from_secs(120);

fn helm(given: &Given) -> Command {
    let mut helm = Command::new(given.lab.paths.bin("helm"));
    helm.envs(given.lab.environment()).args(["--namespace", OPERATOR_NAMESPACE]);
    helm
}

pub(crate) async fn drains_first(given: Given) -> Result<()> {
    let client = &given.client;
    operator::whole(client, Duration::from_secs(120)).await?;
    for name in ["stays", "waits"] {
        given::forget(client, given::NAMESPACE, name, Duration::from_secs(60)).await?;
    }
    let mut waits = given::sleeper(given::NAMESPACE, "waits", POOL);
    waits["spec"]["budget"] = json!({"pricePerHour": "0.001"});
    cluster::apply(client, &waits.to_string()).await?;
    cluster::apply(client, &given::sleeper(given::NAMESPACE, "stays", POOL).to_string()).await?;
    given::state(client, given::NAMESPACE, "stays", &["Running"], Duration::from_secs(120)).await?;

    let mut values = helm(&given);
    values.args(["get", "values", "gpujob", "--output", "json"]);
    let values = command::output(values).await?;
    let started = Instant::now();
    let mut uninstall = helm(&given);
    uninstall.args(["uninstall", "gpujob", "--wait", "--timeout", "300s"]);
    let uninstalled = tokio::spawn(command::output(uninstall));
    until("the waiting job to say so", Duration::from_secs(30), || async {
        let status = given::status(client, given::NAMESPACE, "waits").await?;
        let assigned = find(&status.conditions, condition::ASSIGNED).context("not told")?;
        ensure!(assigned.reason == "Draining" && assigned.message.contains("installed again"), "{assigned:?}");
        Ok(())
    })
    .await?;
    uninstalled.await?.context("helm uninstall")?;
    ensure!(started.elapsed() < DRAINS, "it took {:?}", started.elapsed());
    eprintln!("  uninstalled in {:.0} s", started.elapsed().as_secs_f64());

    // At once: the hook has waited for it.
    given::zero(&given.lab, Duration::ZERO).await?;
    ensure!(given::nodes(client, POOL).await?.is_empty(), "a GpuNode is left");
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for kind in ["gpujobs", "gpupools", "gpunodes"] {
        definitions.get(&format!("{kind}.gpujob.dev")).await.context("the CRDs stay")?;
    }
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), given::NAMESPACE);
    let stays = jobs.get("stays").await.context("jobs stay")?;
    ensure!(stays.finalizers().is_empty(), "nobody could delete it: {:?}", stays.finalizers());
    let status = stays.status.context("a status")?;
    ensure!(status.failures.unwrap_or(0) == 0 && status.completion_time.is_none(), "{status:?}");
    // Without any operator: gone at once.
    jobs.delete("waits", &Default::default()).await?;
    ensure!(jobs.get_opt("waits").await?.is_none(), "something holds it");

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("values.json");
    std::fs::write(&file, values)?;
    let mut install = helm(&given);
    install.arg("install").arg("gpujob").arg(given.lab.paths.repository.join("charts/gpujob")).arg("--values").arg(&file);
    install.args(["--wait", "--timeout", "120s"]);
    command::output(install).await?;
    let installed = Instant::now();
    until("the job to be taken up again", Duration::from_secs(30), || async {
        ensure!(!given::nodes(client, POOL).await?.is_empty(), "nothing is bought");
        Ok(())
    })
    .await?;
    eprintln!("  bought {:.1} s after the next install", installed.elapsed().as_secs_f64());
    let again = given::state(client, given::NAMESPACE, "stays", &["Running"], Duration::from_secs(120)).await?;
    ensure!(again.attempt == Some(2) && again.failures.unwrap_or(0) == 0, "{again:?}");
    given::forget(client, given::NAMESPACE, "stays", Duration::from_secs(60)).await?;
    given::zero(&given.lab, Duration::from_secs(90)).await
}
