//! What can go wrong with a store: classes that say whether to try again, and what a person should do.

use std::fmt;

use crate::receipt::reason;

/// Kinds of failure. Each knows whether the same request may succeed later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Keys are missing, unknown, wrong or expired.
    InvalidCredentials,
    /// The keys are right but may not do this.
    AccessDenied,
    /// No such bucket.
    BucketNotFound,
    /// The bucket is in another region than the one that was given.
    WrongRegion,
    /// No such object.
    NotFound,
    /// The object is in an archive, from which nothing is read before somebody restores it.
    Archived,
    /// No such multipart upload: completed, aborted, or never there.
    NoSuchUpload,
    /// A condition of a write did not hold.
    PreconditionFailed,
    /// Another conditional write was under way: read again.
    Conflict,
    /// The store found other bytes than those announced.
    BadDigest,
    /// This machine's clock and the store's differ by too much.
    ClockSkew,
    /// The store asks for fewer requests.
    SlowDown,
    /// The store failed (5xx) or asked to repeat.
    Unavailable,
    /// No connection, no answer in time, or a broken answer.
    Unreachable,
    /// No name server knows the endpoint's host.
    NoSuchHost,
    /// The endpoint has a certificate that is not to be trusted, or speaks no TLS.
    Untrusted,
    /// The store does not know this request.
    NotImplemented,
    /// The store does not check uploads in the way that the job asks for.
    NotHonoured,
    /// The object is larger than what was expected of it.
    TooLarge,
    /// The receiver of a download ended it.
    Stopped,
    /// Anything else that the store refused.
    Refused,
}

/// One request's failure, after its repetitions.
#[derive(Clone, Debug)]
pub struct StoreError {
    /// What kind it is.
    pub class: Class,
    /// What was tried, as `PUT s3://bucket/key`.
    pub request: String,
    /// HTTP status; 0 when there was no answer.
    pub status: u16,
    /// The store's own code, as `NoSuchKey`; empty when it gave none.
    pub code: String,
    /// What it said, or what the operating system said.
    pub detail: String,
}

impl Class {
    /// From an answer's status and code.
    pub fn of(status: u16, code: &str) -> Class {
        match code {
            "InvalidAccessKeyId"
            | "SignatureDoesNotMatch"
            | "ExpiredToken"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidSecurity"
            | "MissingSecurityHeader" => Class::InvalidCredentials,
            "AccessDenied" | "AllAccessDisabled" | "AccountProblem" => Class::AccessDenied,
            "NoSuchBucket" => Class::BucketNotFound,
            "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" => Class::WrongRegion,
            "NoSuchKey" => Class::NotFound,
            // 403, though no right is missing.
            "InvalidObjectState" => Class::Archived,
            "NoSuchUpload" => Class::NoSuchUpload,
            "PreconditionFailed" => Class::PreconditionFailed,
            "ConditionalRequestConflict" | "OperationAborted" => Class::Conflict,
            "BadDigest" | "XAmzContentSHA256Mismatch" | "XAmzContentChecksumMismatch" => Class::BadDigest,
            "RequestTimeTooSkewed" | "RequestExpired" => Class::ClockSkew,
            "SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded" => Class::SlowDown,
            "RequestTimeout" | "InternalError" | "ServiceUnavailable" | "IncompleteBody" => Class::Unavailable,
            "NotImplemented" => Class::NotImplemented,
            _ => match status {
                401 => Class::InvalidCredentials,
                403 => Class::AccessDenied,
                404 => Class::NotFound,
                301 | 307 | 308 => Class::WrongRegion,
                408 => Class::Unavailable,
                409 => Class::Conflict,
                412 => Class::PreconditionFailed,
                429 => Class::SlowDown,
                501 => Class::NotImplemented,
                500..=599 => Class::Unavailable,
                _ => Class::Refused,
            },
        }
    }

    /// Whether the same request is worth repeating at once.
    pub fn repeat(self) -> bool {
        matches!(self, Class::SlowDown | Class::Unavailable | Class::Unreachable | Class::NoSuchHost | Class::BadDigest)
    }

    /// Whether running the role again later can help.
    pub fn retryable(self) -> bool {
        matches!(
            self,
            Class::SlowDown
                | Class::Unavailable
                | Class::Unreachable
                | Class::BadDigest
                | Class::Conflict
                | Class::PreconditionFailed
                | Class::NoSuchUpload
                | Class::ClockSkew
        )
    }

    /// For the receipt.
    pub fn reason(self) -> &'static str {
        match self {
            Class::InvalidCredentials => reason::INVALID_CREDENTIALS,
            Class::AccessDenied => reason::ACCESS_DENIED,
            Class::BucketNotFound => reason::BUCKET_NOT_FOUND,
            Class::WrongRegion => "WrongRegion",
            Class::NotFound => "ObjectNotFound",
            Class::Archived => reason::OBJECT_ARCHIVED,
            Class::BadDigest => reason::CHECKSUM_MISMATCH,
            Class::ClockSkew => "ClockSkew",
            Class::SlowDown | Class::Unavailable => reason::STORE_UNAVAILABLE,
            Class::Unreachable | Class::NoSuchHost => reason::STORE_UNREACHABLE,
            Class::Untrusted => reason::STORE_UNTRUSTED,
            Class::NotImplemented => "StoreUnsupported",
            Class::NotHonoured => reason::INTEGRITY_NOT_HONOURED,
            Class::PreconditionFailed | Class::Conflict | Class::NoSuchUpload => "StoreConflict",
            Class::TooLarge | Class::Stopped | Class::Refused => "StoreRefused",
        }
    }

    /// What a person should do about it at Google Cloud Storage, where that is something else.
    fn next_step_at_google(self) -> Option<&'static str> {
        match self {
            Class::InvalidCredentials => Some("check GOOGLE_APPLICATION_CREDENTIALS in the Secret, or the pod's service account"),
            Class::AccessDenied => Some("grant this account roles/storage.objectUser there"),
            Class::Unreachable => Some("check DNS and the network from the cluster"),
            _ => None,
        }
    }

    /// What a person should do about it.
    pub fn next_step(self) -> &'static str {
        match self {
            Class::InvalidCredentials => "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN in the Secret",
            Class::AccessDenied => {
                "allow these keys s3:GetObject, PutObject, DeleteObject, ListBucket, AbortMultipartUpload, ListMultipartUploadParts there"
            }
            Class::BucketNotFound => "create the bucket or correct the URL",
            Class::WrongRegion => "set AWS_REGION to the bucket's region",
            Class::NotFound => "check the key",
            Class::Archived => "restore the object first (aws s3api restore-object), or copy it to a class that can be read",
            Class::ClockSkew => "set the node's clock",
            Class::SlowDown | Class::Unavailable => "the store is busy or failing: try again later",
            Class::Unreachable => "check AWS_ENDPOINT_URL_S3, DNS and the network from the cluster",
            Class::NoSuchHost => "correct the host's name in AWS_ENDPOINT_URL_S3 or the URL",
            Class::Untrusted => {
                "put its CA as PEM text into the Secret as AWS_CA_BUNDLE, or correct https:// or the host's name in the URL"
            }
            Class::BadDigest => "bytes were damaged on the way, or the file was being written: try again",
            Class::NotImplemented => "use a store that supports this request",
            Class::NotHonoured => "leave integrity out, so that the strongest kind that the store checks is used",
            Class::PreconditionFailed | Class::Conflict | Class::NoSuchUpload => "try again",
            Class::TooLarge | Class::Stopped | Class::Refused => "see the store's answer",
        }
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.request)?;
        match (self.status, self.code.as_str()) {
            (0, _) => {}
            (status, "") => write!(f, "HTTP {status} ")?,
            (status, code) => write!(f, "{code} (HTTP {status}) ")?,
        }
        let google = if self.request.contains("gs://") { self.class.next_step_at_google() } else { None };
        write!(f, "{}; {}", self.detail, google.unwrap_or_else(|| self.class.next_step()))
    }
}

impl std::error::Error for StoreError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes() {
        for (status, code, class, repeat) in [
            (403, "InvalidAccessKeyId", Class::InvalidCredentials, false),
            (403, "SignatureDoesNotMatch", Class::InvalidCredentials, false),
            (400, "ExpiredToken", Class::InvalidCredentials, false),
            (403, "AccessDenied", Class::AccessDenied, false),
            (403, "", Class::AccessDenied, false),
            (404, "NoSuchBucket", Class::BucketNotFound, false),
            (404, "NoSuchKey", Class::NotFound, false),
            (404, "", Class::NotFound, false),
            (403, "InvalidObjectState", Class::Archived, false),
            (404, "NoSuchUpload", Class::NoSuchUpload, false),
            (412, "PreconditionFailed", Class::PreconditionFailed, false),
            (409, "ConditionalRequestConflict", Class::Conflict, false),
            (503, "SlowDown", Class::SlowDown, true),
            (503, "", Class::Unavailable, true),
            (500, "InternalError", Class::Unavailable, true),
            (400, "RequestTimeout", Class::Unavailable, true),
            (501, "NotImplemented", Class::NotImplemented, false),
            (301, "PermanentRedirect", Class::WrongRegion, false),
            (400, "InvalidRequest", Class::Refused, false),
        ] {
            assert_eq!(Class::of(status, code), class, "{status} {code}");
            assert_eq!(class.repeat(), repeat, "{class:?}");
        }
        let at = |request: &str| StoreError {
            class: Class::Unreachable,
            request: request.into(),
            status: 0,
            code: String::new(),
            detail: String::new(),
        };
        assert!(at("GET s3://b/k").to_string().contains("AWS_ENDPOINT_URL_S3") && !at("GET gs://b/k").to_string().contains("AWS"));
        assert!(!Class::Archived.retryable() && Class::Archived.next_step().contains("restore the object first"));
        // Not at once, but another node's clock may be right, and this one's is being set after its boot.
        assert!(!Class::ClockSkew.repeat() && Class::ClockSkew.retryable());
        // A name server may be slow to learn a name, for seconds; a name that is wrong stays wrong.
        assert!(Class::NoSuchHost.repeat() && !Class::NoSuchHost.retryable() && !Class::Untrusted.retryable());
    }
}
