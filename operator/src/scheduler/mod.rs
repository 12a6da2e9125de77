//! One scheduler for all pools: which job gets which node, and what is bought for those that get none.
//!
//! ```text
//!  observe: jobs that wait, nodes, offers, what is remembered of them
//!     |
//!     v  jobs by priority and age, each in its class (what it wants, its step on the ladder, its hurry)
//!  seats: a free GPU that fits? -- yes --> reserve there, the fullest node first
//!     | no
//!     v
//!  offers: the least expected cost within all limits? -- yes --> one intent, with all jobs that fit beside it
//!     | no
//!     v
//!  why: said to the job, with what was tried and when the next try is
//! ```
//! Only reservations and GpuNodes are written here; the node controller sends the launch.

mod act;
#[doc(hidden)]
pub mod bench;
mod cost;
mod demand;
mod ladder;
mod observe;
mod offers;
mod outbox;
mod plan;
mod room;
mod seats;
mod tell;
mod why;
#[cfg(test)]
mod worlds;

pub use act::{Scheduler, run};
