//! One GpuPool: its settings checked by the provider, its offers kept fresh, its holdings reported.
//!
//! ```text
//!  applied --> Reconciling --prepare: ids resolved, launch template made--> Ready --every minute: offers--> Ready
//!                   | the provider says what is wrong
//!                   v
//!                Stalled (tried again each minute, and at once when the spec changes)
//! ```
//! Deleting a pool waits for its GpuNodes: they drain as they become empty; then its launch templates go.

mod act;
mod plan;

pub use act::reconcile;
