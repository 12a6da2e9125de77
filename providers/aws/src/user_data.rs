//! What an instance is told at boot: MIME multi-part, as EKS AL2023 takes it. A NodeConfig to join by, the dead-man timer,
//! and the pool's own script.

use crate::dead_man::Deadlines;
use crate::errors::field;
use crate::prefetch;
use base64::{Engine, engine::general_purpose::STANDARD};
use gpujob_crds::names;
use gpujob_crds::pool::{AwsPool, GpuPool};
use gpujob_provider_core::ProviderError;
use kube::ResourceExt;
use serde::{Serialize, Serializer};
use serde_json::json;
use std::fmt;
use std::time::Duration;

/// EC2's limit, before base64.
const LIMIT: usize = 16 * 1024;

/// Makes the node's cache of inputs, before its kubelet makes it for root alone: jobs that run as another user keep theirs there too.
fn cache() -> String {
    format!("#!/bin/sh\nmkdir -p {0} && chmod 1777 {0}", names::CACHE_FOLDER)
}

/// A NodeConfig of `nodeadm`, the program that makes an EKS AL2023 instance join.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NodeConfig<'a> {
    api_version: &'static str,
    kind: &'static str,
    spec: Spec<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    cluster: Cluster<'a>,
    /// Container images are unpacked while they are pulled.
    feature_gates: serde_json::Value,
    kubelet: Kubelet,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Cluster<'a> {
    name: &'a str,
    api_server_endpoint: &'a str,
    certificate_authority: &'a str,
    cidr: &'a str,
}

#[derive(Serialize)]
struct Kubelet {
    config: serde_json::Value,
    flags: Vec<String>,
}

/// A whole user data, in parts. Its text is what [`fmt::Display`] writes.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct UserData {
    /// YAML.
    node_config: String,
    /// Run in this order. The first is the timer.
    shells: Vec<String>,
}

impl UserData {
    #[cfg(test)]
    pub(crate) fn new(node_config: &str, shells: &[&str]) -> Self {
        UserData { node_config: node_config.to_owned(), shells: shells.iter().map(|&shell| shell.to_owned()).collect() }
    }

    /// The same, and this image is pulled meanwhile. Nothing when it is more than EC2 takes.
    pub(crate) fn prefetching(&self, image: &str) -> Option<Self> {
        let mut more = self.clone();
        // After the timer, and before the pool's script, which may take its time.
        more.shells.insert(1.min(more.shells.len()), prefetch::script(image, ""));
        (more.to_string().len() <= LIMIT).then_some(more)
    }
}

impl fmt::Display for UserData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let boundary = format!("gpujob-{}", names::digest(&self.shells.iter().map(String::as_str).collect::<Vec<_>>(), 12));
        write!(f, "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\n\n")?;
        write!(f, "--{boundary}\nContent-Type: application/node.eks.aws\n\n{}\n", self.node_config.trim_end())?;
        for shell in &self.shells {
            let (encoding, body) = if shell.is_ascii() {
                ("", shell.trim_end().to_owned())
            } else {
                ("Content-Transfer-Encoding: base64\n", STANDARD.encode(shell))
            };
            write!(f, "--{boundary}\nContent-Type: text/x-shellscript; charset=\"utf-8\"\n{encoding}\n{body}\n")?;
        }
        writeln!(f, "--{boundary}--")
    }
}

impl Serialize for UserData {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The user data of the pool's instances.
///
/// # Errors
/// `Invalid` when it is larger than EC2 takes.
pub(crate) fn render(pool: &GpuPool, aws: &AwsPool) -> Result<UserData, ProviderError> {
    let lifetime = Duration::from_secs(u64::try_from(pool.spec.max_lifetime()).unwrap_or_default());
    // The timer before the pool's script: a script that never ends must not keep the instance for ever.
    let mut shells = vec![Deadlines::new(&aws.bootstrap.api_server_endpoint, lifetime).installer(), cache()];
    if let Some(script) = aws.bootstrap.user_data.as_deref().filter(|script| !script.trim().is_empty()) {
        // cloud-init runs only what says what runs it.
        shells.push(if script.starts_with("#!") { script.to_owned() } else { format!("#!/bin/bash\n{script}") });
    }
    let data = UserData { node_config: node_config(&pool.name_any(), aws)?, shells };
    let size = data.to_string().len();
    if size > LIMIT {
        let message = format!("the whole user data is {size} bytes, and EC2 takes {LIMIT}: shorten the script");
        return Err(field("aws.bootstrap.userData", message));
    }
    Ok(data)
}

fn node_config(pool: &str, aws: &AwsPool) -> Result<String, ProviderError> {
    let bootstrap = &aws.bootstrap;
    let config = NodeConfig {
        api_version: "node.eks.aws/v1alpha1",
        kind: "NodeConfig",
        spec: Spec {
            cluster: Cluster {
                name: &bootstrap.cluster_name,
                api_server_endpoint: &bootstrap.api_server_endpoint,
                certificate_authority: &bootstrap.certificate_authority,
                cidr: &bootstrap.cidr,
            },
            feature_gates: json!({"FastImagePull": true}),
            kubelet: Kubelet {
                config: json!({"registerWithTaints": [
                    {"key": names::UNREGISTERED_TAINT, "effect": "NoExecute"},
                    {"key": names::GPU_TAINT, "value": "true", "effect": "NoSchedule"},
                ]}),
                // The second label is what NVIDIA's device plugin chart looks for where nothing discovers features.
                flags: vec![format!("--node-labels={}={pool},nvidia.com/gpu.present=true", names::POOL_LABEL)],
            },
        },
    };
    // A certificate on one line, as every example has it.
    let plain = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&config, plain).map_err(|error| field("aws.bootstrap", error))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::fixtures;

    const HEAD: &str = r#"--gpujob-BOUNDARY
Content-Type: application/node.eks.aws

apiVersion: node.eks.aws/v1alpha1
kind: NodeConfig
spec:
  cluster:
    name: lab
    apiServerEndpoint: https://10.77.0.1:6443
    certificateAuthority: Y2E=
    cidr: 10.96.0.0/16
  featureGates:
    FastImagePull: true
  kubelet:
    config:
      registerWithTaints:
      - key: gpujob.dev/unregistered
        effect: NoExecute
      - key: nvidia.com/gpu
        value: "true"
        effect: NoSchedule
    flags:
    - --node-labels=gpujob.dev/pool=spot,nvidia.com/gpu.present=true
--gpujob-BOUNDARY
Content-Type: text/x-shellscript; charset="utf-8"

#!/bin/sh
"#;

    fn boundary(text: &str) -> String {
        text.split('"').nth(1).unwrap().to_owned()
    }

    #[test]
    fn joins_as_al2023_does() {
        let pool = fixtures::pool();
        let text = render(&pool, pool.spec.aws.as_ref().unwrap()).unwrap().to_string();
        let boundary = boundary(&text);
        assert!(text.starts_with(&format!("MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"{boundary}\"\n\n")));
        let text = text.replace(&boundary, "gpujob-BOUNDARY");
        assert!(text.contains(HEAD), "{text}");
        assert!(text.ends_with("\n--gpujob-BOUNDARY--\n"));
        assert!(text.contains("MAX_LIFETIME=604800\n"), "the usual lifetime is a week");
    }

    #[test]
    fn the_node_config_parses_back() {
        let mut pool = fixtures::pool();
        let authority = STANDARD.encode("-----BEGIN CERTIFICATE-----\n".repeat(60));
        pool.spec.aws.as_mut().unwrap().bootstrap.certificate_authority = authority.clone();
        let yaml = node_config("spot", pool.spec.aws.as_ref().unwrap()).unwrap();
        let value: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
        assert_eq!(
            value["spec"]["kubelet"]["config"]["registerWithTaints"][1],
            json!({"key": "nvidia.com/gpu", "value": "true", "effect": "NoSchedule"})
        );
        assert_eq!(value["spec"]["cluster"]["certificateAuthority"], authority);
        assert!(yaml.contains(&format!("certificateAuthority: {authority}\n")), "on one line, however long");
    }

    #[test]
    fn the_pools_script_comes_after_the_timer_and_survives_whole() {
        let mut pool = fixtures::pool();
        let aws = pool.spec.aws.as_mut().unwrap();
        aws.bootstrap.user_data = Some("echo grüße".into());
        let aws = aws.clone();
        let text = render(&pool, &aws).unwrap().to_string();
        let delimiter = format!("--{}", boundary(&text));
        let parts: Vec<_> = text.split(&delimiter).collect();
        assert_eq!(parts.len(), 6, "head, NodeConfig, timer, cache, script, end");
        assert!(parts[2].contains("dead-man") && parts[3].contains(names::CACHE_FOLDER));
        assert!(parts[4].contains("Content-Transfer-Encoding: base64"));
        let body = parts[4].split("\n\n").nth(1).unwrap().trim();
        assert_eq!(String::from_utf8(STANDARD.decode(body).unwrap()).unwrap(), "#!/bin/bash\necho grüße");
    }

    #[test]
    fn an_image_is_pulled_after_the_timer_and_before_the_pools_script() {
        let mut pool = fixtures::pool();
        let aws = pool.spec.aws.as_mut().unwrap();
        aws.bootstrap.user_data = Some("echo own".into());
        let aws = aws.clone();
        let base = render(&pool, &aws).unwrap();
        let text = base.prefetching("registry.example/big:1").unwrap().to_string();
        let place = |what: &str| text.find(what).unwrap();
        assert!(place("GPUJOB_DEAD_MAN") < place("IMAGE='registry.example/big:1'") && place("IMAGE=") < place("echo own"));
        assert!(!base.to_string().contains("registry.example"));
        let full = UserData { shells: vec!["#".repeat(LIMIT - 1000)], ..base };
        assert!(full.prefetching("registry.example/big:1").is_none(), "more than EC2 takes");
    }

    #[test]
    fn too_much_is_refused_before_ec2_does() {
        let mut pool = fixtures::pool();
        let aws = pool.spec.aws.as_mut().unwrap();
        aws.bootstrap.user_data = Some("#".repeat(8192));
        aws.bootstrap.certificate_authority = "Y".repeat(8192);
        let aws = aws.clone();
        let Err(error) = render(&pool, &aws) else { panic!("too much") };
        assert!(error.message.contains("spec.aws.bootstrap.userData"), "{error}");
    }
}
