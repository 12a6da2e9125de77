//! The API of GpuJob: `gpujob.dev/v1alpha1`, its three kinds, and the names that every part of the product shares.
//!
//! - [`job::GpuJob`]: one piece of GPU work.
//! - [`pool::GpuPool`]: where capacity may come from, and what it may cost.
//! - [`node::GpuNode`]: one instance, from intent to proven termination.
//!
//! The YAML under `crds/yaml` and in the chart is generated from these types by `crdgen` and compared by a test. What the API
//! accepts and refuses is in [`cases`].

#![allow(clippy::duplicated_attributes)] // print columns of one CRD share types and paths
#![allow(unreachable_pub, missing_docs)] // kube's derives make private twins of these types and undocumented kinds

pub mod cases;
pub mod conditions;
pub mod duration;
pub mod generate;
pub mod job;
pub mod job_status;
pub mod market;
pub mod names;
pub mod node;
pub mod pool;
pub mod price;
pub mod template;

pub use job::{GpuJob, GpuJobSpec};
pub use job_status::GpuJobStatus;
pub use market::Market;
pub use node::{GpuNode, GpuNodeSpec, GpuNodeStatus, Reservation};
pub use pool::{GpuPool, GpuPoolSpec, GpuPoolStatus};
pub use price::Price;

/// The API group of all three kinds.
pub const GROUP: &str = "gpujob.dev";
/// The one served and stored version.
pub const VERSION: &str = "v1alpha1";
