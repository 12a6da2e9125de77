//! The lab's cloud (moto and the layer in `e2e/ec2`), and its control calls. Their shapes: `e2e/ec2/README.md`.

use crate::host::{AWS_ENDPOINT, HOST_IP, Paths};
use crate::http;
use crate::process::Daemon;
use crate::progress::until;
use anyhow::{Context, Result};
use hyper::Method;
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

/// Its name among the lab's servers.
pub const SERVER: &str = "ec2";
/// The administrator's access key and secret, the same for object storage.
pub const ADMINISTRATOR: (&str, &str) = ("lab", "lab-secret");

/// Starts it unless it runs, with our own program as the hook that boots and ends instances.
///
/// # Errors
/// It cannot be started.
pub fn start(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    if daemon.pid().is_some() {
        return Ok(());
    }
    let mut command = Command::new(paths.venv("python"));
    command.args(["-m", "ec2", "--bind", HOST_IP, "--port", "4566", "--instance-hook"]).arg(paths.bin("gpujob-lab"));
    command.arg("--state-dir").arg(paths.state.join("ec2"));
    command.arg("--console-log").arg(paths.instance("{id}").join("log/console.log"));
    command.current_dir(paths.repository.join("e2e")).env("PYTHONDONTWRITEBYTECODE", "1");
    daemon.start(&command)?;
    Ok(())
}

/// Waits until it answers.
///
/// # Errors
/// It ended, or takes longer than half a minute.
pub async fn ready(paths: &Paths) -> Result<()> {
    let daemon = Daemon::server(paths, SERVER);
    until("EC2", Duration::from_secs(30), || async {
        daemon.living()?;
        Control::lab().get("health").await.map(drop)
    })
    .await
}

/// The control calls of the layer: what the lab may see and do that no AWS customer can.
#[derive(Debug, Clone)]
pub struct Control {
    endpoint: String,
}

impl Control {
    /// That of this machine's lab.
    pub fn lab() -> Self {
        Self { endpoint: AWS_ENDPOINT.to_owned() }
    }

    /// GET `/_lab/PATH`.
    ///
    /// # Errors
    /// Nobody answers, or not with success.
    pub async fn get(&self, path: &str) -> Result<Value> {
        http::get_json(&format!("{}/_lab/{path}", self.endpoint)).await
    }

    /// POST `/_lab/PATH`.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        http::send_json(Method::POST, &format!("{}/_lab/{path}", self.endpoint), body).await
    }

    /// DELETE `/_lab/PATH`.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub async fn delete(&self, path: &str) -> Result<Value> {
        http::send_json(Method::DELETE, &format!("{}/_lab/{path}", self.endpoint), &Value::Null).await
    }

    /// Every instance ever launched, dead ones included.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub async fn instances(&self) -> Result<Vec<Value>> {
        let answer = self.get("instances").await?;
        answer.as_array().cloned().context("instances are a list")
    }

    /// Those that are not terminated: what costs money or still may.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub async fn live_instances(&self) -> Result<Vec<Value>> {
        let all = self.instances().await?;
        Ok(all.into_iter().filter(|instance| instance["state"] != "terminated").collect())
    }

    /// Tells how an instance fares: `running`, `shutting-down` or `terminated`.
    ///
    /// # Errors
    /// As [`Control::get`]; also for an instance that is not known.
    pub async fn report(&self, id: &str, state: &str, reason: Option<&str>) -> Result<()> {
        let mut body = json!({"state": state});
        if let Some(reason) = reason {
            body["reason"] = json!(reason);
        }
        self.post(&format!("instances/{id}/state"), &body).await.map(drop)
    }

    /// Adds one fault row.
    ///
    /// # Errors
    /// As [`Control::get`]; a row that makes no sense is refused with a sentence.
    pub async fn fault(&self, row: &Value) -> Result<()> {
        self.post("faults", row).await.map(drop)
    }

    /// An IAM user held to a policy: access key and secret. The same name again keeps its key.
    ///
    /// # Errors
    /// As [`Control::get`].
    pub async fn user(&self, name: &str, policy: &Value) -> Result<(String, String)> {
        let user = self.post("users", &json!({"name": name, "policy": policy})).await?;
        let text = |field: &str| user[field].as_str().map(str::to_owned).with_context(|| format!("a user has {field}"));
        Ok((text("access_key")?, text("secret_key")?))
    }
}
