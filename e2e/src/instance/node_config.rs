//! EKS NodeConfig, as `nodeadm` on AL2023 reads it: how an instance joins which cluster.

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Map, Value};

/// What several NodeConfigs say together.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeConfig {
    /// Which cluster.
    pub cluster: Cluster,
    /// How the kubelet runs.
    pub kubelet: Kubelet,
}

/// `spec.cluster`.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct Cluster {
    /// Its name.
    pub name: String,
    /// Its API server.
    pub api_server_endpoint: String,
    /// Its CA certificate, PEM in base64.
    pub certificate_authority: String,
    /// Its services' addresses; the tenth is the DNS service.
    pub cidr: String,
}

/// `spec.kubelet`.
#[derive(Debug, Clone, Default, Deserialize, PartialEq)]
#[serde(default)]
pub struct Kubelet {
    /// A KubeletConfiguration, merged over the instance's own.
    pub config: Map<String, Value>,
    /// Command line flags.
    pub flags: Vec<String>,
}

impl NodeConfig {
    /// Merges documents in order: the last value wins, mappings merge key by key, flags are appended.
    ///
    /// # Errors
    /// A document is no YAML, no NodeConfig, or the result lacks what joining needs.
    pub fn merge<'a>(documents: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut spec = Value::Object(Map::new());
        let mut flags = vec![];
        for document in documents {
            let document: Value = serde_saphyr::from_str(document).context("a NodeConfig part is no YAML")?;
            let kind = (document["apiVersion"].as_str(), document["kind"].as_str());
            anyhow::ensure!(kind == (Some("node.eks.aws/v1alpha1"), Some("NodeConfig")), "no NodeConfig: {kind:?}");
            let more = document["spec"]["kubelet"]["flags"].as_array().cloned().unwrap_or_default();
            flags.extend(more);
            merge(&mut spec, document["spec"].clone());
        }
        if !flags.is_empty() {
            spec["kubelet"]["flags"] = Value::Array(flags);
        }
        let config: Self = serde_json::from_value(spec).context("a NodeConfig of an unknown shape")?;
        let cluster = &config.cluster;
        for (name, value) in [
            ("name", &cluster.name),
            ("apiServerEndpoint", &cluster.api_server_endpoint),
            ("certificateAuthority", &cluster.certificate_authority),
            ("cidr", &cluster.cidr),
        ] {
            anyhow::ensure!(!value.is_empty(), "NodeConfig: spec.cluster.{name} is missing");
        }
        Ok(config)
    }

    /// The DNS service's address: the tenth of the cluster's services.
    ///
    /// # Errors
    /// `cidr` is no IPv4 range.
    pub fn dns(&self) -> Result<String> {
        let network = self.cluster.cidr.split('/').next().unwrap_or_default();
        let network: std::net::Ipv4Addr = network.parse().with_context(|| format!("NodeConfig cidr {network:?}"))?;
        Ok(std::net::Ipv4Addr::from(u32::from(network) + 10).to_string())
    }
}

/// Merges `over` into `base`: mappings key by key, anything else by replacement.
pub fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: &str = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  cluster: {name: a, apiServerEndpoint: e, certificateAuthority: Yw==, cidr: 10.96.0.0/16}\n  \
        kubelet:\n    config: {maxPods: 5, kubeReserved: {cpu: 1m}}\n    flags: [--node-labels=a=b]\n";

    #[test]
    fn later_parts_win_and_flags_add_up() -> Result<()> {
        let second = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  kubelet:\n    \
            config: {maxPods: 9, registerWithTaints: [{key: k, effect: NoExecute}]}\n    flags: [--v=2]\n";
        let config = NodeConfig::merge([FIRST, second])?;
        assert_eq!(config.cluster.name, "a");
        assert_eq!(config.kubelet.flags, ["--node-labels=a=b", "--v=2"]);
        assert_eq!(config.kubelet.config["maxPods"], 9);
        assert_eq!(config.kubelet.config["kubeReserved"]["cpu"], "1m");
        assert_eq!(config.dns()?, "10.96.0.10");
        Ok(())
    }

    #[test]
    fn what_is_missing_is_named() {
        let error = NodeConfig::merge([FIRST.replace("cidr: 10.96.0.0/16", "").as_str()]);
        assert!(error.is_err_and(|error| error.to_string().contains("cidr")));
        assert!(NodeConfig::merge(["kind: Pod"]).is_err());
    }
}
