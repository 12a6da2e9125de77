//! Amazon EC2 as a provider of machines.
//!
//! A pool is [`prepared`](prepare) into a launch template and a subnet for each zone; [`offers`] joins the
//! [`catalog`] of types with [`prices`]; a launch is [`rendered`](render) once and [sent](launch) as one CreateFleet
//! `instant`; [`instances`] are listed by tag and ended by id. [`errors`] gives EC2's codes their classes.
//! Interruptions are [polled](spot_requests) or [received](queue); a launch may [`prefetch`] its job's image.

#![allow(clippy::disallowed_methods)] // answers are cached and calls timed in real time; plans are made in the operator
#![allow(rustdoc::private_intra_doc_links)]

mod cached;
mod catalog;
mod client;
mod console;
mod dead_man;
mod errors;
mod event;
#[cfg(test)]
mod fixtures;
mod image;
mod instances;
mod known;
mod launch;
mod leftovers;
mod network;
mod offers;
mod prefetch;
mod prepare;
mod prices;
mod queue;
mod quota;
mod render;
mod spot_requests;
mod template;
mod user_data;

use async_trait::async_trait;
use cached::Cached;
use catalog::Type;
use client::Clients;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{
    ErrorClass, LaunchCall, Launched, Leftover, Listing, MachineProvider, Notice, NoticeSource, Offer, Prepared, ProviderError, Rendering,
    Terminated,
};
use prices::{OnDemand, Spot};
use std::time::Duration;

/// EC2 in one region, with the credentials that the SDK finds.
pub struct Aws {
    clients: Clients,
    kubernetes: Option<String>,
    known: known::Known,
    left: known::LeftBehind,
    types: Cached<Vec<Type>>,
    spot: Cached<Spot>,
    on_demand: Cached<OnDemand>,
}

impl std::fmt::Debug for Aws {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aws").field("region", &self.clients.region).finish_non_exhaustive()
    }
}

impl Aws {
    /// A provider for `region`, such as `us-east-1`. Credentials and endpoints come from where the AWS SDKs take them
    /// (`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL_EC2`, `AWS_EC2_METADATA_DISABLED`, web identity, instance role).
    ///
    /// # Errors
    /// `Unauthorized` when there are no credentials.
    pub async fn connect(region: &str) -> Result<Aws, ProviderError> {
        Ok(Self::of(Clients::connect(region).await?))
    }

    /// A provider that calls AWS as `config` says: other credentials, or another place. Its timeouts and retries hold.
    ///
    /// # Errors
    /// `Unauthorized` when there are no credentials.
    pub async fn with_config(region: &str, config: &aws_config::SdkConfig) -> Result<Aws, ProviderError> {
        Ok(Self::of(Clients::of(region, config).await?))
    }

    fn of(clients: Clients) -> Aws {
        let day = Duration::from_secs(24 * 3600);
        Aws {
            clients,
            kubernetes: None,
            known: known::Known::default(),
            left: known::LeftBehind::default(),
            types: Cached::new(7 * day),
            // A spot price moves a few times a day; one that is minutes old serves a launch better than a wait.
            spot: Cached::new(Duration::from_secs(300)),
            on_demand: Cached::new(7 * day),
        }
    }

    /// Sets the cluster's version, such as `1.35`: pools that name no image get the newest EKS AL2023 image for it.
    #[must_use]
    pub fn with_kubernetes(mut self, version: &str) -> Self {
        self.kubernetes = Some(version.to_owned());
        self
    }
}

#[async_trait]
impl MachineProvider for Aws {
    async fn prepare(&self, pool: &GpuPool, cluster: &str) -> Result<Prepared, ProviderError> {
        prepare::prepare(&self.clients, &self.known, &self.left, self.kubernetes.as_deref(), pool, cluster).await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        prepare::release(&self.clients, &self.known, pool_uid, cluster).await
    }

    async fn offers(&self, pool: &GpuPool, prepared: &Prepared) -> Result<Vec<Offer>, ProviderError> {
        let prepared = prepare::AwsPrepared::read(prepared)?;
        let types = self.types.get(catalog::fetch(self.clients.clone())).await?;
        let names = types.iter().map(|t| t.name.clone()).collect();
        let (spot, on_demand) = tokio::try_join!(
            self.spot.get(prices::fetch_spot(self.clients.clone(), names)),
            self.on_demand.get(prices::fetch_on_demand(self.clients.clone())),
        )?;
        offers::offers(&pool.spec, &prepared.subnets, &types, &spot, &on_demand)
    }

    fn render(&self, rendering: &Rendering<'_>) -> Result<serde_json::Value, ProviderError> {
        let request = render::render(rendering)?;
        Ok(serde_json::to_value(request).expect("strings and numbers are always JSON"))
    }

    async fn launch(&self, call: &LaunchCall) -> Result<Launched, ProviderError> {
        let answer = launch::launch(&self.clients, call).await;
        if answer.as_ref().is_err_and(|error| error.class == ErrorClass::NotFound) {
            // Nothing happened. What the request names is there again when the caller repeats it.
            self.known.make_again(&self.clients, &call.request).await;
        }
        answer
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        instances::list(&self.clients, cluster).await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        instances::terminate(&self.clients, id).await
    }

    async fn notices(&self, source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        match source {
            NoticeSource::Poll => spot_requests::poll(&self.clients, jiff::Timestamp::now()).await,
            NoticeSource::Queue(queue) => queue::receive(&self.clients, queue).await,
        }
    }

    async fn acknowledge(&self, source: &NoticeSource, notices: &[Notice]) -> Result<(), ProviderError> {
        let NoticeSource::Queue(queue) = source else { return Ok(()) };
        let receipts: Vec<_> = notices.iter().filter_map(|notice| notice.receipt.clone()).collect();
        queue::delete(&self.clients, queue, &receipts).await
    }

    async fn console(&self, id: &str) -> Result<Option<String>, ProviderError> {
        console::read(&self.clients, id).await
    }

    async fn prefetch(&self, _pool: &GpuPool, prepared: &Prepared, image: &str, _cluster: &str) -> Result<Option<Prepared>, ProviderError> {
        // The template that `prepared` names says pool and cluster.
        prefetch::prefetch(&self.clients, &self.known, &self.left, prepared, image).await
    }

    async fn leftovers(&self, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        leftovers::list(&self.clients, cluster).await
    }

    async fn remove(&self, leftover: &Leftover) -> Result<(), ProviderError> {
        leftovers::remove(&self.clients, leftover).await
    }
}
