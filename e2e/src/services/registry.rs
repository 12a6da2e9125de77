//! The registry that instances pull from, over plain HTTP on the bridge.

use crate::host::{Paths, REGISTRY};
use crate::http;
use crate::process::Daemon;
use crate::progress::until;
use anyhow::Result;
use std::fs;
use std::process::Command;
use std::time::Duration;

/// Its name among the lab's servers.
pub const SERVER: &str = "registry";

/// Starts it unless it runs and waits for its first answer.
///
/// # Errors
/// It does not answer.
pub async fn ensure_running(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    if daemon.pid().is_none() {
        let storage = paths.state.join("registry");
        fs::create_dir_all(&storage)?;
        let configuration = paths.state.join("registry.yaml");
        let root = storage.display();
        fs::write(
            &configuration,
            format!(
                "version: 0.1\nlog: {{level: warn, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {root}}}, delete: {{enabled: true}}}}\n\
                 http: {{addr: \"{REGISTRY}\"}}\n"
            ),
        )?;
        let mut command = Command::new(paths.bin("registry"));
        command.arg("serve").arg(configuration).env("OTEL_TRACES_EXPORTER", "none");
        daemon.start(&command)?;
    }
    until("the registry", Duration::from_secs(20), || async {
        daemon.living()?;
        http::get(&format!("http://{REGISTRY}/v2/")).await.map(drop)
    })
    .await
}
