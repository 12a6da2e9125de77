//! Stories of one job, told by a cluster in memory, and properties over all of them.
#![allow(clippy::unwrap_used, clippy::panic)]

mod abandoned;
mod clocks;
mod delivered;
mod interrupted;
mod noticed;
mod preflight;
mod released;
mod starting;
mod world;
