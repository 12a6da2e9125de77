//! Warnings that instances will be taken back: asked for while there is something that could be taken, recorded, and acted on.
//!
//! ```text
//!  spot instances in a scope ──> its sources are read: EC2's answer every 4 s, or the pool's queue
//!        interruption: recorded on the GpuNode (compare-and-set), the offer's record is marked
//!            └──> node: cordon, given back when empty     job: attempt interrupted, pod deleted with the time that is left
//!            └──> scheduler: nothing new there, the next attempt's place is bought at once
//!        interruption or rebalance: the attempts' pods are told to save a checkpoint
//!        recorded, or nobody's here: the queue may forget it
//! ```
//! Each source has a task of its own, so one that hangs delays no other, and so has each node that is told of: its pods are asked within
//! 2 s or not at all. Only the leader reads: a follower would take messages
//! off a queue that it may not act on.

mod act;
mod follow;
mod observe;
mod plan;

pub use act::run;
