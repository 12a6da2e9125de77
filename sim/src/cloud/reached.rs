//! How a process finds the cloud.

use super::FakeCloud;
use super::catalog::REGION;
use super::provider::Machines;
use async_trait::async_trait;
use gpujob_provider_core::{Clouds, ErrorClass, MachineProvider, ProviderError, Scope};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What one process has made of the cloud.
pub(super) struct Reached {
    machines: Arc<Machines>,
    made: AtomicBool,
}

impl Reached {
    pub(super) fn new(cloud: FakeCloud, process: &str) -> Self {
        Reached { machines: Arc::new(Machines { cloud, process: process.to_owned() }), made: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Clouds for Reached {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        if *scope != self.machines.cloud.scope() {
            return Err(ProviderError::new(ErrorClass::Invalid, format!("the fake cloud is aws in {REGION} alone, not {scope:?}")));
        }
        self.made.store(true, Ordering::SeqCst);
        Ok(self.machines.clone())
    }

    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>> {
        let made = self.made.load(Ordering::SeqCst) && *scope == self.machines.cloud.scope();
        made.then(|| self.machines.clone() as Arc<dyn MachineProvider>)
    }
}
