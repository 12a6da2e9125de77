//! One scheduler for all pools: which job gets which node, and what is bought for those that get none.
//!
//! Jobs are served by priority, then age. A free node that fits is taken before anything is bought; what is bought is the
//! cheapest offer that fits, with its near equals in the same request. Only reservations and GpuNodes are written here; the
//! node controller sends the launch.

mod act;
#[doc(hidden)]
pub mod bench;
mod cost;
mod demand;
mod ladder;
mod observe;
mod offers;
mod plan;
mod room;
mod seats;
mod tell;
mod why;
#[cfg(test)]
mod worlds;

pub use act::{Scheduler, run};
