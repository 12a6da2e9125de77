//! An operator's surroundings for tests of what it does beside its plans: caches that are filled by hand, an API server that keeps
//! objects and no more (the simulator has a real one), and two clouds, of which one can hang.

use crate::capacity::Capacity;
use crate::clouds_test::Scripted;
use crate::context::Ctx;
use crate::leader::Leadership;
use crate::queue::{Queues, Receivers};
use crate::settings::Settings;
use crate::throttle::Throttled;
use crate::watch::{ByHand, Stores};
use async_trait::async_trait;
use gpujob_provider_core::{Clouds, MachineProvider, ProviderError, Scope};
use http::{Method, Request, Response};
use jiff::{SignedDuration, Timestamp};
use kube::client::Body;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::time::Instant;

/// The region whose provider may hang, and the one whose provider does not.
pub(crate) const HUNG: &str = "hung";
pub(crate) const WELL: &str = "well";

/// See the module.
pub(crate) struct Surroundings {
    pub(crate) ctx: Arc<Ctx>,
    pub(crate) ends: Option<Receivers>,
    pub(crate) caches: ByHand,
    pub(crate) api: Objects,
    pub(crate) hung: Scripted,
    pub(crate) well: Scripted,
}

impl Surroundings {
    pub(crate) fn new() -> Self {
        let (queues, ends) = Queues::new();
        let (stores, caches) = Stores::by_hand();
        let (api, hung, well) = (Objects::default(), Scripted::default(), Scripted::default());
        let served = api.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let api = served.clone();
            async move { Ok::<_, std::convert::Infallible>(api.answer(request).await) }
        });
        let client = kube::Client::new(service, "default");
        let metrics = Arc::default();
        let two = TwoClouds { hung: hung.clone(), well: well.clone() };
        let ctx = Ctx {
            recorder: crate::events::Recorder::new(client.clone(), Arc::new(Virtual(Instant::now())), "test".into()),
            client,
            clock: Arc::new(Virtual(Instant::now())),
            stores,
            leader: Leadership::always(),
            settings: Settings {
                transfer_image: String::new(),
                transfer_image_pull_policy: None,
                cluster: "us".into(),
                namespace: "default".into(),
            },
            clouds: Arc::new(Throttled::new(Arc::new(two), Arc::clone(&metrics))),
            cloud_view: Arc::default(),
            capacity: Arc::new(Capacity::default()),
            prefetch: Arc::default(),
            outdated: Arc::default(),
            queues,
            metrics,
            requests: Default::default(),
        };
        Surroundings { ctx: Arc::new(ctx), ends: Some(ends), caches, api, hung, well }
    }
}

struct Virtual(Instant);

impl crate::clock::Clock for Virtual {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.0.elapsed()).unwrap_or_default();
        Timestamp::from_second(1_000_000).and_then(|t| t.checked_add(passed)).unwrap_or_default()
    }
}

struct TwoClouds {
    hung: Scripted,
    well: Scripted,
}

#[async_trait]
impl Clouds for TwoClouds {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        if scope.region == HUNG { self.hung.machines(scope).await } else { self.well.machines(scope).await }
    }

    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>> {
        if scope.region == HUNG { self.hung.ready(scope) } else { self.well.ready(scope) }
    }
}

/// Objects by their path, and the writes that came. Knows GET of one, POST, merge patches, and compare-and-set.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    objects: BTreeMap<String, Value>,
    writes: Vec<(String, Value)>,
    forbidden: Option<String>,
    hangs: Option<String>,
}

impl Objects {
    /// Puts an object there.
    pub(crate) fn put(&self, path: &str, object: &impl serde::Serialize) {
        let value = serde_json::to_value(object).expect("an object");
        let mut kept = self.0.lock().expect("lock");
        kept.forbidden.take_if(|forbidden| forbidden == path);
        kept.objects.insert(path.to_owned(), value);
    }

    /// Every write to this object meets a conflict from now on: it has no version that anyone could have read.
    pub(crate) fn forbid(&self, path: &str) {
        self.0.lock().expect("lock").forbidden = Some(path.to_owned());
    }

    /// Requests about paths with this in them are not answered from now on. One that hangs already goes on hanging.
    pub(crate) fn hang(&self, part: &str) {
        self.0.lock().expect("lock").hangs = Some(part.to_owned());
    }

    /// The object at this path.
    pub(crate) fn get(&self, path: &str) -> Value {
        self.0.lock().expect("lock").objects.get(path).cloned().unwrap_or_default()
    }

    /// The writes to paths that end like this, in order.
    pub(crate) fn writes(&self, end: &str) -> Vec<Value> {
        self.0.lock().expect("lock").writes.iter().filter(|(path, _)| path.ends_with(end)).map(|(_, body)| body.clone()).collect()
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let bytes = body.collect_bytes().await.unwrap_or_default();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let hangs = self.0.lock().expect("lock").hangs.as_ref().is_some_and(|part| parts.uri.path().contains(part.as_str()));
        if hangs {
            std::future::pending::<()>().await;
        }
        let (code, value) = self.handle(&parts.method, parts.uri.path(), body);
        Response::builder().status(code).body(Body::from(value.to_string().into_bytes())).expect("a response")
    }

    fn handle(&self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        let mut kept = self.0.lock().expect("lock");
        let status = |code: u16| (code, json!({"kind": "Status", "status": "Failure", "code": code, "reason": "Test", "message": "no"}));
        if method == Method::POST {
            kept.writes.push((path.to_owned(), body.clone()));
            return (201, body);
        }
        let object = path.strip_suffix("/status").unwrap_or(path).to_owned();
        let forbidden = kept.forbidden.as_deref() == Some(&object);
        let Some(there) = kept.objects.get_mut(&object) else { return status(404) };
        if method == Method::PATCH {
            if forbidden {
                return status(409);
            }
            let version = |v: &Value| v["metadata"]["resourceVersion"].as_str().map(str::to_owned);
            if version(&body).is_some_and(|asked| Some(asked) != version(there)) {
                return status(409);
            }
            let next = version(there).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0) + 1;
            merge(there, &body);
            there["metadata"]["resourceVersion"] = json!(next.to_string());
            let answer = there.clone();
            kept.writes.push((path.to_owned(), body));
            return (200, answer);
        }
        (200, there.clone())
    }
}

fn merge(into: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (key, value) in fields {
        if value.is_null() {
            into.as_object_mut().expect("an object").remove(key);
        } else {
            merge(&mut into[key], value);
        }
    }
}
