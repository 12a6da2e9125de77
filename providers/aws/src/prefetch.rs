//! A launch template for each image that jobs of a pool run: the pool's own, and a script that has the instance pull the image
//! while its kubelet is still joining.

use crate::client::Clients;
use crate::known::{Known, LeftBehind};
use crate::prepare::AwsPrepared;
use crate::template::{self, TemplateRef};
use gpujob_provider_core::{Prepared, ProviderError};
use std::time::Instant;

const SCRIPT: &str = include_str!("prefetch.sh");
/// Variants that a pool may have at a time. A region holds 5,000 templates by default, for everyone in the account.
const LIMIT: usize = 50;

/// The variant for this image; nothing while launches might not find it yet.
pub(crate) async fn prefetch(
    clients: &Clients,
    known: &Known,
    left: &LeftBehind,
    prepared: &Prepared,
    image: &str,
) -> Result<Option<Prepared>, ProviderError> {
    let prepared = AwsPrepared::read(prepared)?;
    // Not known: this process has not prepared the pool since it started, or the pool has changed. Soon it will have.
    let Some(base) = known.content(&prepared.template).filter(|base| base.prefetch.is_none()) else { return Ok(None) };
    let Some(content) = reference(image).and_then(|image| base.variant(&image)) else { return Ok(None) };
    let name = content.name();
    left.asked(&name, Instant::now());
    if !known.visible(&name) {
        let shown = template::find(clients, &content.cluster, &content.pool_uid).await?;
        if !shown.iter().any(|t| t.name == name) {
            if shown.iter().filter(|t| t.prefetch).count() >= LIMIT {
                tracing::debug!(pool = content.pool, image, "the pool has {LIMIT} templates that prefetch; this image has to wait");
                return Ok(None);
            }
            template::create(clients, &content).await?;
            known.made(content);
            return Ok(None);
        }
        known.seen(content.clone());
    }
    let template = TemplateRef { name, version: "1".to_owned(), prefetch: content.prefetch };
    let variant = AwsPrepared { template, ..prepared };
    Ok(Some(Prepared(serde_json::to_value(variant).expect("strings and numbers are always JSON"))))
}

/// The script for one image. `root` is a prefix of all its paths, empty but in tests.
pub(crate) fn script(image: &str, root: &str) -> String {
    SCRIPT.replace("@IMAGE@", &format!("'{image}'")).replace("@ROOT@", &if root.is_empty() { String::new() } else { format!("'{root}'") })
}

/// The image as containerd wants it: with registry, and with tag or digest. Nothing for what is no reference: the kubelet
/// will say what is wrong with it.
pub(crate) fn reference(image: &str) -> Option<String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-:/@".contains(c);
    if image.is_empty() || image.len() > 512 || image.starts_with(['-', '/']) || image.ends_with('/') || !image.chars().all(allowed) {
        return None;
    }
    let (first, rest) = image.split_once('/').unwrap_or(("", image));
    let named = if first.contains(['.', ':']) || first == "localhost" {
        image.to_owned()
    } else if first.is_empty() {
        format!("docker.io/library/{rest}")
    } else {
        format!("docker.io/{image}")
    };
    let last = named.rsplit('/').next().unwrap_or_default();
    Some(if last.contains([':', '@']) { named } else { format!("{named}:latest") })
}

#[cfg(test)]
#[path = "prefetch_tests.rs"]
mod tests;
