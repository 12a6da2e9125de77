//! One GpuPool: its settings checked by the provider, its offers kept fresh, its holdings reported.
//!
//! ```text
//!  applied --> Reconciling --prepare: ids resolved, launch template made--> Ready --every minute: offers--> Ready
//!                   | the provider says what is wrong
//!                   v
//!                Stalled (tried again each minute, and at once when the spec changes)
//! ```
//! A question that is not answered within 2 s is asked on beside the looks; after 20 s the status says so. Launches that are refused for what
//! they are make a pool that was accepted Stalled until one goes through.
//!
//! Deleting a pool waits for its GpuNodes, and says so: they get no more work and go as they become empty; then its launch templates go. With
//! `spec.deletion: Refuse` the chart's admission policy refuses the deletion while there are any.

mod act;
mod check;
mod plan;

pub use act::reconcile;
pub use check::Checks;
pub(crate) use plan::LAUNCHES_REFUSED;
