//! A pool's settings, checked and made into what launches name: a launch template, and a subnet for each zone.

use crate::client::Clients;
use crate::errors::field;
use crate::template::{self, Content, Shown, TemplateRef};
use crate::{image, network, user_data};
use gpujob_crds::GpuPool;
use gpujob_crds::pool::AwsPool;
use gpujob_provider_core::{ErrorClass, Prepared, ProviderError};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An unresolved launch is replayed for an hour: for so long a template that pools have left behind must stay.
const KEEP: Duration = Duration::from_secs(3600);
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

/// Templates that this process has seen to be left behind, and since when. Kept in memory only: after a restart they stay
/// an hour longer, which costs nothing.
#[derive(Default)]
pub(crate) struct LeftBehind(Mutex<HashMap<String, Instant>>);

impl LeftBehind {
    /// Those that may go: unused for long enough, and not made just now by someone who knows more than we do.
    fn due(&self, current: &str, shown: &[Shown], now: Instant, wall: jiff::Timestamp) -> Vec<String> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.remove(current);
        let old = |shown: &Shown| shown.created.is_some_and(|at| wall.duration_since(at).as_secs() > KEEP.as_secs().cast_signed());
        let mut due = vec![];
        for template in shown.iter().filter(|t| t.name != current) {
            let first = *since.entry(template.name.clone()).or_insert(now);
            if now.duration_since(first) > KEEP && old(template) {
                due.push(template.name.clone());
            }
        }
        due
    }
}

/// The AWS part of a pool.
pub(crate) fn settings(pool: &GpuPool) -> Result<&AwsPool, ProviderError> {
    pool.spec.aws.as_ref().ok_or_else(|| field("aws", "is missing"))
}

/// Checks the pool and makes its template, or finds the one that is there.
pub(crate) async fn prepare(
    clients: &Clients,
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
    };
    let name = content.name();
    let template = if shown.iter().any(|t| t.name == name) {
        TemplateRef { name, version: "1".to_owned() }
    } else {
        template::create(clients, &content).await?
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
pub(crate) async fn release(clients: &Clients, pool_uid: &str, cluster: &str) -> Result<(), ProviderError> {
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
    fn templates_outlive_the_launches_that_may_name_them() {
        let (left, start, wall) = (LeftBehind::default(), Instant::now(), jiff::Timestamp::from_second(1_800_000_000).unwrap());
        let shown = |name: &str, age: i64| Shown { name: name.into(), created: jiff::Timestamp::from_second(1_800_000_000 - age).ok() };
        let both = [shown("new", 10), shown("old", 90_000)];
        assert!(left.due("new", &both, start, wall).is_empty(), "left behind just now");
        assert!(left.due("new", &both, start + KEEP, wall).is_empty());
        assert_eq!(left.due("new", &both, start + 2 * KEEP, wall), ["old"]);
        assert!(left.due("old", &both, start + 2 * KEEP, wall).is_empty(), "the pool went back to it");
        assert!(left.due("new", &both, start + 2 * KEEP, wall).is_empty(), "and left it again");
    }

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
