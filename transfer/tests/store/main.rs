//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod apart;
mod attempt;
mod checkpoints;
mod contract;
mod crashes;
mod double;
mod gate;
mod kept;
mod owners;
mod paths;
mod probes;
mod proxy;
mod race;
mod refusals;
mod resumed;
mod sample;
mod soak;
mod unconditional;
mod weed;
