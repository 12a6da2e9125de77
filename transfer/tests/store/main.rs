//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod attempt;
mod checkpoints;
mod contract;
mod crashes;
mod gate;
mod kept;
mod double;
mod paths;
mod probes;
mod proxy;
mod race;
mod refusals;
mod soak;
mod unconditional;
mod weed;
