//! The server through a real client, as the operator uses it.

use super::*;
use futures::{StreamExt, TryStreamExt};
use gpujob_crds::{GpuJob, GpuNode};
use gpujob_operator::clock::Clock;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod};
use kube::api::{Api, DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Resource, ResourceExt};

struct At(Timestamp);

impl Clock for At {
    fn now(&self) -> Timestamp {
        self.0
    }
}

fn server() -> FakeKube {
    FakeKube::new(Arc::new(At("2026-01-01T00:00:00.75Z".parse().expect("a time"))))
}

fn job(name: &str) -> GpuJob {
    let object = gpujob_crds::cases::all().into_iter().find(|c| c.kind == "GpuJob" && c.reject.is_none()).expect("a good job").object;
    let mut job: GpuJob = serde_json::from_value(object).expect("a job");
    (job.metadata.name, job.metadata.namespace) = (Some(name.to_owned()), Some("default".to_owned()));
    job
}

fn pod(name: &str, labels: Value) -> Pod {
    let object = json!({"metadata": {"name": name, "labels": labels}, "spec": {"containers": [{"name": "main", "image": "a:1"}]}});
    serde_json::from_value(object).expect("a pod")
}

fn code(error: &kube::Error) -> u16 {
    match error {
        kube::Error::Api(status) => status.code,
        other => panic!("{other}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_lives_as_on_a_real_server() {
    let kube = server();
    let jobs: Api<GpuJob> = Api::namespaced(kube.client(), "default");
    let made = jobs.create(&PostParams::default(), &job("a")).await.expect("made");
    assert_eq!(made.metadata.generation, Some(1));
    assert_eq!(made.creation_timestamp().map(|t| t.0.to_string()).as_deref(), Some("2026-01-01T00:00:00Z"));
    assert_eq!(code(&jobs.create(&PostParams::default(), &job("a")).await.expect_err("there")), 409);

    let apply = |version: Option<String>, status: Value| {
        let body = json!({"apiVersion": "gpujob.dev/v1alpha1", "kind": "GpuJob", "metadata": {"name": "a", "resourceVersion": version}, "status": status});
        let jobs = jobs.clone();
        async move { jobs.patch_status("a", &PatchParams::apply("me").force(), &Patch::Apply(&body)).await }
    };
    let version = made.resource_version();
    let first = apply(version.clone(), json!({"state": "Queued"})).await.expect("applied");
    assert_eq!(first.metadata.generation, Some(1), "a status is no generation");
    assert_eq!(code(&apply(version, json!({"state": "Other"})).await.expect_err("an old version")), 409);
    let again = apply(first.resource_version(), json!({"state": "Queued"})).await.expect("applied");
    assert_eq!(again.resource_version(), first.resource_version(), "nothing changed, nothing is written");

    let hold = json!({"metadata": {"finalizers": ["gpujob.dev/test"]}});
    jobs.patch("a", &PatchParams::default(), &Patch::Merge(&hold)).await.expect("held");
    let wrong = Preconditions { uid: Some("other".into()), resource_version: None };
    assert_eq!(
        code(&jobs.delete("a", &DeleteParams { preconditions: Some(wrong), ..Default::default() }).await.expect_err("another")),
        409
    );
    let going = jobs.delete("a", &DeleteParams::default()).await.expect("marked").left().expect("it is held");
    assert_eq!((going.metadata.deletion_timestamp.is_some(), going.metadata.generation), (true, Some(2)));
    let free: json_patch::Patch = serde_json::from_value(json!([{"op": "remove", "path": "/metadata/finalizers/0"}])).expect("a patch");
    jobs.patch("a", &PatchParams::default(), &Patch::<()>::Json(free)).await.expect("freed");
    assert!(jobs.get_opt("a").await.expect("an answer").is_none());
    assert_eq!(kube.writes().iter().map(|w| w.verb).collect::<Vec<_>>(), ["create", "apply", "patch", "delete", "patch"]);
}

#[tokio::test(start_paused = true)]
async fn watches_tell_of_what_is_selected_in_order() {
    let kube = server();
    let pods: Api<Pod> = Api::namespaced(kube.client(), "default");
    let params = WatchParams::default().labels("app=a");
    let from = kube.revision().to_string();
    let mut events = pods.watch(&params, &from).await.expect("open").boxed();
    pods.create(&PostParams::default(), &pod("other", json!({"app": "b"}))).await.expect("made");
    pods.create(&PostParams::default(), &pod("one", json!({"app": "a"}))).await.expect("made");
    let label = |value: &str| Patch::Merge(json!({"metadata": {"labels": {"app": value}}}));
    pods.patch("other", &PatchParams::default(), &label("a")).await.expect("starts to match");
    pods.patch("one", &PatchParams::default(), &label("c")).await.expect("stops to match");
    pods.delete("other", &DeleteParams::default()).await.expect("deleted");
    let mut told = vec![];
    for _ in 0..4 {
        told.push(match events.try_next().await.expect("no error").expect("an event") {
            WatchEvent::Added(p) => format!("+{}", p.name_any()),
            WatchEvent::Modified(p) => format!("~{}", p.name_any()),
            WatchEvent::Deleted(p) => format!("-{} {}", p.name_any(), p.labels()["app"]),
            other => format!("{other:?}"),
        });
    }
    assert_eq!(told, ["+one", "+other", "-one a", "-other a"]);
    // Quiet for a minute: a bookmark says how far it has seen. At its time it ends.
    let Some(WatchEvent::Bookmark(mark)) = events.try_next().await.expect("no error") else { panic!("a bookmark") };
    assert_eq!(mark.metadata.resource_version, kube.revision().to_string());
    kube.expire_watches();
    let Some(WatchEvent::Error(status)) = events.try_next().await.expect("no error") else { panic!("410") };
    assert_eq!(status.code, 410);
    assert!(events.try_next().await.expect("no error").is_none());
    let mut late = pods.watch(&params, &from).await.expect("open").boxed();
    assert!(matches!(late.try_next().await, Ok(Some(WatchEvent::Error(s))) if s.code == 410), "history is gone");
}

#[tokio::test(start_paused = true)]
async fn reflectors_survive_lost_watches() {
    let kube = server();
    let pods: Api<Pod> = Api::namespaced(kube.client(), "default");
    let (reader, writer) = kube::runtime::reflector::store();
    let stream = watcher(pods.clone(), watcher::Config::default()).default_backoff().reflect(writer);
    let task = tokio::spawn(stream.for_each(|_| async {}));
    reader.wait_until_ready().await.expect("filled");
    for (name, lose) in [("a", FakeKube::close_watches as fn(&FakeKube)), ("b", FakeKube::expire_watches), ("c", FakeKube::compact)] {
        lose(&kube);
        pods.create(&PostParams::default(), &pod(name, json!({}))).await.expect("made");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert!(reader.state().iter().any(|p| p.name_any() == name), "{name}");
    }
    task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_lagging_server_shows_the_past_until_it_catches_up() {
    let kube = server();
    let (catch_up, horizon) = crate::signal::channel(kube.revision());
    let lagging = tower::ServiceBuilder::new()
        .map_request(move |mut request: http::Request<kube::client::Body>| {
            request.extensions_mut().insert(Sight { horizon: Some(horizon.clone()), hide: None });
            request
        })
        .service(kube.service());
    let maps: Api<ConfigMap> = Api::namespaced(kube::Client::new(lagging, "default"), "default");
    let mut events = maps.watch(&WatchParams::default(), &kube.revision().to_string()).await.expect("open").boxed();
    let map = ConfigMap { metadata: ObjectMeta { name: Some("a".into()), ..Default::default() }, ..Default::default() };
    maps.create(&PostParams::default(), &map).await.expect("writes are never stale");
    assert!(maps.list(&ListParams::default()).await.expect("listed").items.is_empty());
    assert!(tokio::time::timeout(Duration::from_secs(30), events.next()).await.is_err(), "not yet");
    catch_up.send_replace(kube.revision());
    assert!(matches!(events.try_next().await, Ok(Some(WatchEvent::Added(_)))));
    assert_eq!(maps.list(&ListParams::default()).await.expect("listed").items.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pages_are_of_one_moment() {
    let kube = server();
    let maps: Api<ConfigMap> = Api::namespaced(kube.client(), "default");
    let make = |name: &str| ConfigMap { metadata: ObjectMeta { name: Some(name.into()), ..Default::default() }, ..Default::default() };
    for name in ["a", "b", "d"] {
        maps.create(&PostParams::default(), &make(name)).await.expect("made");
    }
    let first = maps.list(&ListParams::default().limit(2)).await.expect("a page");
    maps.create(&PostParams::default(), &make("c")).await.expect("made between the pages");
    let token = first.metadata.continue_.expect("there is more");
    let second = maps.list(&ListParams::default().limit(2).continue_token(&token)).await.expect("a page");
    assert_eq!(second.items.iter().map(ResourceExt::name_any).collect::<Vec<_>>(), ["d"]);
    kube.compact();
    assert_eq!(code(&maps.list(&ListParams::default().continue_token(&token)).await.expect_err("too late")), 410);
}

#[tokio::test(start_paused = true)]
async fn dependents_go_after_their_owner_and_namespaces_after_their_contents() {
    let kube = server();
    let client = kube.client();
    let jobs: Api<GpuJob> = Api::namespaced(client.clone(), "default");
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let owner = jobs.create(&PostParams::default(), &job("a")).await.expect("made");
    let owned = ObjectMeta { name: Some("log".into()), owner_references: owner.owner_ref(&()).map(|o| vec![o]), ..Default::default() };
    maps.create(&PostParams::default(), &ConfigMap { metadata: owned, ..Default::default() }).await.expect("made");
    assert_eq!(kube.step_controllers(), 0, "its owner lives");
    jobs.delete("a", &DeleteParams::background()).await.expect("deleted");
    // One of the same name is another: the UID tells.
    jobs.create(&PostParams::default(), &job("a")).await.expect("made again");
    assert_eq!((kube.step_controllers(), kube.step_controllers()), (1, 0));
    assert!(maps.get_opt("log").await.expect("an answer").is_none());

    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = Namespace { metadata: ObjectMeta { name: Some("team".into()), ..Default::default() }, ..Default::default() };
    namespaces.create(&PostParams::default(), &namespace).await.expect("made");
    let pods: Api<Pod> = Api::namespaced(client, "team");
    pods.create(&PostParams::default(), &pod("p", json!({}))).await.expect("made");
    namespaces.delete("team", &DeleteParams::default()).await.expect("marked");
    assert_eq!(code(&pods.create(&PostParams::default(), &pod("q", json!({}))).await.expect_err("it is going")), 403);
    while kube.step_controllers() > 0 {}
    assert!(namespaces.get_opt("team").await.expect("an answer").is_none() && kube.objects("pods").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_gpunodes_reservations_are_compared_and_set() {
    let kube = server();
    let nodes: Api<GpuNode> = Api::all(kube.client());
    let object = gpujob_crds::cases::all().into_iter().find(|c| c.kind == "GpuNode" && c.reject.is_none()).expect("a good node").object;
    let node: GpuNode = serde_json::from_value(object).expect("a node");
    let made = nodes.create(&PostParams::default(), &node).await.expect("made");
    let patch = json!({"metadata": {"resourceVersion": made.resource_version()}, "status": {"idleSince": "2026-01-01T00:00:00Z"}});
    let (name, params) = (made.name_any(), PatchParams::default());
    let patch = Patch::Merge(&patch);
    let write = || nodes.patch_status(&name, &params, &patch);
    write().await.expect("the first");
    assert_eq!(code(&write().await.expect_err("the second")), 409);
}
