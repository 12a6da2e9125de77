//! What lies between a process and its cloud: the same as [`Wire`] for Kubernetes, around every provider.

use super::director::AfterWrite;
use super::fault::CallFault;
use super::wire::Wire;
use crate::cloud::{CloudWrite, Operation};
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

/// The cloud has been changed by a call of this process: counted at once, before the caller hears of it. See `FakeCloud::on_write`.
pub fn cloud_wrote(wire: &Wire, write: &CloudWrite) {
    let (number, after) = wire.director.write();
    wire.witness.called();
    wire.timeline.note(&wire.who, Kind::Call, format!("[{number}] {:?} {}", write.operation, write.subject));
    match after {
        AfterWrite::Answer => {}
        AfterWrite::Crash { back_in_s } => wire.die(number, back_in_s),
        AfterWrite::Hang | AfterWrite::Break => {
            wire.lost_answers.lock().expect("no panic holds this lock").insert(write.operation);
        }
    }
}

impl Wired {
    /// One call.
    async fn call<T>(
        &self,
        operation: Operation,
        subject: &str,
        call: impl Future<Output = Result<T, ProviderError>> + Send,
    ) -> Result<T, ProviderError> {
        let wire = &self.wire;
        wire.timeline.trace(&wire.who, &format!("{operation:?} {subject}"));
        let fault = wire.director.call();
        if let Some(fault) = fault {
            wire.fault(format!("{operation:?} {subject}: {fault:?}"));
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
        if let Err(error) = &answer {
            wire.timeline.note(&wire.who, Kind::Call, format!("{operation:?} {subject}: {}", error.class.reason()));
        }
        if wire.lost_answers.lock().expect("no panic holds this lock").remove(&operation) {
            wire.fault(format!("waits in vain for the answer to {operation:?} {subject}"));
            return self.late().await;
        }
        if fault == Some(CallFault::Hangs) {
            return self.late().await;
        }
        wire.line.passable().await;
        if fault == Some(CallFault::AnswerLost) { Err(unanswered()) } else { answer }
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
        self.call(Operation::Prepare, "", self.inner.prepare(pool, cluster)).await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        self.call(Operation::Release, pool_uid, self.inner.release(pool_uid, cluster)).await
    }

    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        self.call(Operation::Offers, "", self.inner.offers(pool, prepared)).await
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        self.inner.render(rendering)
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        self.call(Operation::Launch, &call.node, self.inner.launch(call)).await
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        self.call(Operation::List, "", self.inner.list(cluster)).await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        let call = async {
            self.wire.witness.terminates(&self.wire.who, id);
            self.inner.terminate(id).await
        };
        self.call(Operation::Terminate, id, call).await
    }

    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        self.call(Operation::Notices, "", self.inner.notices(source)).await
    }

    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        self.call(Operation::Acknowledge, "", self.inner.acknowledge(source, notices)).await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        self.call(Operation::Console, id, self.inner.console(id)).await
    }

    async fn prefetch(&self, pool: &GpuPool, prepared: &Prepared, image: &str, cluster: &str) -> Result<Option<Prepared>, ProviderError> {
        self.call(Operation::Prefetch, image, self.inner.prefetch(pool, prepared, image, cluster)).await
    }

    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        self.call(Operation::Leftovers, "", self.inner.leftovers(cluster)).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        self.call(Operation::Remove, &leftover.id, self.inner.remove(leftover)).await
    }
}
