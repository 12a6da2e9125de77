//! What caches keep, where it is found, and what a broken watch says.

use super::feed::{Trouble, feed};
use super::stores::{found, keys_of_pod, place};
use super::trim::trim_job;
use super::*;
use crate::index::Index;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Container, PodSpec, PodTemplateSpec};
use kube::runtime::reflector;
use std::time::Duration;

fn job() -> GpuJob {
    let container = |name: &str, image: &str| Container {
        name: name.into(),
        image: Some(image.into()),
        command: Some(vec!["long".repeat(1000)]),
        ..Container::default()
    };
    let mut job = GpuJob::new("j", Default::default());
    let containers = vec![container("main", "cuda:1"), container("helper", "helper:1")];
    job.spec.template = PodTemplateSpec { metadata: None, spec: Some(PodSpec { containers, ..PodSpec::default() }) };
    job
}

#[test]
fn a_cached_job_keeps_one_image_and_no_more() {
    let mut first = job();
    trim_job(&mut first);
    assert_eq!(main_image(&first), Some("cuda:1"));
    let mut named = job();
    named.spec.gpu.container = Some("helper".into());
    trim_job(&mut named);
    assert_eq!(main_image(&named), Some("helper:1"));
    assert!(serde_json::to_string(&named.spec.template).expect("json").len() < 200);
}

fn pod(name: &str, uid: &str) -> Pod {
    let mut pod = Pod::default();
    (pod.metadata.name, pod.metadata.namespace) = (Some(name.into()), Some("ns".into()));
    pod.metadata.labels = Some([(names::JOB_UID, uid), (names::JOB, "j")].map(|(k, v)| (k.to_owned(), v.to_owned())).into());
    pod
}

#[tokio::test]
async fn an_object_can_be_found_when_it_is_announced_and_not_when_it_is_gone() {
    use watcher::Event;
    let (store, mut writer) = reflector::store::<Pod>();
    let index = Arc::new(Index::default());
    let seen = Arc::new(std::sync::Mutex::new(vec![]));
    let script = vec![
        Event::Init,
        Event::InitApply(pod("a", "1")),
        Event::InitDone,
        Event::Apply(pod("b", "1")),
        Event::Apply(pod("a", "2")),
        Event::Delete(pod("b", "1")),
        Event::Init,
        Event::InitApply(pod("c", "1")),
        Event::InitDone,
    ];
    let (noted, cache) = (index.clone(), store.clone());
    let note = move |event: &Event<Pod>| match event {
        Event::Apply(p) => noted.set(place(p), keys_of_pod(p)),
        Event::InitApply(p) => noted.add(place(p), keys_of_pod(p)),
        Event::Delete(p) => noted.remove(&place(p)),
        Event::InitDone => noted.replace(cache.state().iter().map(|p| (place(p.as_ref()), keys_of_pod(p)))),
        Event::Init => {}
    };
    let (looked, known, said) = (index.clone(), store.clone(), seen.clone());
    let announce = move |_: &Pod, _| {
        let names = found(&known, &looked, "1").iter().map(|p| p.name_any()).collect::<Vec<_>>().join(" ");
        said.lock().expect("lock").push(names);
    };
    let events = stream::iter(script).map(move |event| {
        writer.apply_watcher_event(&event);
        Ok(event)
    });
    feed(events, CancellationToken::new(), note, announce).await;
    assert_eq!(*seen.lock().expect("lock"), ["", "a b", "b", "", ""]);
    let of_job: Vec<String> = found(&store, &index, "ns/j").iter().map(|p| p.name_any()).collect();
    assert_eq!((found(&store, &index, "1").len(), of_job), (1, vec!["c".to_owned()]), "what a relist does not show is gone");
}

#[tokio::test(start_paused = true)]
async fn trouble_is_said_once_a_minute_and_when_it_changes() {
    let mut trouble = Trouble::default();
    let now = tokio::time::Instant::now();
    assert!(trouble.is_news("refused", now));
    trouble.with("Pod", "refused");
    assert!(!trouble.is_news("refused", now + Duration::from_secs(59)));
    assert!(trouble.is_news("forbidden", now) && trouble.is_news("refused", now + Duration::from_secs(60)));
    trouble.over("Pod");
    assert!(trouble.is_news("refused", now));
}
