//! A real cluster on one machine: the lab, the demo, and what the end-to-end tests stand on.
//!
//! Everything in it is real but the cloud and the GPUs: API server, kubelets that join by TLS bootstrap, containerd that
//! pulls from a registry, object storage that checks checksums. `cargo lab up` starts it, `cargo lab down` removes it.

#![allow(clippy::disallowed_methods)] // the lab works in real time

pub mod cluster;
pub mod command;
pub mod demo;
pub mod down;
pub mod fault;
pub mod host;
pub mod http;
pub mod images;
pub mod install;
pub mod instance;
pub mod lab;
pub mod load;
mod lock;
pub mod measure;
pub mod network;
pub mod operator;
pub mod packages;
pub mod pki;
pub mod process;
pub mod progress;
pub mod publish;
pub mod s3;
pub mod services;
pub mod soak;
pub mod status;
pub mod up;

pub use host::{Missing, prerequisites};
