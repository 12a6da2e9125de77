//! etcd, API server, controller manager and scheduler.

use crate::cluster;
use crate::host::{HOST_IP, Paths, SERVICE_CIDR};
use crate::process::Daemon;
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use std::process::Command;
use std::time::Duration;

/// Not etcd's usual ports: another etcd on this machine is none of our business.
const ETCD_CLIENT: &str = "http://127.0.0.1:12379";
const ETCD_PEER: &str = "http://127.0.0.1:12380";

/// The processes, in the order in which they start.
pub const SERVERS: [&str; 4] = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];

/// Starts what does not run and waits until the cluster can make service accounts, so pods too.
///
/// # Errors
/// A part does not come up; the error ends with its last words.
pub async fn ensure_running(paths: &Paths) -> Result<kube::Client> {
    start(paths, "etcd", etcd(paths))?;
    start(paths, "kube-apiserver", api_server(paths))?;
    let client = cluster::client(paths).await?;
    until("the API server", Duration::from_secs(60), || async {
        for server in &SERVERS[..2] {
            Daemon::server(paths, server).living()?;
        }
        cluster::ready(&client).await
    })
    .await?;
    // Only now: before the API server has bootstrapped RBAC, both read a ConfigMap they may not, and end for good.
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), "default");
    until("the controller manager", Duration::from_secs(60), || async {
        start(paths, "kube-controller-manager", controller_manager(paths))?;
        start(paths, "kube-scheduler", scheduler(paths))?;
        accounts.get("default").await.context("no default service account yet")?;
        Ok(())
    })
    .await?;
    Ok(client)
}

/// Restarts the controller manager without the controllers that mind kubelets which do not answer: for load tests, whose kubelets
/// send no heartbeats. `down` and `up` bring them back.
///
/// # Errors
/// It cannot be started.
pub async fn without_node_lifecycle(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, "kube-controller-manager");
    daemon.stop(Duration::from_secs(5)).await;
    let mut command = controller_manager(paths);
    // Of a flag that is given twice the last one counts.
    command.arg("--controllers=*,tokencleaner,-node-lifecycle-controller,-taint-eviction-controller,-pod-garbage-collector-controller");
    daemon.start(&command)?;
    Ok(())
}

fn start(paths: &Paths, name: &str, command: Command) -> Result<()> {
    let daemon = Daemon::server(paths, name);
    if daemon.pid().is_none() {
        daemon.start(&command)?;
    }
    Ok(())
}

/// Whether all four run and the API server answers.
///
/// # Errors
/// The first that does not.
pub async fn healthy(paths: &Paths) -> Result<()> {
    for server in SERVERS {
        ensure!(Daemon::server(paths, server).pid().is_some(), "{server} does not run");
    }
    cluster::ready(&cluster::client(paths).await?).await
}

fn program(paths: &Paths, name: &str, flags: &[(&str, &str)]) -> Command {
    let mut command = Command::new(paths.bin(name));
    command.args(flags.iter().map(|(flag, value)| format!("--{flag}={value}")));
    command
}

fn etcd(paths: &Paths) -> Command {
    let data = paths.state.join("etcd");
    let flags = [
        ("data-dir", &*data.to_string_lossy()),
        ("listen-client-urls", ETCD_CLIENT),
        ("advertise-client-urls", ETCD_CLIENT),
        ("listen-peer-urls", ETCD_PEER),
        ("initial-advertise-peer-urls", ETCD_PEER),
        ("initial-cluster", "default=http://127.0.0.1:12380"),
        // The lab's data is worth nothing after a power cut, and fsync is most of an API write's time.
        ("unsafe-no-fsync", "true"),
        ("log-level", "warn"),
    ];
    program(paths, "etcd", &flags)
}

fn api_server(paths: &Paths) -> Command {
    let pki = |name: &str| paths.pki(name).to_string_lossy().into_owned();
    let flags = [
        ("etcd-servers", ETCD_CLIENT),
        ("bind-address", HOST_IP),
        ("advertise-address", HOST_IP),
        ("secure-port", "6443"),
        ("tls-cert-file", &pki("apiserver.crt")),
        ("tls-private-key-file", &pki("apiserver.key")),
        ("client-ca-file", &pki("ca.crt")),
        ("service-account-issuer", "https://kubernetes.default.svc.cluster.local"),
        ("service-account-key-file", &pki("service-accounts.pub")),
        ("service-account-signing-key-file", &pki("service-accounts.key")),
        ("service-cluster-ip-range", SERVICE_CIDR),
        ("authorization-mode", "Node,RBAC"),
        ("enable-admission-plugins", "NodeRestriction"),
        ("enable-bootstrap-token-auth", "true"),
        ("allow-privileged", "true"),
        ("kubelet-client-certificate", &pki("admin.crt")),
        ("kubelet-client-key", &pki("admin.key")),
        ("kubelet-preferred-address-types", "InternalIP"),
        ("shutdown-delay-duration", "0s"),
    ];
    program(paths, "kube-apiserver", &flags)
}

fn controller_manager(paths: &Paths) -> Command {
    let pki = |name: &str| paths.pki(name).to_string_lossy().into_owned();
    let kubeconfig = paths.kubeconfig("controller-manager").to_string_lossy().into_owned();
    let flags = [
        ("kubeconfig", &*kubeconfig),
        ("authentication-kubeconfig", &kubeconfig),
        ("authorization-kubeconfig", &kubeconfig),
        ("cluster-signing-cert-file", &pki("ca.crt")),
        ("cluster-signing-key-file", &pki("ca.key")),
        ("root-ca-file", &pki("ca.crt")),
        ("service-account-private-key-file", &pki("service-accounts.key")),
        ("use-service-account-credentials", "true"),
        ("controllers", "*,tokencleaner"),
        ("leader-elect", "false"),
        // A dead instance's node is NotReady after 20 s rather than 50: tests wait for it.
        ("node-monitor-grace-period", "20s"),
        ("node-monitor-period", "2s"),
        ("bind-address", "127.0.0.1"),
    ];
    program(paths, "kube-controller-manager", &flags)
}

fn scheduler(paths: &Paths) -> Command {
    let kubeconfig = paths.kubeconfig("scheduler").to_string_lossy().into_owned();
    let flags = [
        ("kubeconfig", &*kubeconfig),
        ("authentication-kubeconfig", &kubeconfig),
        ("authorization-kubeconfig", &kubeconfig),
        ("leader-elect", "false"),
        ("bind-address", "127.0.0.1"),
    ];
    program(paths, "kube-scheduler", &flags)
}
