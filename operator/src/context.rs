//! What every controller is given: the cluster's client, the caches, the clock, and whether this replica leads.

use crate::{
    capacity::Capacity, clock::Clock, cloud::CloudView, events::Recorder, leader::Leadership, metrics::Metrics, outdated::Outdated,
    prefetch::Prefetch, queue::Queues, requests::Requests, settings::Settings, watch::Stores,
};
use gpujob_provider_core::Clouds;
use std::sync::Arc;

/// Shared by all controllers of one process.
#[derive(Clone)]
pub struct Ctx {
    /// The API server.
    pub client: kube::Client,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// The caches, fed by one watch each.
    pub stores: Stores,
    /// Whether this replica may act.
    pub leader: Leadership,
    /// What the operator was told.
    pub settings: Settings,
    /// Where events are told.
    pub recorder: Recorder,
    /// The providers.
    pub clouds: Arc<dyn Clouds>,
    /// What the clouds listed last.
    pub cloud_view: Arc<CloudView>,
    /// What can be bought, and what was refused lately.
    pub capacity: Arc<Capacity>,
    /// Launches that pull an image while they boot.
    pub prefetch: Arc<Prefetch>,
    /// Which cached versions are known to be old.
    pub outdated: Arc<Outdated>,
    /// Where changes are announced.
    pub queues: Queues,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// What the API server was asked.
    pub requests: Requests,
}

impl std::fmt::Debug for Ctx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ctx").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// How long one call to the API server may take. The client retries 429 and 5xx by itself within this time.
pub const API_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

/// A call to the API server with a limit: a server that hangs must not hold a controller.
///
/// # Errors
/// The call's own, or a timeout.
pub async fn within<T>(call: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(API_TIMEOUT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(ApiError::Kube(Box::new(error))),
        Err(_) => Err(ApiError::Timeout),
    }
}

/// Why a call to the API server failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server or the way to it said no.
    #[error("{0}")]
    Kube(#[from] Box<kube::Error>),
    /// No answer in time.
    #[error("the API server did not answer within {} s", API_TIMEOUT.as_secs())]
    Timeout,
}

impl ApiError {
    fn code(&self) -> Option<u16> {
        match self {
            ApiError::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            ApiError::Timeout => None,
        }
    }

    /// What the server said, for people: its own words alone where there are any.
    #[must_use]
    pub fn words(&self) -> String {
        match self {
            ApiError::Kube(error) => match error.as_ref() {
                kube::Error::Api(status) => status.message.clone(),
                other => other.to_string(),
            },
            ApiError::Timeout => self.to_string(),
        }
    }

    /// Somebody else wrote first: look again. 409 is also the answer to a POST of something that exists.
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// The object is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }
}
