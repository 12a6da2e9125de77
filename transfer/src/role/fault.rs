//! A role's failure: what the operator turns into a condition.

use crate::progress;
use crate::receipt::{Holder, Outcome, Receipt, Role, reason};
use crate::store::StoreError;
use crate::store::https::HttpsError;

/// Why a role failed, and whether trying again can help.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{reason}: {message}")]
pub struct Fault {
    /// One of [`reason`], or another CamelCase word.
    pub reason: &'static str,
    /// A sentence for people.
    pub message: String,
    /// Whether trying the same again can help.
    pub retryable: bool,
    /// Who holds the destination.
    pub holder: Option<Holder>,
}

impl Fault {
    /// A failure that another try cannot mend.
    pub fn permanent(reason: &'static str, message: String) -> Fault {
        Fault { reason, message, retryable: false, holder: None }
    }

    /// A failure that may pass.
    pub fn passing(reason: &'static str, message: String) -> Fault {
        Fault { reason, message, retryable: true, holder: None }
    }

    /// The request makes no sense.
    pub fn invalid(message: String) -> Fault {
        Fault::permanent(reason::INVALID_SPEC, message)
    }

    /// The attempt has lost its claim.
    pub fn revoked(message: String) -> Fault {
        Fault::permanent(reason::REVOKED, message)
    }

    /// A file on this node's disk could not be written or read.
    pub fn disk(what: &str, error: &std::io::Error) -> Fault {
        use std::io::ErrorKind::{
            AlreadyExists, InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull,
        };
        if matches!(error.kind(), StorageFull | QuotaExceeded) {
            let more = "ask for more ephemeral-storage, or a pool with larger disks";
            return Fault::permanent(reason::DISK_FULL, format!("{what}: no space left; {more}"));
        }
        if matches!(error.kind(), AlreadyExists | NotADirectory | IsADirectory | PermissionDenied | ReadOnlyFilesystem | InvalidFilename) {
            let more = "two names may need it as both file and folder, or inputs[].path cannot take it";
            return Fault::permanent("InputPathUnusable", format!("{what}: {error}; {more}"));
        }
        Fault::passing(reason::INTERNAL, format!("{what}: {error}"))
    }

    /// The receipt of a role that ended this way.
    pub fn receipt(self, role: Role) -> Receipt {
        let outcome = if self.reason == reason::REVOKED { Outcome::Revoked } else { Outcome::Failed };
        progress::say(&format!("{self}"));
        Receipt { reason: self.reason.into(), retryable: self.retryable, holder: self.holder, ..Receipt::new(role, outcome, self.message) }
    }
}

impl From<HttpsError> for Fault {
    fn from(error: HttpsError) -> Fault {
        Fault { reason: error.reason(), retryable: error.class.retryable(), message: error.to_string(), holder: None }
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Fault {
        // The receipt cuts long messages, and what to do next stands at the end.
        let short = |text: &str, limit: usize| {
            let mut cut: String = text.chars().take(limit).collect();
            if cut.len() < text.len() {
                cut.push('…');
            }
            cut
        };
        let error = StoreError { request: short(&error.request, 80), detail: short(&error.detail, 90), ..error };
        Fault { reason: error.class.reason(), message: error.to_string(), retryable: error.class.retryable(), holder: None }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::Class;

    #[test]
    fn a_store_failure_keeps_its_advice_in_the_receipt() {
        let error = StoreError {
            class: Class::InvalidCredentials,
            request: format!("GET s3://bucket/{}", "k".repeat(900)),
            status: 403,
            code: "SignatureDoesNotMatch".into(),
            detail: "x".repeat(900),
        };
        let receipt = Fault::from(error).receipt(Role::Fetch);
        let back = Receipt::parse(&receipt.encode(4)).unwrap();
        assert_eq!((back.reason.as_str(), back.retryable, back.exit_code()), ("InvalidCredentials", false, 2));
        assert!(back.message.ends_with("in the Secret"), "{}", back.message);
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = std::io::Error::from_raw_os_error(28);
        assert_eq!(Fault::disk("/data/x", &full).reason, reason::DISK_FULL);
    }

    #[test]
    fn a_path_that_cannot_be_used_is_no_passing_fault() {
        // EACCES, EEXIST, ENOTDIR, EISDIR, EROFS, ENAMETOOLONG; EIO may pass.
        for (number, retryable) in [(13, false), (17, false), (20, false), (21, false), (30, false), (36, false), (5, true)] {
            let fault = Fault::disk("/data/x", &std::io::Error::from_raw_os_error(number));
            assert_eq!(fault.retryable, retryable, "{fault}");
        }
    }
}
