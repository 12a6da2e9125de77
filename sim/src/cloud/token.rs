//! Client tokens: the same token and request get the same answer for ever.

use gpujob_provider_core::{Launched, ProviderError};

/// What a token stands for.
#[derive(Clone, Debug)]
pub(super) struct Remembered {
    /// The request that came with it first, with everything that is sent beside it.
    pub(super) request: String,
    /// How that was answered.
    pub(super) answer: Result<Launched, ProviderError>,
}
