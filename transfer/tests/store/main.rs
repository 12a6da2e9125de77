//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod attempt;
mod checkpoints;
mod contract;
mod crashes;
mod gate;
mod kept;
mod paths;
mod proxy;
mod refusals;
mod soak;
mod weed;
