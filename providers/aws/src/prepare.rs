//! A pool's settings, checked and made into what launches name: a launch template, and a subnet for each zone.

use crate::client::Clients;
use crate::errors::field;
use crate::known::{Known, LeftBehind};
use crate::template::{self, Content, TemplateRef};
use crate::{image, network, user_data};
use gpujob_crds::GpuPool;
use gpujob_crds::pool::AwsPool;
use gpujob_provider_core::{ErrorClass, Prepared, ProviderError};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Instant;

const DISK_GIB: i32 = 100;
const DISK_TYPE: &str = "gp3";

/// What `status.prepared` of a pool holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AwsPrepared {
    /// The format.
    pub(crate) v: u32,
    pub(crate) region: String,
    pub(crate) template: TemplateRef,
    /// The image that the template names, for people.
    pub(crate) image: String,
    /// Zone -> subnet.
    pub(crate) subnets: BTreeMap<String, String>,
}

impl AwsPrepared {
    const FORMAT: u32 = 1;

    /// Reads what an earlier [`prepare`] wrote.
    pub(crate) fn read(prepared: &Prepared) -> Result<Self, ProviderError> {
        let read: Result<Self, _> = serde_json::from_value(prepared.0.clone());
        match read {
            Ok(read) if read.v == Self::FORMAT => Ok(read),
            Ok(read) => {
                Err(ProviderError::new(ErrorClass::Invalid, format!("status.prepared has format {}: prepare the pool again", read.v)))
            }
            Err(error) => Err(ProviderError::new(ErrorClass::Invalid, format!("status.prepared is not of AWS: {error}"))),
        }
    }
}

/// The AWS part of a pool.
pub(crate) fn settings(pool: &GpuPool) -> Result<&AwsPool, ProviderError> {
    pool.spec.aws.as_ref().ok_or_else(|| field("aws", "is missing"))
}

/// Checks the pool and makes its template, or finds the one that is there.
pub(crate) async fn prepare(
    clients: &Clients,
    known: &Known,
    left: &LeftBehind,
    kubernetes: Option<&str>,
    pool: &GpuPool,
    cluster: &str,
) -> Result<Prepared, ProviderError> {
    let aws = settings(pool)?;
    if aws.region != clients.region {
        return Err(field("aws.region", format!("is {}, and this provider serves {}", aws.region, clients.region)));
    }
    let user_data = user_data::render(pool, aws)?;
    let pool_uid =
        pool.uid().ok_or_else(|| ProviderError::new(ErrorClass::Invalid, "the pool has no UID: it was not read from a cluster"))?;
    let (network, image, shown) = tokio::try_join!(
        network::resolve(clients, &aws.subnets, &aws.security_groups),
        image::resolve(clients, aws.image.as_ref(), kubernetes),
        template::find(clients, cluster, &pool_uid),
    )?;
    let disk = aws.disk.clone().unwrap_or_default();
    let content = Content {
        format: 1,
        cluster: cluster.to_owned(),
        pool: pool.name_any(),
        pool_uid,
        image: image.clone(),
        instance_profile: aws.instance_profile.clone(),
        security_groups: network.security_groups,
        disk_gib: disk.size_gib.unwrap_or(DISK_GIB),
        disk_type: disk.volume_type.unwrap_or_else(|| DISK_TYPE.to_owned()),
        user_data,
        prefetch: None,
    };
    let name = content.name();
    let template = if shown.iter().any(|t| t.name == name) {
        known.seen(content);
        TemplateRef { name, version: "1".to_owned(), prefetch: None }
    } else {
        let template = template::create(clients, &content).await?;
        known.made(content);
        template
    };
    for old in left.due(&template.name, &shown, Instant::now(), jiff::Timestamp::now()) {
        // The pool works without this; the next time is soon enough.
        if let Err(error) = template::remove(clients, &old).await {
            tracing::warn!(template = old, %error, "an old launch template stays");
        }
    }
    let prepared = AwsPrepared { v: AwsPrepared::FORMAT, region: clients.region.clone(), template, image, subnets: network.subnets };
    Ok(Prepared(serde_json::to_value(prepared).expect("strings and numbers are always JSON")))
}

/// Removes all templates of a pool that is gone.
pub(crate) async fn release(clients: &Clients, known: &Known, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
    known.forget_pool(pool_uid);
    for shown in template::find(clients, cluster, pool_uid).await? {
        template::remove(clients, &shown.name).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn foreign_preparations_are_refused() {
        for value in [
            serde_json::json!({}),
            serde_json::json!({"v": 9, "region": "r", "template": {"name": "n", "version": "1"}, "image": "i", "subnets": {}}),
        ] {
            assert_eq!(AwsPrepared::read(&Prepared(value)).unwrap_err().class, ErrorClass::Invalid);
        }
    }
}
