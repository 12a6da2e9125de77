//! What lies between a process and its cloud: the same as [`Wire`] for Kubernetes, around every provider.

use super::director::AfterWrite;
use super::fault::CallFault;
use super::wire::Wire;
use crate::timeline::Kind;
use async_trait::async_trait;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{
    Clouds, ErrorClass, LaunchCall, Launched, Leftover, Listing, MachineProvider, Notice, NoticeSource, Offer, Prepared, ProviderError,
    Rendering, Scope, Terminated,
};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a provider waits for an answer before it says that there was none.
const LIMIT: Duration = Duration::from_secs(30);

/// The clouds as one process reaches them.
pub struct WiredClouds {
    inner: Arc<dyn Clouds>,
    wire: Wire,
    /// A process that has just begun is connected to none.
    connected: Mutex<BTreeSet<Scope>>,
}

impl WiredClouds {
    /// `inner` behind `wire`.
    #[must_use]
    pub fn new(inner: Arc<dyn Clouds>, wire: Wire) -> Self {
        WiredClouds { inner, wire, connected: Mutex::default() }
    }

    fn wired(&self, inner: Arc<dyn MachineProvider>) -> Arc<dyn MachineProvider> {
        Arc::new(Wired { inner, wire: self.wire.clone() })
    }
}

impl std::fmt::Debug for WiredClouds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WiredClouds").field("wire", &self.wire).finish_non_exhaustive()
    }
}

#[async_trait]
impl Clouds for WiredClouds {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        self.wire.line.passable().await;
        let inner = self.inner.machines(scope).await?;
        self.connected.lock().expect("no panic holds this lock").insert(scope.clone());
        Ok(self.wired(inner))
    }

    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>> {
        let known = self.connected.lock().expect("no panic holds this lock").contains(scope);
        known.then(|| self.inner.ready(scope)).flatten().map(|inner| self.wired(inner))
    }
}

struct Wired {
    inner: Arc<dyn MachineProvider>,
    wire: Wire,
}

fn unanswered() -> ProviderError {
    ProviderError::new(ErrorClass::Unknown, "no answer from the provider")
}

impl Wired {
    /// One call. `writes` says whether an answer means that something has changed.
    async fn call<T>(
        &self,
        what: &str,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
        writes: impl Fn(&T) -> Option<String> + Send,
    ) -> Result<T, ProviderError> {
        let wire = &self.wire;
        wire.timeline.trace(&wire.who, what);
        let fault = wire.director.call();
        if let Some(fault) = fault {
            wire.timeline.note(&wire.who, Kind::Fault, format!("{what}: {fault:?}"));
        }
        match fault {
            Some(CallFault::Throttled) => return Err(ProviderError::new(ErrorClass::Throttled, "RequestLimitExceeded: too many calls")),
            Some(CallFault::Unauthorized) => return Err(ProviderError::new(ErrorClass::Unauthorized, "UnauthorizedOperation")),
            Some(CallFault::NeverArrived) => return self.late().await,
            Some(CallFault::AnswerLost | CallFault::Hangs) | None => {}
        }
        // A line that is cut while we wait: the provider's own limit gives the call up.
        if tokio::time::timeout(LIMIT, wire.line.passable()).await.is_err() {
            return self.late().await;
        }
        let answer = call.await;
        if let Ok(value) = &answer
            && let Some(done) = writes(value)
        {
            let (number, after) = wire.director.write();
            wire.timeline.note(&wire.who, Kind::Call, format!("[{number}] {done}"));
            match after {
                AfterWrite::Hang | AfterWrite::Break => {
                    wire.timeline.note(&wire.who, Kind::Fault, format!("waits in vain for the answer to write {number}"));
                    return self.late().await;
                }
                other => wire.landed(number, other).await.map_err(|_| unanswered())?,
            }
        } else if let Err(error) = &answer {
            wire.timeline.note(&wire.who, Kind::Call, format!("{what}: {}", error.class.reason()));
        }
        match fault {
            Some(CallFault::Hangs) => self.late().await,
            Some(CallFault::AnswerLost) => {
                wire.line.passable().await;
                Err(unanswered())
            }
            _ => {
                wire.line.passable().await;
                answer
            }
        }
    }

    async fn late<T>(&self) -> Result<T, ProviderError> {
        tokio::time::sleep(LIMIT).await;
        if self.wire.line.state() == crate::process::line::State::Dead {
            return std::future::pending().await;
        }
        Err(unanswered())
    }
}

#[async_trait]
impl MachineProvider for Wired {
    async fn prepare(&self, pool: &GpuPool, cluster: &str) -> Result<Prepared, ProviderError> {
        self.call("prepare", self.inner.prepare(pool, cluster), |_| None).await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        self.call("release", self.inner.release(pool_uid, cluster), |()| Some("removes what was made for the pool".into())).await
    }

    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        self.call("offers", self.inner.offers(pool, prepared), |_| None).await
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        self.inner.render(rendering)
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        let what = format!("launch {}", call.node);
        let done = |l: &Launched| Some(format!("launches {} {} in {} for {}", l.id, l.instance_type, l.zone, call.node));
        self.call(&what, self.inner.launch(call), done).await
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        self.call("list", self.inner.list(cluster), |_| None).await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        let call = async {
            self.wire.witness.terminates(&self.wire.who, id);
            self.inner.terminate(id).await
        };
        self.call(&format!("terminate {id}"), call, |t| (*t == Terminated::InProgress).then(|| format!("terminates {id}"))).await
    }

    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        self.call("notices", self.inner.notices(source), |_| None).await
    }

    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        self.call("acknowledge", self.inner.acknowledge(source, notices), |()| None).await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        self.call("console", self.inner.console(id), |_| None).await
    }

    async fn prefetch(&self, pool: &GpuPool, prepared: &Prepared, image: &str, cluster: &str) -> Result<Option<Prepared>, ProviderError> {
        self.call("prefetch", self.inner.prefetch(pool, prepared, image, cluster), |_| None).await
    }

    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        self.call("leftovers", self.inner.leftovers(cluster), |_| None).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        self.call("remove", self.inner.remove(leftover), |()| Some(format!("removes {}", leftover.id))).await
    }
}
