//! The operator: watches feed caches, caches feed pure plans, plans are acted on by the replica that leads.
//!
//! `watch -> observe -> plan -> act`. Each controller is a folder: [`scheduler`] (one for all pools), [`node`], [`job`],
//! [`pool`]; [`cloud`] lists instances and [`sweep`] ends those that nobody owns.

pub mod capacity;
pub mod clock;
pub mod cloud;
pub mod context;
pub mod http;
pub mod job;
pub mod leader;
pub mod metrics;
pub mod node;
pub mod pool;
pub mod providers;
pub mod queue;
pub mod requests;
pub mod reservation;
pub mod run;
pub mod scheduler;
pub mod settings;
pub mod sweep;
pub mod watch;
