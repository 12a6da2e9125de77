//! Things in a cloud, other than instances, that the operator made or had made and that may outlive their use.

use jiff::Timestamp;

/// What kind of thing it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftoverKind {
    /// A disk that no instance uses.
    Volume,
    /// A launch template, or its like: the base of a pool or one that prefetches an image.
    Template,
}

/// One such thing. Whether it may go is decided by the operator, who knows pools and GpuNodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// What kind.
    pub kind: LeftoverKind,
    /// The provider's id.
    pub id: String,
    /// Its name, where launch requests name it so.
    pub name: String,
    /// The UID of the pool that it was made for, from its tags.
    pub pool_uid: Option<String>,
    /// The UID of the GpuNode that it was made for, from its tags.
    pub node_uid: Option<String>,
    /// When it was made.
    pub created: Option<Timestamp>,
}
