//! Warnings that an instance will be taken back.

use jiff::Timestamp;

/// What the provider warns of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeKind {
    /// The instance will be taken: end its work now.
    Interruption,
    /// It is more likely to be taken than others: save a checkpoint, and go on.
    Rebalance,
}

/// One warning about one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The provider's id of the instance.
    pub instance: String,
    /// What it is.
    pub kind: NoticeKind,
    /// When the instance will be gone, where the provider says so. EC2 gives two minutes, at best effort.
    pub at: Option<Timestamp>,
    /// The provider's own word, such as `marked-for-termination`.
    pub code: String,
    /// What [`crate::MachineProvider::acknowledge`] needs to have a queue forget it. None for those that were polled.
    pub receipt: Option<String>,
}

/// Where notices are read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NoticeSource {
    /// Asked of the provider's API: every few seconds, while there is something that could be taken.
    Poll,
    /// A queue that the provider writes to, by its address. A read of it waits until something comes, at most 20 s.
    Queue(String),
}
