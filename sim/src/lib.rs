//! The real operator in virtual time.

pub mod world;
