//! `cargo lab fault`: what goes wrong on purpose. Each is one row of the EC2 layer's list, or one call to it.

use crate::host::Paths;
use crate::services::ec2::Control;
use crate::{cluster, operator};
use anyhow::Result;
use clap::Subcommand;
use serde_json::{Map, Value, json};

/// The namespace of the operator.
pub const OPERATOR_NAMESPACE: &str = "gpujob-system";

/// One fault. Absent filters fit everything; wildcards are allowed in types and zones.
#[derive(Debug, Clone, Subcommand)]
pub enum Fault {
    /// This many instances can be had of what fits, then capacity errors: `capacity --type 'g6.*' --zone us-east-1a`
    Capacity {
        /// How many instances there are in each pool
        #[arg(default_value_t = 0)]
        available: u32,
        /// Of which pools or launches
        #[command(flatten)]
        which: Which,
        /// The error code instead of InsufficientInstanceCapacity
        #[arg(long)]
        error: Option<String>,
    },
    /// The account may run this many vCPUs of a family: `quota --market spot --family G 8`
    Quota {
        /// The limit
        vcpus: u32,
        /// spot or on-demand
        #[arg(long, default_value = "spot")]
        market: String,
        /// Instance family letter; all when absent
        #[arg(long)]
        family: Option<String>,
    },
    /// Calls of an action are limited: `throttle CreateFleet --rate 0.5 --burst 1`
    Throttle {
        /// The action, or * for each
        #[arg(default_value = "*")]
        action: String,
        /// Calls a second
        #[arg(long, default_value_t = 1.0)]
        rate: f64,
        /// Calls at once
        #[arg(long, default_value_t = 1.0)]
        burst: f64,
    },
    /// New instances are invisible to DescribeInstances for this many seconds
    Lag {
        /// Seconds
        #[arg(default_value_t = 10.0)]
        seconds: f64,
    },
    /// The spot price from now on: `price g6.xlarge 0.9 --zone us-east-1a`
    Price {
        /// Instance type
        kind: String,
        /// Dollars an hour
        price: f64,
        /// Zone; all when absent
        #[arg(long, default_value = "*")]
        zone: String,
    },
    /// A spot interruption: the notice, and the reclaim when it is over
    Interrupt {
        /// Instance id
        instance: String,
        /// Seconds of notice
        #[arg(long, default_value = "120s", value_parser = seconds)]
        notice: f64,
    },
    /// EC2 recommends to move away from a spot instance: saved work is all that should come of it
    Rebalance {
        /// Instance id
        instance: String,
    },
    /// An instance dies without notice
    Kill {
        /// Instance id
        instance: String,
    },
    /// Instances launched from now on never join the cluster
    NoJoin(Which),
    /// Instances launched from now on never announce their GPUs
    NoGpu(Which),
    /// The volumes of instances launched from now on outlive them
    KeepVolume(Which),
    /// Instances launched from now on take this much longer from containerd's start to the kubelet's
    SlowBoot {
        /// How long
        #[arg(default_value = "30s", value_parser = seconds)]
        longer: f64,
        /// Of which pools or launches
        #[command(flatten)]
        which: Which,
    },
    /// The operator is gone, until `clear`
    NoOperator,
    /// All faults end; prices are the table's again, the operator is back
    Clear,
}

/// Which launches a fault is about.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Which {
    /// Instance type
    #[arg(long = "type")]
    kind: Option<String>,
    /// Zone
    #[arg(long)]
    zone: Option<String>,
    /// spot or on-demand
    #[arg(long)]
    market: Option<String>,
}

impl Which {
    fn row(&self, fault: Value) -> Value {
        let mut row = fault.as_object().cloned().unwrap_or_default();
        put(&mut row, "type", self.kind.as_ref());
        put(&mut row, "zone", self.zone.as_ref());
        put(&mut row, "market", self.market.as_ref());
        Value::Object(row)
    }
}

fn put(row: &mut Map<String, Value>, name: &str, value: Option<&String>) {
    if let Some(value) = value {
        row.insert(name.to_owned(), json!(value));
    }
}

/// `90s`, `2m` or plain seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix('m') {
        Some(minutes) => (minutes, 60.0),
        None => (text.strip_suffix('s').unwrap_or(text), 1.0),
    };
    let number: f64 = number.parse().map_err(|_| format!("{text:?} is no duration; write 90s or 2m"))?;
    if number < 0.0 { Err("a duration is not negative".to_owned()) } else { Ok(number * factor) }
}

impl Fault {
    /// Makes it happen.
    ///
    /// # Errors
    /// The layer or the API server refuses or does not answer.
    pub async fn apply(&self, paths: &Paths) -> Result<()> {
        let control = Control::lab();
        match self {
            Self::Interrupt { instance, notice } => {
                control.post(&format!("instances/{instance}/interrupt"), &json!({"notice": notice})).await.map(drop)
            }
            Self::Rebalance { instance } => control.post(&format!("instances/{instance}/rebalance"), &json!({})).await.map(drop),
            Self::Kill { instance } => {
                let reason = json!({"reason": "Server.InternalError"});
                control.post(&format!("instances/{instance}/kill"), &reason).await.map(drop)
            }
            Self::NoOperator => operator::scale(&cluster::client(paths).await?, 0).await,
            Self::Clear => {
                control.delete("faults").await?;
                operator::scale(&cluster::client(paths).await?, operator::REPLICAS).await
            }
            row => control.fault(&row.row()).await,
        }
    }

    /// Its row in the layer's list.
    fn row(&self) -> Value {
        match self {
            Self::Capacity { available, which, error } => {
                let mut row = which.row(json!({"kind": "capacity", "available": available}));
                if let Some(error) = error {
                    row["error"] = json!(error);
                }
                row
            }
            Self::Quota { vcpus, market, family } => {
                let mut row = json!({"kind": "quota", "market": market, "vcpus": vcpus});
                if let Some(family) = family {
                    row["family"] = json!(family);
                }
                row
            }
            Self::Throttle { action, rate, burst } => json!({"kind": "throttle", "action": action, "rate": rate, "burst": burst}),
            Self::Lag { seconds } => json!({"kind": "lag", "seconds": seconds}),
            Self::Price { kind, price, zone } => json!({"kind": "price", "type": kind, "zone": zone, "price": price}),
            Self::NoJoin(which) => which.row(json!({"kind": "node", "no_join": true})),
            Self::NoGpu(which) => which.row(json!({"kind": "node", "no_gpu": true})),
            Self::SlowBoot { longer, which } => which.row(json!({"kind": "node", "slow_boot_seconds": longer})),
            Self::KeepVolume(which) => which.row(json!({"kind": "node", "keep_volume": true})),
            Self::Interrupt { .. } | Self::Rebalance { .. } | Self::Kill { .. } | Self::NoOperator | Self::Clear => Value::Null,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(seconds("120s"), Ok(120.0));
        assert_eq!(seconds("2m"), Ok(120.0));
        assert_eq!(seconds("5"), Ok(5.0));
        assert!(seconds("soon").is_err() && seconds("-1s").is_err());
    }

    #[test]
    fn rows_hold_only_what_was_given() {
        let which = Which { kind: Some("g6.*".to_owned()), ..Which::default() };
        let row = Fault::Capacity { available: 0, which, error: None }.row();
        assert_eq!(row, json!({"kind": "capacity", "available": 0, "type": "g6.*"}));
        assert_eq!(Fault::NoGpu(Which::default()).row(), json!({"kind": "node", "no_gpu": true}));
    }
}
