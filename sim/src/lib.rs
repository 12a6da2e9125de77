//! The real operator in virtual time: the whole of it, its real Kubernetes client included, over an API server, a cloud and kubelets
//! in memory, on tokio's paused clock. No sockets, no threads, no wall clock, nothing random: a schedule replays to the byte.
//!
//! ```text
//!                    faults (wire, provider)                    oracle: sees every write and every instance
//!  process: operator ----------------------> kube: API server <------- world: kubelets, scheduler, controllers
//!           (1 or 2) ----------------------> cloud: EC2 <------------- hardware that boots
//! ```
//! [`run`] plays a [`scenario`] with [`faults`] under the eyes of an [`oracle`]; what happened is a [`timeline`].

pub mod clock;
pub mod cloud;
pub mod faults;
pub mod kube;
pub mod oracle;
pub mod process;
pub mod run;
pub mod scenario;
pub mod signal;
pub mod timeline;
pub mod world;
