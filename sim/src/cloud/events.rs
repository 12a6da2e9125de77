//! What happens to instances, in order: what a world of kubelets lives by.

use jiff::Timestamp;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// It was made: it is pending.
    Launched,
    /// It has booted.
    Running,
    /// EC2 says that it will be taken back at this time, if not earlier.
    Noticed(Timestamp),
    /// EC2 says that it is likely to be taken back.
    Rebalance,
    /// It shuts down, for this reason: nothing runs on it any more.
    Ending(String),
    /// It is gone.
    Gone,
}

/// Something that happened to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// From 1, without gaps.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// The instance's id.
    pub instance: String,
    /// What.
    pub what: What,
}
