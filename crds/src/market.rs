//! How an instance is bought.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A market, in EC2's words. Others' providers map theirs to these two: may it be taken back, or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Market {
    /// Cheap, and may be taken back at two minutes' notice.
    Spot,
    /// Full price, and kept until given back.
    OnDemand,
}

impl Market {
    /// As the API and the cloud write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Market::Spot => "spot",
            Market::OnDemand => "on-demand",
        }
    }
}

impl fmt::Display for Market {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
