//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod attempt;
mod contract;
mod crashes;
mod double;
mod elsewhere;
mod emulator;
mod gcs;
mod paths;
mod probes;
mod proxy;
mod race;
mod refusals;
mod unconditional;
mod weed;
