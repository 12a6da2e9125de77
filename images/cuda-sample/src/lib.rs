//! Trains a 64-32-10 network on 8x8 handwritten digits, on a CUDA GPU where one answers and on the CPU elsewhere.
//!
//! The training loop ([`training`]) and the network ([`network`]) are written once against [`device::Device`]; the GPU
//! is reached through the driver API, loaded at run time, and the kernels are PTX text in this crate.

#![allow(clippy::disallowed_methods)] // a sample program that times itself

pub mod arguments;
pub mod checkpoint;
pub mod device;
pub mod digits;
pub mod model;
pub mod network;
pub mod picture;
pub mod random;
pub mod results;
pub mod signals;
pub mod training;

mod font;
