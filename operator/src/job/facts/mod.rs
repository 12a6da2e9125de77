//! Pods and GpuNodes reduced to what a job's plan asks of them.

mod node;
mod pod;

pub use node::NodeFact;
pub use pod::{Container, End, FETCH, PodFact, Role, STAGE};
