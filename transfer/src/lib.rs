//! Moves a GpuJob's data: inputs in, results out, committed exactly once.
//!
//! [`spec`] and [`receipt`] are the contract with the operator. [`epoch`] and [`plan`] are the rules, without I/O.
//! [`store`] is object storage, [`role`] what the subcommands do.

#![allow(clippy::disallowed_methods)] // transfers are timed and backed off in real time; the epoch's state machine takes no time at all
#![forbid(unsafe_code)]

#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business")]
pub mod cache;
#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business; head and budget have none")]
pub mod checkpoint;
pub mod checksum;
#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business; epoch and plan have none")]
pub mod credentials;
pub mod crew;
pub mod epoch;
#[cfg(test)]
mod fuzz;
pub mod manifest;
pub mod plan;
#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business; epoch and plan have none")]
pub mod progress;
pub mod receipt;
#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business; epoch and plan have none")]
pub mod role;
pub mod spec;
pub mod stamp;
#[allow(clippy::disallowed_methods, reason = "does I/O: the clock is its business; epoch and plan have none")]
pub mod store;
