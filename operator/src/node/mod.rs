//! One GpuNode: from the intent to the proof that nothing is left.
//!
//! ```text
//!  intent written (finalizer in the same POST)
//!    | launch: the recorded request, token from the UID; replays give the same instance
//!    v
//!  Launched ---- a Node with its providerID, name and address joins ----> Registered
//!    |                                                                       | Ready, GPUs allocatable
//!    | definite refusal: nothing exists                                      v
//!    v                                                                    Initialized = Ready
//!  deleted <--- empty for the idle window (DELETE of the very version) ------'
//!    |      <--- never joined, GPUs never came, instance gone
//!    |      <--- notice given: cordoned, and empty (the cloud is not waited for)
//!    v  finalizer: drain, terminate until the cloud says gone, delete the Node
//!  absent
//! ```

mod act;
mod end;
mod observe;
mod plan;
mod send;

pub use act::{Error, reconcile};
pub use send::Launches;
