//! The concrete providers. The only place that names one.

use async_trait::async_trait;
use gpujob_provider_aws::Aws;
use gpujob_provider_core::{Clouds, ErrorClass, MachineProvider, ProviderError, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// The providers that are built in, connected on first use.
pub struct BuiltIn {
    connected: Mutex<BTreeMap<Scope, Arc<dyn MachineProvider>>>,
    /// Kubernetes' version, such as `1.35`: images are made for one.
    kubernetes: String,
}

impl BuiltIn {
    /// For a cluster of this version, such as `1.35`.
    #[must_use]
    pub fn new(kubernetes: &str) -> Self {
        BuiltIn { connected: Mutex::default(), kubernetes: kubernetes.to_owned() }
    }
}

#[async_trait]
impl Clouds for BuiltIn {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        if let Some(known) = self.ready(scope) {
            return Ok(known);
        }
        let made: Arc<dyn MachineProvider> = match scope.provider.as_str() {
            "aws" => Arc::new(Aws::connect(&scope.region).await?.with_kubernetes(&self.kubernetes)),
            other => return Err(ProviderError::new(ErrorClass::Invalid, format!("this operator has no provider called {other}"))),
        };
        // Two first users at once: the second one's is dropped.
        Ok(self.connected.lock().expect("no panic holds this lock").entry(scope.clone()).or_insert(made).clone())
    }

    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>> {
        self.connected.lock().expect("no panic holds this lock").get(scope).cloned()
    }
}
