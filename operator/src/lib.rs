//! The operator: watches feed caches, caches feed pure plans, plans are acted on by the replica that leads.
//!
//! `watch -> observe -> plan -> act`. Each controller is a folder: [`scheduler`] (one for all pools), [`node`], [`job`],
//! [`pool`], [`notice`]; [`cloud`] lists instances and [`sweep`] removes what nobody owns. Nothing but a task of its own waits for
//! a provider, and every call to one goes through [`throttle`].

pub mod capacity;
pub mod clock;
pub mod cloud;
#[cfg(test)]
pub(crate) mod clouds_test;
pub mod context;
#[cfg(test)]
pub(crate) mod ctx_test;
pub mod drain;
pub mod events;
#[cfg(test)]
mod hang_tests;
pub mod http;
pub mod index;
pub mod job;
pub mod leader;
pub mod metrics;
pub mod node;
pub mod notice;
pub mod outdated;
pub mod pool;
pub mod prefetch;
pub mod providers;
pub mod queue;
pub mod requests;
pub mod reservation;
pub mod run;
pub mod scheduler;
pub mod settings;
pub(crate) mod stalled;
pub mod sweep;
pub mod throttle;
pub mod watch;
