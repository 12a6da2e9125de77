//! The operator under load: thousands of jobs and nodes against the lab's real API server, with kubelets that are only played.
//!
//! What is measured is the operator's own process: its writes (by its own counters), CPU seconds and memory (by `/proc`).

mod burst;
mod cluster;
mod kubelets;
mod operator;
mod report;
mod waiting;

pub use burst::Burst;
pub use operator::Provider;
pub(crate) use operator::{parse, writes};
pub use waiting::Waiting;
