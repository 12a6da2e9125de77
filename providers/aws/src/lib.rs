//! Amazon EC2 as a provider of machines.
//!
//! A pool is [`prepared`](prepare) into a launch template and a subnet for each zone; [`offers`] joins the
//! [`catalog`] of types with [`prices`]; a launch is [`rendered`](render) once and [sent](launch) as one CreateFleet
//! `instant`; [`instances`] are listed by tag and ended by id. [`errors`] gives EC2's codes their classes.

#![allow(clippy::disallowed_methods)] // answers are cached and calls timed in real time; plans are made in the operator
#![allow(rustdoc::private_intra_doc_links)]

mod cached;
mod catalog;
mod client;
mod dead_man;
mod errors;
#[cfg(test)]
mod fixtures;
mod image;
mod instances;
mod launch;
mod network;
mod offers;
mod prepare;
mod prices;
mod render;
mod template;
mod user_data;

use async_trait::async_trait;
use cached::Cached;
use catalog::Type;
use client::Clients;
use gpujob_crds::GpuPool;
use gpujob_provider_core::{
    LaunchCall, Launched, Leftover, Listing, MachineProvider, Notice, NoticeSource, Offer, Prepared, ProviderError, Rendering, Terminated,
};
use prices::{OnDemand, Spot};
use std::time::Duration;

/// EC2 in one region, with the credentials that the SDK finds.
pub struct Aws {
    clients: Clients,
    kubernetes: Option<String>,
    left: prepare::LeftBehind,
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
            left: prepare::LeftBehind::default(),
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
        prepare::prepare(&self.clients, &self.left, self.kubernetes.as_deref(), pool, cluster).await
    }

    async fn release(&self, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
        prepare::release(&self.clients, pool_uid, cluster).await
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
        launch::launch(&self.clients, call).await
    }

    async fn list(&self, cluster: &str) -> Result<Listing, ProviderError> {
        instances::list(&self.clients, cluster).await
    }

    async fn terminate(&self, id: &str) -> Result<Terminated, ProviderError> {
        instances::terminate(&self.clients, id).await
    }

    async fn notices(&self, _source: &NoticeSource) -> Result<Vec<Notice>, ProviderError> {
        Ok(vec![])
    }

    async fn acknowledge(&self, _source: &NoticeSource, _notices: &[Notice]) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn console(&self, _id: &str) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    async fn prefetch(
        &self,
        _pool: &GpuPool,
        _prepared: &Prepared,
        _image: &str,
        _cluster: &str,
    ) -> Result<Option<Prepared>, ProviderError> {
        Ok(None)
    }

    async fn leftovers(&self, _cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
        Ok(vec![])
    }

    async fn remove(&self, _leftover: &Leftover) -> Result<(), ProviderError> {
        Ok(())
    }
}
