//! What the API server accepts and refuses, with the words it refuses in.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::cases::{By, Case, all};
use gpujob_e2e::cluster;
use gpujob_e2e::command;
use gpujob_e2e::progress::until;
use kube::Client;
use serde_json::Value;
use std::fs;
use std::time::Duration;
use tokio::process::Command;

/// The same CRDs under a group that no operator watches: what a case is an update of must really be there, and a GpuNode
/// that is really there would be bought. The name of such a group comes after `gpujob.dev`: kubectl takes the first group that has a
/// `gpupools`, and other cases ask for one beside this.
const GROUP: &str = "test-cases.gpujob.test";

pub(crate) async fn cases(given: Given) -> Result<()> {
    copied(&given, GROUP).await?;
    let mut wrong = vec![];
    for case in all() {
        if let Err(error) = judge(&given.client, &case).await {
            wrong.push(format!("{} {:?}: {error:#}", case.kind, case.name));
        }
    }
    uncopied(&given, GROUP).await?;
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

const KINDS: [&str; 3] = ["gpujobs", "gpupools", "gpunodes"];

/// Installs copies of our CRDs under another group, and waits until they are served.
pub(crate) async fn copied(given: &Given, group: &str) -> Result<()> {
    let folder = given.lab.paths.repository.join("crds/yaml");
    for kind in KINDS {
        let text = fs::read_to_string(folder.join(format!("{kind}.gpujob.dev.yaml")))?;
        // The group and the object's own name; the rules' messages speak of gpujob.dev too, and stay.
        let text = text.replace(&format!("name: {kind}.gpujob.dev"), &format!("name: {kind}.{group}"));
        let text = text.replace("  group: gpujob.dev", &format!("  group: {group}"));
        cluster::apply(&given.client, &text).await?;
    }
    for kind in KINDS {
        until("the API server to serve the copies", Duration::from_secs(20), || async {
            let (status, _) = send(&given.client, "GET", &format!("/apis/{group}/v1alpha1/{kind}?limit=1"), None).await?;
            ensure!(status == 200, "{kind}: {status}");
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// Removes the copies, with everything of their kinds.
pub(crate) async fn uncopied(given: &Given, group: &str) -> Result<()> {
    for kind in KINDS {
        let path = format!("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind}.{group}");
        send(&given.client, "DELETE", &path, None).await?;
    }
    Ok(())
}

async fn judge(client: &Client, case: &Case) -> Result<()> {
    let kind = case.kind.to_lowercase();
    let name = case.object["metadata"]["name"].as_str().context("a case has a name")?.to_owned();
    let options = "dryRun=All&fieldValidation=Strict";
    let (status, said) = match &case.old {
        None => send(client, "POST", &format!("{}?{options}", path(&kind, None)), Some(moved(&case.object))).await?,
        Some(old) => {
            let (status, there) = send(client, "POST", &format!("{}?fieldValidation=Strict", path(&kind, None)), Some(moved(old))).await?;
            ensure!(status == 201, "what is there before is refused: {there}");
            let mut new = moved(&case.object);
            new["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
            let answer = send(client, "PUT", &format!("{}?{options}", path(&kind, Some(&name))), Some(new)).await;
            send(client, "DELETE", &path(&kind, Some(&name)), None).await?;
            answer?
        }
    };
    let message = said["message"].as_str().unwrap_or_default();
    match &case.reject {
        None => ensure!(status < 300, "refused: {message}"),
        Some(part) => {
            ensure!(status >= 400, "accepted");
            ensure!(message.contains(part.as_str()), "refused with {message:?}, which does not say {part:?}");
        }
    }
    if case.by == By::Strict {
        let lenient =
            send(client, "POST", &format!("{}?dryRun=All&fieldValidation=Warn", path(&kind, None)), Some(moved(&case.object))).await?;
        ensure!(lenient.0 < 300, "by is strict, but it is refused anyway: {}", lenient.1);
    }
    Ok(())
}

/// The object under the other group.
fn moved(object: &Value) -> Value {
    let mut object = object.clone();
    if object["apiVersion"] == "gpujob.dev/v1alpha1" {
        object["apiVersion"] = Value::from(format!("{GROUP}/v1alpha1"));
    }
    object
}

fn path(kind: &str, name: Option<&str>) -> String {
    let namespace = if kind == "gpujob" { "/namespaces/default" } else { "" };
    let name = name.map(|name| format!("/{name}")).unwrap_or_default();
    format!("/apis/{GROUP}/v1alpha1{namespace}/{kind}s{name}")
}

/// Status and body of any answer.
async fn send(client: &Client, method: &str, path: &str, body: Option<Value>) -> Result<(u16, Value)> {
    let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
    let request = http_request(method, path, body)?;
    let answer = client.send(request).await?;
    let status = answer.status().as_u16();
    let body = http_body_util::BodyExt::collect(answer.into_body()).await?.to_bytes();
    Ok((status, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}

fn http_request(method: &str, path: &str, body: Vec<u8>) -> Result<hyper::Request<kube::client::Body>> {
    Ok(hyper::Request::builder().method(method).uri(path).header("content-type", "application/json").body(body.into())?)
}

/// What a user writes in the place of capitals, where the API server looks at it.
const FILLED_IN: [(&str, &str); 3] =
    [("region: REGION", "region: us-east-1"), ("API_SERVER_ENDPOINT", "https://api.example.com"), ("SERVICE_CIDR", "10.100.0.0/16")];

/// Every sample that ships, as `kubectl apply` sends it, by the API server's own judgement.
pub(crate) async fn samples(given: Given) -> Result<()> {
    let folder = given.lab.paths.repository.join("manifests/samples");
    let mut files: Vec<_> = fs::read_dir(&folder)?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    ensure!(!files.is_empty(), "no samples in {}", folder.display());
    for file in files {
        let mut kubectl = Command::new(given.lab.paths.bin("kubectl"));
        kubectl.args(["apply", "--dry-run=server", "--validate=strict", "--filename", "-"]).envs(given.lab.environment());
        // What is in capitals is for the user to replace; the API server has an opinion on these.
        let text = FILLED_IN.iter().fold(fs::read_to_string(&file)?, |text, (place, value)| text.replace(place, value));
        let said = command::feed(kubectl, &text).await.with_context(|| file.display().to_string())?;
        ensure!(said.contains("dry run"), "{said}");
    }
    // One that nobody has filled in.
    let mut kubectl = Command::new(given.lab.paths.bin("kubectl"));
    kubectl.args(["apply", "--dry-run=server", "--filename", "-"]).envs(given.lab.environment());
    let refused =
        command::feed(kubectl, &fs::read_to_string(folder.join("gpupool-aws.yaml"))?).await.err().context("it must be refused")?;
    ensure!(refused.to_string().contains("https:// in front") && refused.to_string().contains("10.100.0.0/16"), "{refused:#}");
    // And one that is wrong, as a person sees it.
    let wrong = fs::read_to_string(folder.join("gpujob-minimal.yaml"))?.replace("count: 1", "count: 1\n    memory: \"20\"");
    let mut kubectl = Command::new(given.lab.paths.bin("kubectl"));
    kubectl.args(["apply", "--filename", "-"]).envs(given.lab.environment());
    let refused = command::feed(kubectl, &wrong).await.err().context("it must be refused")?;
    ensure!(refused.to_string().contains("write GPU memory as 20Gi"), "{refused:#}");
    Ok(())
}
