//! What the cloud does, and does not do, against its own word.

use super::Scenario;
use super::catalog::base;
use crate::cloud::{Failure, Fault, Operation};

/// The end is asked for until the instance is seen to go.
pub(super) fn forgotten_end() -> Scenario {
    Scenario {
        cloud: |cloud| cloud.fault(Fault::next(Operation::Terminate, Failure::Forgotten)),
        ..base("forgotten-end", "the cloud agrees to end the instance and does not: it is told again")
    }
}
