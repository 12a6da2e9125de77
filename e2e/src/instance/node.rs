//! What makes an instance a node: the configuration of containerd, pod network, kubelet and proxy.

use super::node_config::{NodeConfig, merge};
use super::{Event, SYSTEM, cgroup};
use crate::cluster::bootstrap_token;
use crate::host::{POD_CIDR, Paths, REGION, REGISTRY};
use crate::pki;
use anyhow::Result;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// Where containerd listens, inside.
pub(super) const SOCKET: &str = "/run/containerd/containerd.sock";
/// The image of every pod's sandbox; the lab pushes it at `up`.
pub(crate) const PAUSE: &str = "lab/pause:1";
/// As on AL2023.
const KUBELET_CONFIG: &str = "/etc/kubernetes/kubelet/config.json";
const KUBECONFIG: &str = "/var/lib/kubelet/kubeconfig";
const BOOTSTRAP_KUBECONFIG: &str = "/var/lib/kubelet/bootstrap-kubeconfig";
const AUTHORITY: &str = "/etc/kubernetes/pki/ca.crt";

/// containerd, with this instance's folder as its root and the lab's registry as one that speaks plain HTTP. Its settings lie
/// where an AL2023 instance has them, for user data to find.
pub(super) fn containerd(folder: &Path) -> Result<Command> {
    let own = folder.display();
    let settings = Path::new("/etc/containerd");
    let (configuration, registries) = (settings.join("config.toml"), settings.join("certs.d"));
    let server = format!("http://{REGISTRY}");
    let hosts = format!("server = \"{server}\"\n[host.\"{server}\"]\n  capabilities = [\"pull\", \"resolve\"]\n");
    // Every other registry's names are ours too: a sample's `image: cuda-sample` means `REGISTRY/library/cuda-sample` here.
    for name in [REGISTRY, "_default"] {
        let registry = registries.join(name);
        fs::create_dir_all(&registry)?;
        fs::write(registry.join("hosts.toml"), &hosts)?;
    }
    // Without CAP_SYS_RESOURCE a pod's processes cannot be made less likely to be killed than containerd itself.
    fs::write(
        &configuration,
        format!(
            r#"version = 2
root = "{own}/containerd"
state = "/run/containerd/state"
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.native", "io.containerd.snapshotter.v1.zfs", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
  path = "{own}/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{REGISTRY}/{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{own}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
  [plugins."io.containerd.grpc.v1.cri".registry]
    config_path = "{registries}"
"#,
            registries = registries.display()
        ),
    )?;
    let cni = folder.join("cni");
    fs::create_dir_all(&cni)?;
    let pods = fs::read_to_string(folder.join("pods"))?;
    let network = json!({"cniVersion": "0.4.0", "name": "pods", "plugins": [
        {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
         "ipam": {"type": "host-local", "dataDir": folder.join("cni-addresses"), "ranges": [[{"subnet": pods}]],
                  "routes": [{"dst": "0.0.0.0/0"}]}},
        {"type": "portmap", "capabilities": {"portMappings": true}},
    ]});
    fs::write(cni.join("10-pods.conflist"), network.to_string())?;
    let mut command = Command::new("containerd");
    command.arg("--config").arg(configuration);
    Ok(command)
}

/// The kubelet, as the NodeConfig says. It joins with the lab's token, where EKS knows the instance's role.
pub(super) fn kubelet(paths: &Paths, event: &Event, node: &NodeConfig) -> Result<Command> {
    for file in [KUBELET_CONFIG, AUTHORITY] {
        fs::create_dir_all(Path::new(file).parent().unwrap_or(Path::new("/")))?;
    }
    let authority = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, node.cluster.certificate_authority.trim())?;
    fs::write(AUTHORITY, authority)?;
    let user = format!("{{token: \"{}\"}}", bootstrap_token(paths)?);
    let cluster = &node.cluster;
    let text = pki::kubeconfig(&cluster.api_server_endpoint, &cluster.certificate_authority, &user);
    fs::write(BOOTSTRAP_KUBECONFIG, text)?;
    fs::write("/etc/resolv.conf", format!("nameserver {}\n", crate::host::HOST_IP))?;
    fs::write(KUBELET_CONFIG, serde_json::to_vec_pretty(&configuration(event, node)?)?)?;

    let mut command = Command::new(paths.bin("kubelet"));
    command.args([
        format!("--config={KUBELET_CONFIG}"),
        format!("--kubeconfig={KUBECONFIG}"),
        format!("--bootstrap-kubeconfig={BOOTSTRAP_KUBECONFIG}"),
        "--cert-dir=/var/lib/kubelet/pki".to_owned(),
        format!("--hostname-override={}", event.private_dns),
        format!("--node-ip={}", event.ip),
        format!(
            "--node-labels=topology.kubernetes.io/region={REGION},topology.kubernetes.io/zone={},node.kubernetes.io/instance-type={}",
            event.zone, event.kind
        ),
    ]);
    // nodeadm hands flags to systemd, which takes quotes away.
    command.args(node.kubelet.flags.iter().map(|flag| flag.replace('"', "")));
    Ok(command)
}

fn configuration(event: &Event, node: &NodeConfig) -> Result<Value> {
    let low = "1%";
    let mut configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}, "x509": {"clientCAFile": AUTHORITY}},
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup::name(&event.id),
        "clusterDNS": [node.dns()?],
        "clusterDomain": "cluster.local",
        "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
        // Instances share one disk, so its pressure says nothing about any of them.
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": low, "imagefs.available": low, "nodefs.inodesFree": low},
        "failCgroupV1": false,
        "failSwapOn": false,
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "maxOpenFiles": 20000,
        "nodeStatusUpdateFrequency": "5s",
        "oomScoreAdj": 0,
        "resolvConf": "/etc/resolv.conf",
        "rotateCertificates": true,
        "syncFrequency": "10s",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
    });
    if event.id != SYSTEM {
        configuration["providerID"] = json!(format!("aws:///{}/{}", event.zone, event.id));
    }
    merge(&mut configuration, Value::Object(node.kubelet.config.clone()));
    Ok(configuration)
}

/// kube-proxy. Without the conntrack flags it fails on sysctls that a namespace may not write.
pub(super) fn proxy(paths: &Paths, event: &Event) -> Command {
    let mut command = Command::new(paths.bin("kube-proxy"));
    command.arg(format!("--kubeconfig={}", paths.kubeconfig("proxy").display()));
    command.arg(format!("--hostname-override={}", event.private_dns)).arg(format!("--cluster-cidr={POD_CIDR}"));
    command.args(["--proxy-mode=iptables", "--conntrack-max-per-core=0"]);
    command.args(["--conntrack-tcp-timeout-established=0", "--conntrack-tcp-timeout-close-wait=0"]);
    command
}

/// The plugin that announces the type's GPUs.
pub(super) fn gpu_plugin(paths: &Paths, event: &Event) -> Command {
    let mut command = Command::new(paths.bin("gpu-device-plugin"));
    command.args(["--count", &event.gpus.to_string()]);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_data_has_the_last_word_on_the_kubelet() -> Result<()> {
        let event: Event = serde_json::from_value(json!({"id": "i-1", "zone": "us-east-1b"}))?;
        let text = "apiVersion: node.eks.aws/v1alpha1\nkind: NodeConfig\nspec:\n  \
            cluster: {name: a, apiServerEndpoint: e, certificateAuthority: Yw==, cidr: 10.96.0.0/16}\n  \
            kubelet: {config: {syncFrequency: 3s, registerWithTaints: [{key: k, effect: NoExecute}]}}\n";
        let made = configuration(&event, &NodeConfig::merge([text])?)?;
        assert_eq!(made["syncFrequency"], "3s");
        assert_eq!(made["registerWithTaints"][0]["key"], "k");
        assert_eq!(made["providerID"], "aws:///us-east-1b/i-1");
        assert_eq!(made["clusterDNS"][0], "10.96.0.10");
        Ok(())
    }
}
