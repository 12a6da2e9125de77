//! One GpuPool: its settings checked by the provider, its offers kept fresh, its holdings reported.
//!
//! ```text
//!  applied --> Reconciling --prepare: ids resolved, launch template made--> Ready --every minute: offers--> Ready
//!                   | the provider says what is wrong
//!                   v
//!                Stalled (tried again each minute, and at once when the spec changes)
//! ```
//! Deleting a pool waits for its GpuNodes: they get no more work and go as they become empty; then its launch templates go. With
//! `spec.deletion: Refuse` the chart's admission policy refuses the deletion while there are any.

mod act;
mod plan;

pub use act::reconcile;
