//! A lab instance: a bundle of namespaces around containerd and a kubelet, that obeys its user data as an EKS AL2023
//! instance does. Killing its first process is termination.
//!
//! ```text
//! EC2 layer ── instance boot ID ──> supervise ID ── nsenter, unshare ──> init ID (pid 1 inside)
//!           <──────── state ───────      │ waits                            │ containerd, shell parts,
//!           ── instance end ID ────────> kills pid 1                        │ kubelet, kube-proxy, GPU plugin
//! ```
//!
//! The supervisor outlives the hook; whoever ends the instance (EC2, a crash, `poweroff` inside), it is the one that
//! clears away and reports. If the supervisor itself was killed, `end` and `down` do the same.

mod boot;
pub mod cgroup;
mod end;
mod event;
mod init;
mod mounts;
mod node;
pub mod node_config;
pub mod user_data;

pub use boot::{boot, boot_system_node, supervise};
pub use end::{clear_away, end, kill_processes};
pub use event::{Event, Faults};
pub use init::run as init;
pub(crate) use node::PAUSE;

/// The always-on node's name among instances.
pub const SYSTEM: &str = "system";
