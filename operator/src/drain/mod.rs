//! Giving everything back before GpuJob is uninstalled: `gpujob-operator drain`, which the chart's pre-delete hook runs.
//!
//! ```text
//! drain ── annotation on the Lease, renewed ──> every replica: nothing is bought or reserved any more,
//!   │                                           every GpuNode is given back, attempts end as on a notice,
//!   │ waits for zero                            finalizers of what holds nothing go
//!   └─ "drained": those that run lead no more until they are deleted; those that start later take no notice
//! ```
//!
//! The order is a sign of life, not a switch: a drain that was killed is over a minute later, and no person has to clear
//! anything away before the next install.

mod order;
mod run;

pub use order::{DRAINED, Order};
pub use run::{Args, run};
