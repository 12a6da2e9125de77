//! How capacity is bought, whoever sells it: offers, instances, launches, errors, and the trait that every provider of
//! machines fulfils. A provider crate knows one cloud; the operator knows only this.

pub mod error;
pub mod instance;
pub mod launch;
pub mod leftover;
pub mod notice;
pub mod offer;
pub mod provider;
pub mod rates;

pub use error::{ErrorClass, ProviderError, Refusal};
pub use instance::{Instance, InstanceState, Listing, Terminated};
pub use launch::{LaunchCall, Launched, Rendering, launch_token};
pub use leftover::{Leftover, LeftoverKind};
pub use notice::{Notice, NoticeKind, NoticeSource};
pub use offer::{Demand, Offer};
pub use provider::{Clouds, MachineProvider, Prepared, Scope};
pub use rates::{Rate, Rates};
