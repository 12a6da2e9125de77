//! Launch templates: all of a launch that does not change from one to the next. Each pool has a base, and variants of it that
//! prefetch an image. They are named by their content, so that one that is gone can be made again under the name that a
//! recorded launch knows.

use crate::client::{Clients, call};
use crate::user_data::UserData;
use aws_sdk_ec2::types as ec2;
use base64::{Engine, engine::general_purpose::STANDARD};
use gpujob_crds::names;
use gpujob_provider_core::{ErrorClass, ProviderError};
use serde::{Deserialize, Serialize};

/// Tag of a launch template: the UID of its pool, because a pool's name may be used again.
pub(crate) const POOL_UID_TAG: &str = "gpujob.dev/pool-uid";
/// Tag of a launch template: `base` or `prefetch`.
const KIND_TAG: &str = "gpujob.dev/template";
const PREFETCH: &str = "prefetch";
/// Where AL2023 images have their root volume.
const ROOT_DEVICE: &str = "/dev/xvda";

/// What the template says. Its hash is in the template's name.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Content {
    /// Raised when the way that this becomes a template changes.
    pub(crate) format: u32,
    pub(crate) cluster: String,
    pub(crate) pool: String,
    pub(crate) pool_uid: String,
    pub(crate) image: String,
    pub(crate) instance_profile: String,
    pub(crate) security_groups: Vec<String>,
    pub(crate) disk_gib: i32,
    pub(crate) disk_type: String,
    pub(crate) user_data: UserData,
    /// The image that is pulled at boot; none in a base.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) prefetch: Option<String>,
}

/// A user's script may hold secrets.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("name", &self.name()).field("image", &self.image).finish_non_exhaustive()
    }
}

/// A template as launches name it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TemplateRef {
    pub(crate) name: String,
    pub(crate) version: String,
    /// The image that it prefetches: with the pool's base, all that it takes to make the template again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prefetch: Option<String>,
}

impl Content {
    /// `gpujob-<cluster>-<pool>-<hash>`: the same for the same content.
    pub(crate) fn name(&self) -> String {
        let json = serde_json::to_string(self).expect("strings and numbers are always JSON");
        let cluster: String = self.cluster.chars().take(8).collect();
        // A template's name has at most 128 characters.
        let pool: String = self.pool.chars().take(80).collect();
        format!("gpujob-{cluster}-{pool}-{}", names::digest(&[&json], 12))
    }

    /// The same, and the image is pulled while the kubelet joins. Nothing when that does not fit.
    pub(crate) fn variant(&self, image: &str) -> Option<Content> {
        Some(Content { user_data: self.user_data.prefetching(image)?, prefetch: Some(image.to_owned()), ..self.clone() })
    }

    fn data(&self) -> ec2::RequestLaunchTemplateData {
        let disk = ec2::LaunchTemplateEbsBlockDeviceRequest::builder()
            .volume_size(self.disk_gib)
            .volume_type(ec2::VolumeType::from(self.disk_type.as_str()))
            .delete_on_termination(true)
            .encrypted(true)
            .build();
        let metadata = ec2::LaunchTemplateInstanceMetadataOptionsRequest::builder()
            .http_endpoint(ec2::LaunchTemplateInstanceMetadataEndpointState::Enabled)
            .http_tokens(ec2::LaunchTemplateHttpTokensState::Required)
            // Pods with a network of their own are one hop further away: they must not get the node's credentials.
            .http_put_response_hop_limit(1)
            .build();
        ec2::RequestLaunchTemplateData::builder()
            .image_id(&self.image)
            .iam_instance_profile(ec2::LaunchTemplateIamInstanceProfileSpecificationRequest::builder().name(&self.instance_profile).build())
            .set_security_group_ids(Some(self.security_groups.clone()))
            .block_device_mappings(ec2::LaunchTemplateBlockDeviceMappingRequest::builder().device_name(ROOT_DEVICE).ebs(disk).build())
            .metadata_options(metadata)
            .instance_initiated_shutdown_behavior(ec2::ShutdownBehavior::Terminate)
            .user_data(STANDARD.encode(self.user_data.to_string()))
            .build()
    }
}

/// A template of ours that the cloud shows.
#[derive(Clone, Debug)]
pub(crate) struct Shown {
    pub(crate) name: String,
    pub(crate) created: Option<jiff::Timestamp>,
    /// Whether it is a variant that prefetches.
    pub(crate) prefetch: bool,
}

/// The templates with these tags.
pub(crate) async fn find(clients: &Clients, cluster: &str, pool_uid: &str) -> Result<Vec<Shown>, ProviderError> {
    let tagged = |key: &str, value: &str| ec2::Filter::builder().name(format!("tag:{key}")).values(value).build();
    let mut pages = clients
        .ec2
        .describe_launch_templates()
        .filters(tagged(names::CLUSTER_TAG, cluster))
        .filters(tagged(POOL_UID_TAG, pool_uid))
        .into_paginator()
        .send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        let page = call("DescribeLaunchTemplates", async { page }).await?;
        found.extend(page.launch_templates.unwrap_or_default().into_iter().filter_map(|t| {
            let created = t.create_time.and_then(|time| jiff::Timestamp::from_second(time.secs()).ok());
            let prefetch = t.tags.iter().flatten().any(|tag| tag.key() == Some(KIND_TAG) && tag.value() == Some(PREFETCH));
            Some(Shown { name: t.launch_template_name?, created, prefetch })
        }));
    }
    Ok(found)
}

/// Makes the template. One of this name has this content, so finding it there is as good.
///
/// The SDK's own token makes its retries safe. A token made of the content would not do: EC2 remembers tokens longer than
/// templates, and would answer with one that was deleted since.
pub(crate) async fn create(clients: &Clients, content: &Content) -> Result<TemplateRef, ProviderError> {
    let name = content.name();
    let tag = |key: &str, value: &str| ec2::Tag::builder().key(key).value(value).build();
    let tags = ec2::TagSpecification::builder()
        .resource_type(ec2::ResourceType::LaunchTemplate)
        .tags(tag(names::CLUSTER_TAG, &content.cluster))
        .tags(tag(names::POOL_TAG, &content.pool))
        .tags(tag(POOL_UID_TAG, &content.pool_uid))
        .tags(tag(KIND_TAG, if content.prefetch.is_some() { PREFETCH } else { "base" }))
        .build();
    let sent = clients
        .ec2
        .create_launch_template()
        .launch_template_name(&name)
        .launch_template_data(content.data())
        .tag_specifications(tags)
        .send();
    match call("CreateLaunchTemplate", sent).await {
        Ok(_) => tracing::info!(template = name, "launch template made"),
        Err(error) if error.message.contains("AlreadyExists") => {}
        Err(error) => return Err(error),
    }
    Ok(TemplateRef { name, version: "1".to_owned(), prefetch: content.prefetch.clone() })
}

/// Removes a template; one that is gone is removed.
pub(crate) async fn remove(clients: &Clients, name: &str) -> Result<(), ProviderError> {
    match call("DeleteLaunchTemplate", clients.ec2.delete_launch_template().launch_template_name(name).send()).await {
        Ok(_) => tracing::info!(template = name, "launch template removed"),
        Err(error) if error.class == ErrorClass::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    pub(crate) fn content() -> Content {
        Content {
            format: 1,
            cluster: "0123456789ab-cluster".into(),
            pool: "spot".into(),
            pool_uid: "p".into(),
            image: "ami-1".into(),
            instance_profile: "node".into(),
            security_groups: vec!["sg-1".into()],
            disk_gib: 100,
            disk_type: "gp3".into(),
            user_data: UserData::new("secret", &["#!/bin/sh\ntrue"]),
            prefetch: None,
        }
    }

    #[test]
    fn names_follow_content() {
        let name = content().name();
        assert!(name.starts_with("gpujob-01234567-spot-") && name.len() == "gpujob-01234567-spot-".len() + 12, "{name}");
        assert_eq!(name, content().name());
        for other in [
            Content { image: "ami-2".into(), ..content() },
            Content { pool_uid: "q".into(), ..content() },
            Content { user_data: UserData::new("other", &[]), ..content() },
            content().variant("registry.example/a:1").unwrap(),
            Content { cluster: "0123456789ab-other".into(), ..content() },
        ] {
            assert_ne!(name, other.name());
        }
        assert!(Content { pool: "p".repeat(253), ..content() }.name().len() <= 128);
    }

    #[test]
    fn user_data_is_not_shown() {
        assert!(!format!("{:?}", content()).contains("secret"));
    }

    #[test]
    fn instances_are_closed_and_leave_nothing() {
        let data = content().data();
        assert_eq!(data.instance_initiated_shutdown_behavior(), Some(&ec2::ShutdownBehavior::Terminate));
        let metadata = data.metadata_options().cloned();
        assert_eq!(metadata.as_ref().and_then(|m| m.http_put_response_hop_limit()), Some(1));
        assert_eq!(metadata.as_ref().and_then(|m| m.http_tokens()), Some(&ec2::LaunchTemplateHttpTokensState::Required));
        let disk = data.block_device_mappings().first().and_then(|d| d.ebs());
        assert_eq!(disk.and_then(|d| d.delete_on_termination()), Some(true));
    }
}
