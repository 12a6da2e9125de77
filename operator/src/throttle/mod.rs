//! Between the operator and its providers: a limit on how often each kind of call is made, and on how long it may take.
//!
//! Buckets belong to one scope and one kind of call, as the provider's own do: what is throttled in one region delays nothing in
//! another, and launches that wait delay no listing. A call that is not answered in time is an error like any other.

mod bucket;
mod paced;

use crate::metrics::Metrics;
use async_trait::async_trait;
use gpujob_provider_core::{Clouds, ErrorClass, MachineProvider, ProviderError, Scope};
use paced::Paced;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// How long a first connection may take: credentials come from the network.
const CONNECT: Duration = Duration::from_secs(15);

/// Providers that are asked no more often and waited for no longer than they and we can bear.
pub struct Throttled {
    inner: Arc<dyn Clouds>,
    metrics: Arc<Metrics>,
    known: Mutex<BTreeMap<Scope, Arc<Paced>>>,
}

impl std::fmt::Debug for Throttled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Throttled").finish_non_exhaustive()
    }
}

impl Throttled {
    /// Every call through it is timed and counted in `metrics`.
    #[must_use]
    pub fn new(inner: Arc<dyn Clouds>, metrics: Arc<Metrics>) -> Self {
        Throttled { inner, metrics, known: Mutex::default() }
    }

    fn paced(&self, scope: &Scope, provider: Arc<dyn MachineProvider>) -> Arc<dyn MachineProvider> {
        let mut known = self.known.lock().expect("no panic holds this lock");
        known.entry(scope.clone()).or_insert_with(|| Arc::new(Paced::new(scope, provider, self.metrics.clone()))).clone()
    }
}

#[async_trait]
impl Clouds for Throttled {
    async fn machines(&self, scope: &Scope) -> Result<Arc<dyn MachineProvider>, ProviderError> {
        if let Some(ready) = self.ready(scope) {
            return Ok(ready);
        }
        match tokio::time::timeout(CONNECT, self.inner.machines(scope)).await {
            Ok(provider) => Ok(self.paced(scope, provider?)),
            // Nothing was sent yet, so nothing can have happened.
            Err(_) => {
                Err(ProviderError::new(ErrorClass::Throttled, format!("no connection to {} {} in time", scope.provider, scope.region)))
            }
        }
    }

    fn ready(&self, scope: &Scope) -> Option<Arc<dyn MachineProvider>> {
        let provider = self.inner.ready(scope)?;
        Some(self.paced(scope, provider))
    }
}

/// A part of `within` that is always the same for one name and differs between names: spreads what would come at once, and is
/// reproducible.
#[must_use]
pub fn jitter<D: Spread>(name: &str, within: D) -> D {
    let digits = gpujob_crds::names::digest(&[name], 4);
    within.part(u32::from_str_radix(&digits, 16).unwrap_or(0), 0x1_0000)
}

/// A time span that can be divided.
pub trait Spread {
    /// `numerator / denominator` of it.
    #[must_use]
    fn part(self, numerator: u32, denominator: u32) -> Self;
}

impl Spread for Duration {
    fn part(self, numerator: u32, denominator: u32) -> Self {
        self * numerator / denominator
    }
}

impl Spread for jiff::SignedDuration {
    fn part(self, numerator: u32, denominator: u32) -> Self {
        let millis = i64::try_from(self.as_millis()).unwrap_or(i64::MAX);
        Self::from_millis(millis.saturating_mul(numerator.into()) / i64::from(denominator))
    }
}

#[cfg(test)]
#[path = "throttle_tests.rs"]
mod tests;
