//! What goes wrong: [`Fault`]s as data, the [`Director`] that counts, and the layers around a process's client and providers.
//!
//! Reads of the operator are quorum reads, which no API server answers from the past: an old view reaches it through its
//! watches alone, so these are what stalls, loses events and ends.

pub mod asked;
pub mod director;
pub mod fault;
pub mod provider;
mod watching;
pub mod wire;

pub use asked::Asked;
pub use director::Director;
pub use fault::{CallFault, Fault, Happening, Moves};
pub use provider::{WiredClouds, cloud_wrote};
pub use wire::{Died, Transport, Wire, Witness};
