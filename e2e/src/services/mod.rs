//! The servers of the lab, each one process on this machine.

pub mod control_plane;
pub mod dns;
pub mod ec2;
pub mod object_store;
pub mod registry;
