//! What nobody owns is ended or removed: instances after every listing, disks and templates every few minutes and after a GpuNode or
//! pool has ended.
//!
//! The cloud is listed before the cluster is read, and the cluster is read from the API server, never from a cache: a GpuNode exists
//! before anything is made for it, so what the second look does not find was not there. A listing that failed proves nothing; one
//! that is incomplete shows what is there, and what is there and unowned goes.

mod instances;
mod leftovers;
mod plan;

pub use instances::{is_owned, sweep};
pub use leftovers::run;
