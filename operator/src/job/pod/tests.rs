//! Pods as they are sent, field by field.
#![allow(clippy::unwrap_used, clippy::panic)]

use super::attempt::build;
use super::storage::{self, Task};
use super::{Image, PodError, Target};
use crate::job::facts::{FETCH, STAGE};
use gpujob_crds::{GpuJob, names};
use gpujob_transfer::spec::TransferSpec;
use k8s_openapi::api::core::v1::{Container, Pod};
use serde_json::{Value, json};

fn job(change: impl FnOnce(&mut Value)) -> GpuJob {
    let mut job = json!({
        "apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob",
        "metadata": {"name": "digits", "namespace": "team", "uid": "job-uid"},
        "spec": {
            "gpu": {"count": 2},
            "inputs": [{"from": "s3://data/digits/", "path": "/data"}, {"from": "s3://data/more.csv", "path": "/data/"}],
            "results": {"path": "/results", "to": "s3://runs/digits/", "summary": "metrics.json"},
            "storage": {"credentials": {"secretName": "s3"}},
            "template": {
                "metadata": {"labels": {"team": "vision"}, "annotations": {"note": "kept"}},
                "spec": {
                    "containers": [{"name": "main", "image": "digits:1"}, {"name": "helper", "image": "helper:1"}],
                    "initContainers": [{"name": "prepare", "image": "prepare:1"}],
                },
            },
        },
    });
    change(&mut job);
    serde_json::from_value(job).unwrap()
}

fn target() -> Target {
    Target { index: 0, attempt: 2, node: "gn-abc".into(), resource_name: "nvidia.com/gpu".into() }
}

fn image() -> Image {
    Image { name: "transfer:1".into(), pull_policy: Some("IfNotPresent".into()), cluster: "cluster-uid".into() }
}

fn made(change: impl FnOnce(&mut Value)) -> Pod {
    build(&job(change), &target(), &image()).unwrap()
}

fn init<'a>(pod: &'a Pod, name: &str) -> &'a Container {
    pod.spec.as_ref().unwrap().init_containers.as_ref().unwrap().iter().find(|c| c.name == name).unwrap()
}

fn env(c: &Container, name: &str) -> Value {
    serde_json::to_value(c.env.iter().flatten().find(|e| e.name == name)).unwrap()
}

fn mounts(c: &Container) -> Vec<(&str, &str)> {
    c.volume_mounts.iter().flatten().map(|m| (m.name.as_str(), m.mount_path.as_str())).collect()
}

#[test]
fn ours_come_first_and_everybody_sees_the_folders() {
    let pod = made(|_| {});
    let spec = pod.spec.as_ref().unwrap();
    let names: Vec<_> = spec.init_containers.iter().flatten().map(|c| c.name.as_str()).collect();
    assert_eq!(names, [FETCH, STAGE, "prepare"]);
    assert_eq!(init(&pod, STAGE).restart_policy.as_deref(), Some("Always"));
    assert_eq!(init(&pod, FETCH).restart_policy, None);
    assert_eq!(
        (init(&pod, FETCH).args.clone().unwrap(), init(&pod, STAGE).args.clone().unwrap()),
        (vec!["fetch".to_owned()], vec!["stage".to_owned()])
    );
    for c in spec.containers.iter().chain([init(&pod, "prepare")]) {
        assert_eq!(mounts(c), [("gpujob-input-0", "/data"), ("gpujob-results", "/results")], "{}", c.name);
    }
    assert!(
        mounts(init(&pod, FETCH)).contains(&("gpujob-input-0", "/data"))
            && mounts(init(&pod, STAGE)).contains(&("gpujob-results", "/results"))
    );
    assert!(mounts(init(&pod, STAGE)).contains(&("gpujob-state", "/gpujob/state")));
    let volumes: Vec<_> = spec.volumes.iter().flatten().map(|v| v.name.as_str()).collect();
    assert_eq!(volumes, ["gpujob-input-0", "gpujob-results", "gpujob-state", "gpujob-no-token", "gpujob-credentials", "gpujob-pod"]);
}

#[test]
fn it_lands_on_its_node_alone_and_gets_the_gpus() {
    let pod = made(|_| {});
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    assert_eq!(spec["nodeSelector"], json!({"gpujob.node-restriction.kubernetes.io/node": "gn-abc"}));
    assert_eq!(spec["restartPolicy"], "Never");
    assert_eq!(spec["terminationGracePeriodSeconds"], 3630);
    assert_eq!(spec["containers"][0]["resources"], json!({"limits": {"nvidia.com/gpu": "2"}, "requests": {"nvidia.com/gpu": "2"}}));
    assert_eq!(spec["containers"][1]["resources"], Value::Null);
    assert_eq!(spec["containers"][0]["terminationMessagePolicy"], "FallbackToLogsOnError");
    let text = spec["tolerations"].to_string();
    assert!(text.contains("nvidia.com/gpu") && !text.contains("gpujob.dev/unregistered"), "{text}");
    assert!(text.contains(r#""key":"node.kubernetes.io/unreachable","operator":"Exists","tolerationSeconds":30"#), "{text}");
}

#[test]
fn labels_owner_finalizer_and_a_name_that_never_varies() {
    let pod = made(|_| {});
    let meta = serde_json::to_value(&pod.metadata).unwrap();
    assert_eq!(meta["labels"]["gpujob.dev/job-uid"], "job-uid");
    assert_eq!(meta["labels"]["gpujob.dev/attempt"], "2");
    assert_eq!(meta["labels"]["gpujob.dev/role"], "attempt");
    assert_eq!((&meta["labels"]["team"], &meta["annotations"]["note"]), (&json!("vision"), &json!("kept")));
    assert_eq!(meta["labels"]["gpujob.dev/template-hash"].as_str().unwrap().len(), 16);
    assert_eq!(meta["finalizers"], json!(["gpujob.dev/outcome"]));
    assert_eq!(meta["ownerReferences"][0]["uid"], "job-uid");
    assert_eq!(meta["ownerReferences"][0]["controller"], true);
    assert_eq!(pod.metadata.name, Some(gpujob_crds::names::pod("digits", "job-uid", 0, 2, "attempt")));
}

#[test]
fn the_transfer_containers_are_told_what_to_do_and_may_do_little_else() {
    let pod = made(|_| {});
    let stage = init(&pod, STAGE);
    let ask: TransferSpec = serde_json::from_str(env(stage, "GPUJOB_TRANSFER")["value"].as_str().unwrap()).unwrap();
    assert_eq!((ask.job.uid.as_str(), ask.job.cluster.as_str(), ask.attempt), ("job-uid", "cluster-uid", 2));
    assert_eq!((ask.inputs.len(), ask.results.unwrap().summary.as_deref()), (2, Some("metrics.json")));
    assert_eq!(env(stage, "GPUJOB_POD_UID")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
    assert_eq!(env(stage, "GPUJOB_CONTAINERS")["value"], "5");
    let place = env(stage, "AWS_ENDPOINT_URL_S3");
    assert_eq!(place["valueFrom"]["secretKeyRef"], json!({"name": "s3", "key": "AWS_ENDPOINT_URL_S3", "optional": true}));
    let authority = env(stage, "AWS_CA_BUNDLE");
    assert_eq!(authority["valueFrom"]["secretKeyRef"], json!({"name": "s3", "key": "AWS_CA_BUNDLE", "optional": true}));
    assert!(env(stage, "AWS_SECRET_ACCESS_KEY").is_null(), "an environment never changes; the file does with its Secret");
    assert_eq!(env(stage, "GPUJOB_CREDENTIALS_DIR")["value"], "/gpujob/credentials");
    assert!(mounts(stage).contains(&("gpujob-credentials", "/gpujob/credentials")));
    let volumes = serde_json::to_value(&pod.spec.as_ref().unwrap().volumes).unwrap();
    let keys = volumes.as_array().unwrap().iter().find(|v| v["name"] == "gpujob-credentials").unwrap();
    assert_eq!(keys["secret"], json!({"secretName": "s3", "optional": true}));
    assert!(pod.spec.as_ref().unwrap().containers.iter().all(|c| !mounts(c).iter().any(|m| m.0 == "gpujob-credentials")));
    let security = serde_json::to_value(stage.security_context.as_ref().unwrap()).unwrap();
    assert_eq!(security["capabilities"], json!({"add": ["DAC_OVERRIDE", "CHOWN", "FOWNER"], "drop": ["ALL"]}));
    assert_eq!(
        (&security["runAsUser"], &security["allowPrivilegeEscalation"], &security["readOnlyRootFilesystem"]),
        (&json!(0), &json!(false), &json!(true))
    );
    assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault");
    // A mount at that path keeps the API server from putting a token there.
    assert!(mounts(stage).contains(&("gpujob-no-token", "/var/run/secrets/kubernetes.io/serviceaccount")));
    assert_eq!(made(|j| j["spec"]["storage"] = Value::Null).spec.unwrap().init_containers.unwrap()[0].env.as_ref().unwrap().len(), 3);
}

#[test]
fn a_job_with_data_in_google_cloud_is_told_where_its_key_is() {
    assert!(env(init(&made(|_| {}), STAGE), "GOOGLE_APPLICATION_CREDENTIALS").is_null());
    let pod = made(|j| j["spec"]["results"]["to"] = json!("gs://runs/digits/"));
    let key = env(init(&pod, STAGE), "GOOGLE_APPLICATION_CREDENTIALS");
    assert_eq!(key["value"], "/gpujob/credentials/GOOGLE_APPLICATION_CREDENTIALS");
}

#[test]
fn the_templates_user_is_ours_too() {
    let pod = made(|j| j["spec"]["template"]["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 3000}));
    let security = serde_json::to_value(init(&pod, STAGE).security_context.as_ref().unwrap()).unwrap();
    assert_eq!((&security["runAsUser"], &security["runAsGroup"], &security["runAsNonRoot"]), (&json!(1000), &json!(3000), &json!(true)));
    assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}));
}

#[test]
fn without_data_nothing_of_ours_is_added() {
    let pod = made(|j| {
        j["spec"]["inputs"] = json!([]);
        j["spec"]["results"] = Value::Null;
    });
    let spec = pod.spec.unwrap();
    assert_eq!(spec.init_containers.unwrap().len(), 1);
    assert_eq!((spec.volumes.unwrap_or_default().len(), spec.termination_grace_period_seconds), (0, Some(30)));
    let only_inputs = made(|j| j["spec"]["results"] = Value::Null);
    assert_eq!(only_inputs.spec.unwrap().init_containers.unwrap().len(), 2);
}

#[test]
fn checkpoints_are_restored_by_fetch_saved_by_stage_and_seen_by_everybody() {
    let with = |j: &mut Value| j["spec"]["checkpoints"] = json!({"path": "/checkpoints", "interval": "2m"});
    let pod = made(with);
    let here = ("gpujob-checkpoints", "/checkpoints");
    let spec = pod.spec.as_ref().unwrap();
    assert!(spec.containers.iter().chain(spec.init_containers.iter().flatten()).all(|c| mounts(c).contains(&here)));
    assert!(!mounts(init(&pod, FETCH)).contains(&("gpujob-results", "/results")));
    let ask =
        |pod: &Pod| -> TransferSpec { serde_json::from_str(env(init(pod, STAGE), "GPUJOB_TRANSFER")["value"].as_str().unwrap()).unwrap() };
    let asked = ask(&pod).checkpoints.unwrap();
    assert_eq!((asked.path.as_str(), asked.interval_seconds, asked.keep), ("/checkpoints", 120, 3));
    assert_eq!(asked.to, "s3://runs/digits/", "they lie below .gpujob/ there, in a folder of this job's own");

    // Without results too, and then in the place that the job names.
    let alone = made(|j| {
        j["spec"]["results"] = Value::Null;
        j["spec"]["checkpoints"] = json!({"path": "/checkpoints", "to": "s3://runs/state/", "keep": 1});
    });
    assert_eq!(ask(&alone).checkpoints.map(|c| (c.to, c.interval_seconds, c.keep)), Some(("s3://runs/state/".into(), 300, 1)));
    assert_eq!(alone.spec.unwrap().termination_grace_period_seconds, Some(3630));
}

#[test]
fn the_sidecar_sees_what_the_operator_asks_of_a_running_pod() {
    let pod = made(|_| {});
    assert!(mounts(init(&pod, STAGE)).contains(&("gpujob-pod", "/gpujob/pod")));
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    let told = spec["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "gpujob-pod").unwrap();
    let file = |path: &str, key: &str| json!({"path": path, "fieldRef": {"fieldPath": format!("metadata.annotations['{key}']")}});
    assert_eq!(told["downwardAPI"]["items"], json!([file("checkpoint", "gpujob.dev/checkpoint"), file("taken-at", "gpujob.dev/taken-at")]));
}

#[test]
fn a_cached_input_gets_the_nodes_folder_and_nothing_else_does() {
    let plain = made(|_| {});
    assert!(plain.spec.as_ref().unwrap().volumes.iter().flatten().all(|v| v.host_path.is_none()));
    let sum = format!("sha256:{}", "0".repeat(64));
    let pod = made(|j| j["spec"]["inputs"] = json!([{"from": "https://example.com/w.bin", "path": "/w", "cache": true, "checksum": sum}]));
    assert!(mounts(init(&pod, FETCH)).contains(&("gpujob-cache", "/gpujob/cache")));
    assert!(pod.spec.as_ref().unwrap().containers.iter().all(|c| !mounts(c).iter().any(|m| m.0 == "gpujob-cache")), "never the program's");
    let ask: TransferSpec = serde_json::from_str(env(init(&pod, FETCH), "GPUJOB_TRANSFER")["value"].as_str().unwrap()).unwrap();
    assert_eq!((ask.inputs[0].cache, ask.inputs[0].checksum.as_ref()), (true, Some(&sum)));
}

#[test]
fn the_mover_is_told_what_to_deliver_and_how() {
    let pod = made(|j| {
        j["spec"]["results"]["include"] = json!(["**/*.pt"]);
        j["spec"]["results"]["exclude"] = json!(["tmp/**"]);
        j["spec"]["results"]["keepOnFailure"] = json!("2h");
        j["spec"]["storage"]["integrity"] = json!("md5");
    });
    let ask: TransferSpec = serde_json::from_str(env(init(&pod, STAGE), "GPUJOB_TRANSFER")["value"].as_str().unwrap()).unwrap();
    let results = ask.results.unwrap();
    assert_eq!((results.include, results.exclude), (vec!["**/*.pt".to_owned()], vec!["tmp/**".to_owned()]));
    assert_eq!(results.keep_on_failure_seconds, 3600, "no longer than delivery may take");
    assert_eq!(ask.integrity, Some(gpujob_transfer::spec::Integrity::Md5));
}

#[test]
fn contradictions_are_named() {
    let refused = |change: fn(&mut Value)| build(&job(change), &target(), &image()).unwrap_err();
    let taken = |kind, name: &str| PodError::NameTaken { kind, name: name.into() };
    assert_eq!(
        refused(|j| j["spec"]["template"]["spec"]["containers"][1]["name"] = json!("gpujob-fetch")),
        taken("container", "gpujob-fetch")
    );
    assert_eq!(
        refused(|j| j["spec"]["template"]["spec"]["volumes"] = json!([{"name": "gpujob-state", "emptyDir": {}}])),
        taken("volume", "gpujob-state")
    );
    assert_eq!(refused(|j| j["spec"]["gpu"]["container"] = json!("trainer")), PodError::NoSuchContainer("trainer".into()));
    let mount = json!([{"name": "mine", "mountPath": "/results/"}]);
    let mut clash = job(|j| j["spec"]["template"]["spec"]["volumes"] = json!([{"name": "mine", "emptyDir": {}}]));
    clash.spec.template.spec.as_mut().unwrap().containers[0].volume_mounts = serde_json::from_value(mount).unwrap();
    assert!(matches!(build(&clash, &target(), &image()), Err(PodError::PathTaken { path, .. }) if path == "/results"));
    assert!(matches!(refused(|j| j["spec"]["results"]["path"] = json!("/data")), PodError::PathTaken { .. }));
    assert!(matches!(refused(|j| j["spec"]["results"]["path"] = json!("/gpujob/state")), PodError::PathTaken { .. }));
    let checkpoints = refused(|j| j["spec"]["checkpoints"] = json!({"path": "/results/"}));
    assert_eq!(checkpoints.to_string(), "/results/ is wanted by both checkpoints and results: give one of them another folder");
    let second = refused(|j| j["spec"]["template"]["spec"]["containers"][1]["resources"] = json!({"limits": {"nvidia.com/gpu": 1}}));
    assert!(second.to_string().contains("helper") && second.to_string().contains("main"), "{second}");
}

#[test]
fn a_named_container_gets_the_gpus() {
    let pod = made(|j| j["spec"]["gpu"]["container"] = json!("helper"));
    let containers = pod.spec.unwrap().containers;
    assert!(containers[0].resources.is_none() && containers[1].resources.is_some());
}

#[test]
fn storage_pods_are_small_near_and_without_gpus() {
    let pod = storage::build(&job(|_| {}), &target(), &image(), Task::CommitFailed(-1), "attempt-pod-uid");
    let spec = serde_json::to_value(pod.spec.as_ref().unwrap()).unwrap();
    let c = &spec["containers"][0];
    assert_eq!(c["args"], json!(["commit", "--outcome", "Failed", "--exit-code=-1", "--wait=3600", "--log", "/gpujob/log/main.log"]));
    assert_eq!(env(&pod.spec.as_ref().unwrap().containers[0], "GPUJOB_POD_UID")["value"], "attempt-pod-uid");
    assert_eq!((&spec["restartPolicy"], &spec["activeDeadlineSeconds"]), (&json!("Never"), &json!(4200)));
    assert_eq!((&c["securityContext"]["runAsNonRoot"], &spec["automountServiceAccountToken"]), (&json!(true), &json!(false)));
    assert!(!spec.to_string().contains("nvidia.com/gpu\":\"") && spec["nodeSelector"].is_null());
    assert!(spec["affinity"].to_string().contains("gn-abc"));
    let log = spec["volumes"].as_array().unwrap().iter().find(|v| v["name"] == "gpujob-log").unwrap();
    assert_eq!(log["configMap"]["optional"], true);
    assert_eq!(log["configMap"]["name"], format!("{}-log", gpujob_crds::names::pod("digits", "job-uid", 0, 2, "attempt")));
    assert_eq!(pod.metadata.finalizers, None);
    assert_eq!(pod.metadata.labels.unwrap()["gpujob.dev/role"], "commit");
}

#[test]
fn a_check_and_a_release_are_storage_pods_too() {
    let check = storage::build(&job(|_| {}), &target(), &image(), Task::Check, "");
    let c = &check.spec.as_ref().unwrap().containers[0];
    assert_eq!(c.args, Some(vec!["check".to_owned()]));
    let tolerated = |pod: &Pod| pod.spec.as_ref().unwrap().tolerations.iter().flatten().any(|t| t.key.as_deref() == Some(names::GPU_TAINT));
    assert!(!tolerated(&check), "a GPU node of others may go away under it");
    assert!(tolerated(&storage::build(&job(|_| {}), &target(), &image(), Task::Resolve, "")), "there may be no other node");
    let long = storage::build(&job(|j| j["spec"]["activeDeadlineSeconds"] = json!(20 * 86_400)), &target(), &image(), Task::Check, "");
    assert_eq!(long.spec.unwrap().containers[0].args, Some(vec!["check".to_owned(), "--days=22".into()]), "with its delivery, and a day");
    assert_eq!(env(c, "GPUJOB_POD_UID")["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid", "there is no attempt's pod yet");
    assert!(!mounts(c).iter().any(|m| m.0 == "gpujob-log"));
    let args = |forget| {
        let pod = storage::build(&job(|_| {}), &target(), &image(), Task::Release { forget }, "attempt-pod-uid");
        pod.spec.unwrap().containers[0].args.clone().unwrap()
    };
    assert_eq!(
        (args(false), args(true)),
        (vec!["discard".to_owned(), "--release".into()], vec!["discard".into(), "--release".into(), "--forget".into()])
    );
    let release = storage::build(&job(|_| {}), &target(), &image(), Task::Release { forget: false }, "attempt-pod-uid");
    assert_ne!(release.metadata.name, storage::build(&job(|_| {}), &target(), &image(), Task::Discard, "attempt-pod-uid").metadata.name);
}
