//! The cluster seen from outside: clients, and objects applied to it.

mod objects;

pub use objects::{apply, bootstrap_token, ensure_objects};

use crate::host::Paths;
use anyhow::{Context, Result};
use kube::config::{KubeConfigOptions, Kubeconfig};

/// A client with the administrator's rights.
///
/// # Errors
/// The lab is down, or its kubeconfig is damaged.
pub async fn client(paths: &Paths) -> Result<kube::Client> {
    let file = paths.kubeconfig("admin");
    let config = Kubeconfig::read_from(&file).with_context(|| format!("no cluster yet ({}); `cargo lab up`", file.display()))?;
    let config = kube::Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(kube::Client::try_from(config)?)
}

/// Whether the API server is ready, all its start hooks included.
///
/// # Errors
/// It is not; the error says why.
pub async fn ready(client: &kube::Client) -> Result<()> {
    let request = hyper::Request::get("/readyz").body(vec![])?;
    let answer = client.request_text(request).await.context("the API server is not ready")?;
    anyhow::ensure!(answer.trim() == "ok", "the API server is not ready: {answer}");
    Ok(())
}
