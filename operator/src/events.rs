//! Events: how something that a person would want to hear of is told. Best effort, and never for long.

use crate::clock::Clock;
use gpujob_crds::names::digest;
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event as Told;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::runtime::events::{Event, EventType};
use std::sync::Arc;
use std::time::Duration;

/// The longest note that the API server takes, in bytes.
pub const LONGEST_NOTE: usize = 1024;
/// Telling must not hold up what it tells of.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Who tells.
const CONTROLLER: &str = "gpujob-operator";

/// Writes events. Unlike kube's recorder it takes two notes under one reason for two events ("Attempt 2 runs" is no repetition of
/// "Attempt 1 runs"), and the same words about the same object for one, whoever says them: a second leader, or one that came back.
#[derive(Clone)]
pub struct Recorder {
    client: kube::Client,
    clock: Arc<dyn Clock>,
    instance: String,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("instance", &self.instance).finish_non_exhaustive()
    }
}

impl Recorder {
    /// For the replica of this name.
    #[must_use]
    pub fn new(client: kube::Client, clock: Arc<dyn Clock>, instance: String) -> Self {
        Recorder { client, clock, instance }
    }

    /// Writes one, unless it is there: the API server keeps events for an hour.
    ///
    /// # Errors
    /// The API server's.
    pub async fn publish(&self, event: &Event, about: &ObjectReference) -> kube::Result<()> {
        // Those about objects of the cluster are kept where kubectl looks for them.
        let namespace = about.namespace.as_deref().unwrap_or("default");
        let told = self.told(event, about, namespace);
        match Api::namespaced(self.client.clone(), namespace).create(&PostParams::default(), &told).await {
            Err(kube::Error::Api(status)) if status.is_already_exists() => Ok(()),
            other => other.map(drop),
        }
    }

    fn told(&self, event: &Event, about: &ObjectReference, namespace: &str) -> Told {
        let (uid, note) = (about.uid.as_deref().unwrap_or_default(), event.note.as_deref().unwrap_or_default());
        let name = format!("{}.{}", about.name.as_deref().unwrap_or(CONTROLLER), digest(&[uid, &event.reason, note], 16));
        Told {
            metadata: ObjectMeta { name: Some(name), namespace: Some(namespace.to_owned()), ..ObjectMeta::default() },
            event_time: Some(MicroTime(self.clock.now())),
            action: Some(event.action.clone()),
            reason: Some(event.reason.clone()),
            note: event.note.clone(),
            type_: Some(if matches!(event.type_, EventType::Warning) { "Warning" } else { "Normal" }.to_owned()),
            regarding: Some(about.clone()),
            related: event.secondary.clone(),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Told::default()
        }
    }
}

/// Tells of one thing. A failure is logged and forgotten.
pub async fn tell(recorder: &Recorder, about: &ObjectReference, type_: EventType, reason: &str, action: &str, note: &str) {
    let event = Event { type_, reason: reason.into(), action: action.into(), note: Some(cut(note)), secondary: None };
    match tokio::time::timeout(TIMEOUT, recorder.publish(&event, about)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(reason, %error, "event not published"),
        Err(_) => tracing::debug!(reason, "event not published in time"),
    }
}

/// The start of a note, as much as the API server takes.
#[must_use]
pub fn cut(note: &str) -> String {
    let mut end = note.len().min(LONGEST_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;
    use std::sync::Mutex;

    struct Noon;

    impl Clock for Noon {
        fn now(&self) -> jiff::Timestamp {
            "2026-01-01T12:00:00Z".parse().expect("a time")
        }
    }

    /// An API server that takes an event of each name once.
    fn recorder(seen: &Arc<Mutex<Vec<Told>>>, instance: &str) -> Recorder {
        let seen = seen.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let seen = seen.clone();
            async move {
                let body = request.into_body().collect_bytes().await.expect("a body");
                let event: Told = serde_json::from_slice(&body).expect("an event");
                let mut seen = seen.lock().expect("lock");
                let there = seen.iter().any(|e| e.metadata.name == event.metadata.name);
                let answer = if there {
                    serde_json::json!({"kind": "Status", "status": "Failure", "reason": "AlreadyExists", "code": 409, "message": "there", "metadata": {}})
                } else {
                    serde_json::to_value(&event).expect("JSON")
                };
                if !there {
                    seen.push(event);
                }
                let code = if there { 409 } else { 201 };
                Ok::<_, std::convert::Infallible>(
                    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes())).expect("an answer"),
                )
            }
        });
        Recorder::new(kube::Client::new(service, "default"), Arc::new(Noon), instance.into())
    }

    #[tokio::test]
    async fn other_words_are_another_event_and_the_same_words_are_not() {
        let seen = Arc::default();
        let about = ObjectReference {
            name: Some("train".into()),
            namespace: Some("lab".into()),
            uid: Some("u".into()),
            ..ObjectReference::default()
        };
        let (one, two) = (recorder(&seen, "a"), recorder(&seen, "b"));
        for (recorder, note) in [(&one, "Attempt 1 runs."), (&one, "Attempt 2 runs."), (&two, "Attempt 2 runs.")] {
            let event = Event {
                type_: EventType::Normal,
                reason: "Started".into(),
                action: "Run".into(),
                note: Some(note.into()),
                secondary: None,
            };
            recorder.publish(&event, &about).await.expect("it is told");
        }
        let notes: Vec<_> = seen.lock().expect("lock").iter().filter_map(|e| e.note.clone()).collect();
        assert_eq!(notes, ["Attempt 1 runs.", "Attempt 2 runs."]);
        assert_eq!(seen.lock().expect("lock")[0].event_time.as_ref().map(|t| t.0), Some(Noon.now()));
    }
}
