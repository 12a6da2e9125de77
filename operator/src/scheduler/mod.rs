//! One scheduler for all pools: which job gets which node, and what is bought for those that get none.
//!
//! Jobs are served by priority, then age. A free node that fits is taken before anything is bought; what is bought is the
//! cheapest offer that fits, with its near equals in the same request. Only reservations and GpuNodes are written here; the
//! node controller sends the launch.

mod act;
mod demand;
mod observe;
mod offers;
mod plan;

pub use act::{Scheduler, run};
