//! The cloud itself: that our EC2 tells the truth, and that the operator may do no more than its policy says.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_e2e::host::Paths;
use gpujob_e2e::{command, packages};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use serde_json::{Value, json};
use tokio::process::Command;

/// boto3 against the layer, one case for each behaviour. Needs no root: only the Python environment.
pub(crate) async fn layers_own_tests() -> Result<()> {
    let paths = Paths::here();
    packages::python(&paths).await?;
    let mut pytest = Command::new(paths.venv("python"));
    pytest.args(["-m", "pytest", "-q", "-p", "no:cacheprovider", "ec2/tests"]).current_dir(paths.repository.join("e2e"));
    pytest.env("PYTHONDONTWRITEBYTECODE", "1");
    command::output(pytest).await.map(drop)
}

/// Tries, with the keys that the operator has, what its policy does not allow; prints what EC2 answers.
const TRIES: &str = r#"
import json, os, sys
import boto3, botocore.exceptions
mine = json.loads(sys.argv[1])
admin, operator = boto3.client("ec2"), boto3.client("ec2", aws_access_key_id=mine["id"], aws_secret_access_key=mine["secret"])
def answer(call, **arguments):
    try:
        call(**arguments)
    except botocore.exceptions.ClientError as refused:
        return refused.response["Error"]["Code"]
    return "done"
image = admin.describe_images()["Images"][0]["ImageId"]
another = admin.run_instances(ImageId=image, InstanceType="g6.xlarge", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"]
said = {
    "see": answer(operator.describe_instances),
    "end another's": answer(operator.terminate_instances, InstanceIds=[another]),
    "launch untagged": answer(operator.run_instances, ImageId=image, InstanceType="g6.xlarge", MinCount=1, MaxCount=1),
    "tag another's": answer(operator.create_tags, Resources=[another], Tags=[{"Key": "gpujob.dev/cluster", "Value": "mine"}]),
    "make a VPC": answer(operator.create_vpc, CidrBlock="10.1.0.0/16"),
}
admin.terminate_instances(InstanceIds=[another])
print(json.dumps(said))
"#;

pub(crate) async fn operators_keys(given: Given) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(given.client.clone(), "gpujob-system");
    let data = secrets.get("gpujob-aws").await?.data.context("the operator's keys")?;
    let text = |name: &str| data.get(name).map(|value| String::from_utf8_lossy(&value.0).into_owned()).with_context(|| name.to_owned());
    let keys = json!({"id": text("AWS_ACCESS_KEY_ID")?, "secret": text("AWS_SECRET_ACCESS_KEY")?});
    let mut python = Command::new(given.lab.paths.venv("python"));
    python.args(["-c", TRIES, &keys.to_string()]).envs(given.lab.environment());
    let said: Value = serde_json::from_str(&command::output(python).await?)?;
    ensure!(said["see"] == "done", "{said}");
    for refused in ["end another's", "launch untagged", "tag another's", "make a VPC"] {
        ensure!(said[refused] == "UnauthorizedOperation", "{refused}: {said}");
    }
    Ok(())
}

/// What the operator's account may do in the cluster: what it needs, and no look at anybody's secrets.
pub(crate) async fn operators_rights(given: Given) -> Result<()> {
    let may = async |verb: &str, resource: &str| -> Result<bool> {
        let mut kubectl = Command::new(given.lab.paths.bin("kubectl"));
        // `pods/exec` would mean a pod named exec.
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        kubectl.args(["auth", "can-i", verb, resource, "--subresource", subresource, "--all-namespaces", "--quiet"]);
        kubectl.arg("--as=system:serviceaccount:gpujob-system:gpujob").envs(given.lab.environment());
        // The answer is the exit code: 0 yes, 1 no.
        Ok(kubectl.status().await?.success())
    };
    for (verb, resource) in [("create", "pods"), ("patch", "gpunodes.gpujob.dev/status"), ("delete", "nodes")] {
        ensure!(may(verb, resource).await?, "it may not {verb} {resource}, and must");
    }
    for (verb, resource) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods/exec"),
        ("create", "pods/eviction"),
        ("create", "clusterrolebindings.rbac.authorization.k8s.io"),
        ("create", "nodes"),
    ] {
        ensure!(!may(verb, resource).await?, "it may {verb} {resource}");
    }
    Ok(())
}
