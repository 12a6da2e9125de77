//! Running schedules: one, a crash after every write of every scenario, many made by chance, and the planted bugs.

pub mod exhaustive;
pub mod planted;
pub mod play;
pub mod random;
pub mod schedule;
pub mod threads;

pub use play::play;
pub use schedule::{Schedule, Verdict, Violation};
