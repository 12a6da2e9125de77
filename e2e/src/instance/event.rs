//! What the EC2 layer tells about an instance.

use crate::host::Paths;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fs;

/// The event of a launch or an end. Fields that the lab does not use are left out.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Event {
    /// `i-…`, or `system`.
    pub id: String,
    /// Instance type.
    #[serde(rename = "type", default)]
    pub kind: String,
    /// GPUs that the type has.
    #[serde(default)]
    pub gpus: u32,
    /// Availability zone.
    #[serde(default)]
    pub zone: String,
    /// `spot` or `on-demand`.
    #[serde(default)]
    pub market: String,
    /// The private address, in the VPC.
    #[serde(default)]
    pub ip: String,
    /// The private DNS name, which is the node's name.
    #[serde(default)]
    pub private_dns: String,
    /// Decoded user data.
    #[serde(default)]
    pub user_data: String,
    /// Why it ends, at the end.
    #[serde(default)]
    pub reason: Option<String>,
    /// What goes wrong on purpose.
    #[serde(default)]
    pub faults: Faults,
}

/// Faults of one boot.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Faults {
    /// The machine runs and its kubelet never starts.
    #[serde(default)]
    pub no_join: bool,
    /// The GPU plugin never starts.
    #[serde(default)]
    pub no_gpu: bool,
    /// Seconds between containerd's start and the kubelet's: where a real instance spends them, on drivers and on joining.
    #[serde(default)]
    pub slow_boot_seconds: f64,
}

impl Event {
    /// The event that an instance was booted with.
    ///
    /// # Errors
    /// There is no such instance.
    pub fn of(paths: &Paths, id: &str) -> Result<Self> {
        let file = paths.instance(id).join("event.json");
        let text = fs::read_to_string(&file).with_context(|| format!("no instance {id}"))?;
        serde_json::from_str(&text).with_context(|| format!("{}", file.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_of_the_layer_is_understood() -> Result<()> {
        let text = r#"{"seq":1,"event":"boot","id":"i-1","type":"g6.xlarge","gpus":1,"zone":"us-east-1a","market":"spot",
            "subnet":"subnet-1","ip":"10.77.16.4","private_dns":"ip-10-77-16-4.ec2.internal","image":"ami-1","user_data":"x",
            "tags":{},"reason":null,"faults":{"no_join":false,"no_gpu":true,"slow_boot_seconds":2}}"#;
        let event: Event = serde_json::from_str(text)?;
        assert!(event.faults.no_gpu && event.gpus == 1 && event.kind == "g6.xlarge");
        Ok(())
    }
}
