//! The real operator in virtual time.

pub mod clock;
pub mod cloud;
pub mod scenario;
pub mod world;
