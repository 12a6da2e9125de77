//! One GpuJob: from its reservation to delivered results, attempt by attempt.
//!
//! ```text
//!            reservation on a GpuNode            Node proved: pod            main runs
//!  Waiting ──────────────────────────> Launching ──────────> Starting ───────────────> Running
//!     ^                                    │                     │                        │ exit code on record
//!     │  after backoff, and once the store │                     │                        v
//!     │  is known to hold nothing          │                     │        exit 0     Delivering ──> commit pod ──> Succeeded
//!     │                                    v                     v        undisturbed     │
//!     ├──────── Interrupted <── node lost, spot notice, evicted, deleted, inputs late ────┤ results lost
//!     │         (interruptionLimit)                                                       │
//!     ├──────── Failed once <─────────────── exit code other than 0 ──────────────────────┤
//!     │         (backoffLimit)                                                            v
//!     └── Suspended (counts nowhere)                     last failure, deadline, wrong setting ──> Failed
//! ```
//!
//! After every end of an attempt, each step only when the one before is on record, so that a crash loses none:
//! outcome in `status.attempts` → reservation released → pod's finalizer → (job ended or deleted) job's finalizer.
//! Between two attempts the store is asked what became of the last one ([`plan`], `settle`): only "nothing" buys a node.
//!
//! `observe` reads caches, `plan` is pure, `act` writes. [`next`] is the rule that the scheduler shares.

pub mod act;
pub mod events;
pub mod facts;
pub mod next;
pub mod observe;
pub mod plan;
pub mod pod;

pub use act::{Error, reconcile};
pub use next::{MISFIT, NOT_STARTED, Next, UNSCHEDULABLE, next};
pub use observe::last_ended;
