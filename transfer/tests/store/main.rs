//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod attempt;
mod checkpoints;
mod checks;
mod contract;
mod crashes;
mod double;
mod elsewhere;
mod emulator;
mod gate;
mod gcs;
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
