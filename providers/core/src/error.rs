//! What a provider may answer instead of what was asked. Classes, not strings: each says whether it may have happened,
//! what it speaks of, and when trying again makes sense.

use gpujob_crds::Market;
use std::time::Duration;

/// What kind of answer it was. The scope says what else the same answer would be given for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// No capacity now for this type, zone and market. Others may have some.
    Capacity,
    /// The price is above the limit that was set.
    Price,
    /// The account's quota for this family and market is used up: another zone does not help.
    Quota,
    /// The pool's subnet in this zone has no address left: no type and no market helps there.
    Addresses,
    /// Too many calls. Nothing happened; the same call later.
    Throttled,
    /// The credentials may not do this. A person must change something.
    Unauthorized,
    /// The request is wrong: a person must change the pool. Nothing happened.
    Invalid,
    /// A thing that the request names is not there (yet). Nothing happened; the same call may work later.
    NotFound,
    /// An instance was made and is useless: it must be ended.
    CreatedButFailed {
        /// Its id.
        instance: String,
    },
    /// The same token was used with other parameters: it may have happened. Look, never relaunch.
    Mismatch,
    /// No answer, or one that says nothing: it may have happened. The same call again, then look.
    Unknown,
}

impl ErrorClass {
    /// Whether an instance may exist after this answer.
    #[must_use]
    pub fn may_have_happened(&self) -> bool {
        matches!(self, ErrorClass::CreatedButFailed { .. } | ErrorClass::Mismatch | ErrorClass::Unknown)
    }

    /// Whether the provider has decided against every offer of the request: nothing exists, and other offers may be tried.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, ErrorClass::Capacity | ErrorClass::Price | ErrorClass::Quota | ErrorClass::Addresses)
    }

    /// One CamelCase word for conditions and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            ErrorClass::Capacity => "NoCapacity",
            ErrorClass::Price => "PriceTooLow",
            ErrorClass::Quota => "QuotaExceeded",
            ErrorClass::Addresses => "NoAddresses",
            ErrorClass::Throttled => "Throttled",
            ErrorClass::Unauthorized => "Unauthorized",
            ErrorClass::Invalid => "InvalidConfiguration",
            ErrorClass::NotFound => "NotFound",
            ErrorClass::CreatedButFailed { .. } => "CreatedButFailed",
            ErrorClass::Mismatch => "TokenMismatch",
            ErrorClass::Unknown => "NoAnswer",
        }
    }

    /// How long to wait before the first next try of the same thing; the caller grows it.
    #[must_use]
    pub fn first_wait(&self) -> Duration {
        Duration::from_secs(match self {
            ErrorClass::Throttled | ErrorClass::NotFound => 1,
            ErrorClass::Unknown | ErrorClass::Mismatch | ErrorClass::CreatedButFailed { .. } => 2,
            ErrorClass::Capacity | ErrorClass::Price => 30,
            ErrorClass::Quota | ErrorClass::Addresses => 120,
            ErrorClass::Unauthorized | ErrorClass::Invalid => 60,
        })
    }
}

/// The provider's answer about one offer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `us-east-1a`. Empty when the provider named none.
    pub zone: String,
    /// The market asked.
    pub market: Market,
    /// The provider's own code, such as `InsufficientInstanceCapacity`.
    pub code: String,
    /// Its class.
    pub class: ErrorClass,
}

/// A provider's refusal or failure.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// What kind.
    pub class: ErrorClass,
    /// For people: the provider's code and words, and what to do where that is known.
    pub message: String,
    /// What was said of each offer, where the answer says it.
    pub refusals: Vec<Refusal>,
}

impl ProviderError {
    /// An error about the call as a whole.
    #[must_use]
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        ProviderError { class, message: message.into(), refusals: vec![] }
    }
}
