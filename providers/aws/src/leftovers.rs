//! What may outlive its use: volumes that no instance has, and launch templates. Found by the cluster's tag.

use crate::client::{Clients, call};
use crate::template::POOL_UID_TAG;
use aws_sdk_ec2::types::{Filter, Tag};
use gpujob_crds::names;
use gpujob_provider_core::{ErrorClass, Leftover, LeftoverKind, ProviderError};
use jiff::Timestamp;

/// All of this cluster in this region.
pub(crate) async fn list(clients: &Clients, cluster: &str) -> Result<Vec<Leftover>, ProviderError> {
    let ours = Filter::builder().name(format!("tag:{}", names::CLUSTER_TAG)).values(cluster).build();
    let (mut found, templates) = tokio::try_join!(volumes(clients, ours.clone()), templates(clients, ours))?;
    found.extend(templates);
    Ok(found)
}

async fn volumes(clients: &Clients, ours: Filter) -> Result<Vec<Leftover>, ProviderError> {
    // A volume that is attached goes with its instance.
    let unused = Filter::builder().name("status").values("available").build();
    let mut pages = clients.ec2.describe_volumes().filters(ours).filters(unused).max_results(500).into_paginator().send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        let page = call("DescribeVolumes", async { page }).await?;
        found.extend(page.volumes().iter().filter_map(|volume| {
            let id = volume.volume_id()?.to_owned();
            let name = tag(volume.tags(), "Name").unwrap_or_default();
            Some(leftover(LeftoverKind::Volume, id, name, volume.tags(), volume.create_time()))
        }));
    }
    Ok(found)
}

async fn templates(clients: &Clients, ours: Filter) -> Result<Vec<Leftover>, ProviderError> {
    let mut pages = clients.ec2.describe_launch_templates().filters(ours).max_results(200).into_paginator().send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        let page = call("DescribeLaunchTemplates", async { page }).await?;
        found.extend(page.launch_templates().iter().filter_map(|template| {
            let id = template.launch_template_id()?.to_owned();
            let name = template.launch_template_name().unwrap_or_default().to_owned();
            Some(leftover(LeftoverKind::Template, id, name, template.tags(), template.create_time()))
        }));
    }
    Ok(found)
}

fn leftover(kind: LeftoverKind, id: String, name: String, tags: &[Tag], made: Option<&aws_smithy_types::DateTime>) -> Leftover {
    Leftover {
        kind,
        id,
        name,
        pool_uid: tag(tags, POOL_UID_TAG),
        node_uid: tag(tags, names::NODE_UID_TAG),
        created: made.and_then(|at| Timestamp::from_second(at.secs()).ok()),
    }
}

fn tag(tags: &[Tag], key: &str) -> Option<String> {
    tags.iter().find(|tag| tag.key() == Some(key)).and_then(|tag| tag.value()).map(str::to_owned)
}

/// Removes one; one that is gone is removed.
pub(crate) async fn remove(clients: &Clients, leftover: &Leftover) -> Result<(), ProviderError> {
    let id = &leftover.id;
    let removed = match leftover.kind {
        LeftoverKind::Volume => call("DeleteVolume", clients.ec2.delete_volume().volume_id(id).send()).await.map(drop),
        LeftoverKind::Template => {
            call("DeleteLaunchTemplate", clients.ec2.delete_launch_template().launch_template_id(id).send()).await.map(drop)
        }
    };
    match removed {
        Ok(()) => tracing::info!(kind = ?leftover.kind, id, name = leftover.name, "removed"),
        Err(error) if error.class == ErrorClass::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
