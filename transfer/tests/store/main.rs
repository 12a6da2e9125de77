//! The binary and the S3 client against a real SeaweedFS on loopback.
#![allow(clippy::unwrap_used, clippy::disallowed_methods)]

mod attempt;
mod checkpoints;
mod contract;
mod crashes;
mod double;
mod elsewhere;
mod emulator;
mod faults;
mod faulty;
mod gate;
mod gcs;
mod kept;
mod paths;
mod probes;
mod proxy;
mod race;
mod refusals;
mod soak;
mod tls;
mod unconditional;
mod weed;
