//! Objects that every lab cluster has, and server-side apply for any YAML.

use crate::host::Paths;
use anyhow::{Context, Result};
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::ApiResource;
use serde_json::Value;
use std::fs;

/// How nodes get in (the lab's stand-in for an EKS access entry) and how names are resolved.
const BOOTSTRAP: &str = include_str!("bootstrap.yaml");
/// Kinds that live outside namespaces, of those that manifests here use.
const CLUSTER_SCOPED: [&str; 9] = [
    "Namespace",
    "Node",
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "PriorityClass",
    "RuntimeClass",
    "GpuPool",
    "GpuNode",
];

/// The token that kubelets join with, made once a cluster.
///
/// # Errors
/// The file cannot be read or written.
pub fn bootstrap_token(paths: &Paths) -> Result<String> {
    let file = paths.state.join("bootstrap-token");
    if let Ok(token) = fs::read_to_string(&file) {
        return Ok(token);
    }
    let random: [u8; 11] = rand::random();
    let letters: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let token = format!("{}.{}", &letters[..6], &letters[6..22]);
    fs::write(&file, &token)?;
    Ok(token)
}

/// Applies what every lab cluster has.
///
/// # Errors
/// The API server refuses or does not answer.
pub async fn ensure_objects(client: &kube::Client, paths: &Paths) -> Result<()> {
    let token = bootstrap_token(paths)?;
    let (id, secret) = token.split_once('.').context("a token has two halves")?;
    apply(client, &BOOTSTRAP.replace("TOKEN_ID", id).replace("TOKEN_SECRET", secret)).await
}

/// Server-side apply of every document in a YAML text, in order; namespaced objects without one go to `default`.
///
/// # Errors
/// The YAML is broken, or the API server refuses a document; the error names it.
pub async fn apply(client: &kube::Client, yaml: &str) -> Result<()> {
    for document in documents(yaml)? {
        let object: DynamicObject = serde_json::from_value(document)?;
        let types = object.types.clone().context("a document without apiVersion and kind")?;
        let name = object.metadata.name.clone().context("a document without a name")?;
        let resource = ApiResource::from_gvk(&GroupVersionKind::try_from(&types)?);
        let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
        let api: Api<DynamicObject> = if CLUSTER_SCOPED.contains(&types.kind.as_str()) {
            Api::all_with(client.clone(), &resource)
        } else {
            Api::namespaced_with(client.clone(), namespace, &resource)
        };
        let parameters = PatchParams::apply("gpujob-lab").force();
        api.patch(&name, &parameters, &Patch::Apply(&object)).await.with_context(|| format!("{} {name}", types.kind))?;
    }
    Ok(())
}

/// The documents of a YAML text; empty ones are skipped.
fn documents(yaml: &str) -> Result<Vec<Value>> {
    let parts = yaml.split("\n---").map(|part| part.strip_prefix("---").unwrap_or(part));
    let blank = |part: &&str| part.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    parts.filter(blank).map(|part| Ok(serde_saphyr::from_str(part)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_and_comments_skipped() -> Result<()> {
        let found = documents("# nothing\n---\nkind: A\n---\n# only words\n---\nkind: B\n")?;
        let kinds: Vec<_> = found.iter().map(|document| document["kind"].as_str()).collect();
        assert_eq!(kinds, [Some("A"), Some("B")]);
        Ok(())
    }

    #[test]
    fn what_ships_parses_and_is_named() -> Result<()> {
        for document in documents(BOOTSTRAP)? {
            let object: DynamicObject = serde_json::from_value(document)?;
            assert!(object.metadata.name.is_some() && object.types.is_some());
        }
        Ok(())
    }
}
