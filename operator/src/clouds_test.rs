//! A provider for tests of the operator's own calls: counts them, answers what it is told, or never. What clouds really do is the
//! simulator's part.

use async_trait::async_trait;
use gpujob_crds::{GpuPool, Market};
use gpujob_provider_core::{
    Clouds, ErrorClass, LaunchCall, Launched, Leftover, Listing, MachineProvider, Notice, NoticeSource, Offer, Prepared, ProviderError,
    Rendering, Scope, Terminated,
};
use std::sync::{Arc, Mutex};

/// A scope of the provider `aws`.
pub(crate) fn scope(region: &str) -> Scope {
    Scope { provider: "aws".into(), region: region.into() }
}

/// See the module. Clones share all.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scripted(Arc<Mutex<Script>>);

#[derive(Debug, Default)]
pub(crate) struct Script {
    calls: Vec<String>,
    hangs: Vec<&'static str>,
    all_hang: bool,
    refusal: Option<ErrorClass>,
    pub(crate) notices: Vec<Notice>,
    pub(crate) leftovers: Vec<Leftover>,
    pub(crate) console: Option<String>,
    pub(crate) variant: Option<Prepared>,
}

impl Scripted {
    /// Changes what is answered.
    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.0.lock().expect("no panic holds this lock"));
    }

    /// From now on no call is answered.
    pub(crate) fn hang(&self) {
        self.script(|s| s.all_hang = true);
    }

    /// From now on calls of this operation are not answered.
    pub(crate) fn hang_at(&self, operation: &'static str) {
        self.script(|s| s.hangs.push(operation));
    }

    /// From now on every call is refused like this.
    pub(crate) fn answer(&self, class: ErrorClass) {
        self.script(|s| s.refusal = Some(class));
    }

    /// How many calls of this operation came.
    pub(crate) fn count(&self, operation: &str) -> usize {
        self.calls().iter().filter(|c| c.split(' ').next() == Some(operation)).count()
    }

    /// All calls, in order.
    pub(crate) fn calls(&self) -> Vec<String> {
        self.0.lock().expect("no panic holds this lock").calls.clone()
    }

    async fn called(&self, operation: &'static str, about: &str) -> Result<(), ProviderError> {
        let (hangs, refusal) = {
            let mut script = self.0.lock().expect("no panic holds this lock");
            script.calls.push(format!("{operation} {about}"));
            (script.all_hang || script.hangs.contains(&operation), script.refusal.clone())
        };
        if hangs {
            std::future::pending::<()>().await;
        }
        refusal.map_or(Ok(()), |class| Err(ProviderError::new(class, "scripted")))
    }

    fn read<T>(&self, read: impl FnOnce(&Script) -> T) -> T {
        read(&self.0.lock().expect("no panic holds this lock"))
    }
}

#[async_trait]
impl Clouds for Scripted {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        self.called("connect", &scope.region).await.ok();
        Ok(Arc::new(self.clone()))
    }

    fn ready(&self, _: &Scope) -> Option<Arc<dyn MachineProvider>> {
        self.read(|s| !s.all_hang && !s.hangs.contains(&"connect")).then(|| Arc::new(self.clone()) as _)
    }
}

#[async_trait]
impl MachineProvider for Scripted {
    async fn prepare(&self, _: &GpuPool, _: &str) -> Result<Prepared, ProviderError> {
        self.called("prepare", "").await?;
        Ok(Prepared(serde_json::json!({})))
    }

    async fn release(&self, pool_uid: &str, _: &str) -> Result<(), ProviderError> {
        self.called("release", pool_uid).await
    }

    async fn offers(&self, _: &GpuPool, _: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        self.called("offers", "").await.map(|()| vec![])
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        Ok(rendering.prepared.0.clone())
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        self.called("launch", &call.node).await?;
        let id = format!("i-{}", call.node);
        Ok(Launched { id, instance_type: "t".into(), zone: "a".into(), market: Market::Spot, instance: None, refusals: vec![] })
    }

    async fn list(&self, _: &str) -> Result<Listing, ProviderError> {
        self.called("list", "").await?;
        Ok(Listing { instances: vec![], complete: true })
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        self.called("terminate", id).await.map(|()| Terminated::InProgress)
    }

    async fn notices(&self, _: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        self.called("notices", "").await?;
        Ok(self.read(|s| s.notices.clone()))
    }

    async fn acknowledge(&self, _: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        let instances: Vec<&str> = notices.iter().map(|n| n.instance.as_str()).collect();
        self.called("acknowledge", &instances.join(",")).await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        self.called("console", id).await?;
        Ok(self.read(|s| s.console.clone()))
    }

    async fn prefetch(&self, _: &GpuPool, _: &Prepared, image: &str, _: &str) -> Result<Option<Prepared>, ProviderError> {
        self.called("prefetch", image).await?;
        Ok(self.read(|s| s.variant.clone()))
    }

    async fn leftovers(&self, _: &str) -> Result<Vec<Leftover>, ProviderError> {
        self.called("leftovers", "").await?;
        Ok(self.read(|s| s.leftovers.clone()))
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        self.called("remove", &leftover.id).await
    }
}
