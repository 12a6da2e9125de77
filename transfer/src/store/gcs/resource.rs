//! The JSON that Google Cloud Storage answers: objects, pages of a listing, errors. Pure.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::checksum::Stored;
use crate::store::{Class, Info};

/// Name of the custom metadata that keeps an object's CRC-64/NVME: the store itself keeps CRC-32C and, unless the object was
/// composed, MD5.
pub(super) const CRC64NVME: &str = "gpujob-crc64nvme";
/// What is asked for of an object.
pub(super) const FIELDS: &str = "name,size,generation,crc32c,md5Hash,metadata";

/// An object, without its bytes. Numbers of 64 bits are strings there.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Object {
    #[serde(default)]
    pub(super) name: String,
    pub(super) size: String,
    pub(super) generation: String,
    pub(super) crc32c: Option<String>,
    pub(super) md5_hash: Option<String>,
    #[serde(default)]
    pub(super) metadata: BTreeMap<String, String>,
}

/// A page of a listing.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Listing {
    #[serde(default)]
    pub(super) items: Vec<Object>,
    pub(super) next_page_token: Option<String>,
}

/// A copy, or a part of one.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Rewritten {
    pub(super) done: bool,
    pub(super) rewrite_token: Option<String>,
}

#[derive(Deserialize)]
struct Failure {
    error: Reason,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<Detail>,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default)]
    reason: String,
}

impl Object {
    /// `None` when its size is no number.
    pub(super) fn info(&self) -> Option<Info> {
        let sums = Stored {
            crc64nvme: self.metadata.get(CRC64NVME).cloned(),
            crc32c: self.crc32c.clone(),
            md5: self.md5_hash.clone(),
            ..Stored::default()
        };
        Some(Info { size: self.size.parse().ok()?, version: self.generation.clone(), sums })
    }

    /// CRC-32C as a number.
    pub(super) fn crc32c(&self) -> Option<u64> {
        let bytes = STANDARD.decode(self.crc32c.as_ref()?).ok()?;
        Some(u64::from(u32::from_be_bytes(bytes.try_into().ok()?)))
    }
}

/// Reason and message of an error's JSON; a bare text is the message.
pub(super) fn failure(body: &[u8]) -> (String, String) {
    match serde_json::from_slice::<Failure>(body) {
        Ok(Failure { error }) => (error.errors.into_iter().next().map(|e| e.reason).unwrap_or_default(), error.message),
        Err(_) => (String::new(), String::from_utf8_lossy(body).chars().take(200).collect::<String>().trim().to_string()),
    }
}

/// What kind of failure an answer is.
pub(super) fn class(status: u16, reason: &str, message: &str) -> Class {
    match (status, reason) {
        (_, "rateLimitExceeded" | "userRateLimitExceeded") => Class::SlowDown,
        (404, _) if message.contains("bucket does not exist") => Class::BucketNotFound,
        // Both checksums are called "provided" in the messages of the store and of its emulators.
        (400, _) if message.contains("CRC32C") || message.contains("MD5") || message.contains("crc32c") || message.contains("md5") => {
            Class::BadDigest
        }
        // 304: what a condition on a read leads to.
        (304, _) => Class::PreconditionFailed,
        _ => Class::of(status, ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object() {
        let text = r#"{"name":"a/b","size":"9","generation":"1700000000000001","crc32c":"4waSgw==","md5Hash":"m==",
                       "metadata":{"gpujob-crc64nvme":"rosUhgp5mIg="},"storageClass":"STANDARD"}"#;
        let object: Object = serde_json::from_str(text).expect("an object");
        let info = object.info().expect("with a size");
        assert_eq!((info.size, info.version.as_str()), (9, "1700000000000001"));
        assert_eq!(info.sums.crc64nvme.as_deref(), Some("rosUhgp5mIg="));
        assert_eq!(object.crc32c(), Some(0xe306_9283));
        assert_eq!(Object { size: "-1".into(), ..Object::default() }.info(), None);
        let page: Listing = serde_json::from_str("{\"kind\":\"storage#objects\"}").expect("an empty page");
        assert!(page.items.is_empty() && page.next_page_token.is_none());
    }

    #[test]
    fn no_answer_is_too_odd() {
        crate::fuzz::fuzz!("gcs", |input| {
            let (code, message) = failure(input);
            let _ = class(400, &code, &message);
            let objects = serde_json::from_slice::<Listing>(input).map(|page| page.items).unwrap_or_default();
            for object in objects.into_iter().chain(serde_json::from_slice(input)) {
                assert_eq!(object.info().map(|info| info.version), object.size.parse::<u64>().ok().map(|_| object.generation.clone()));
                assert!(object.crc32c().is_none_or(|crc| crc <= u64::from(u32::MAX)));
            }
            let _ = serde_json::from_slice::<Rewritten>(input);
        });
    }

    #[test]
    fn failures() {
        let json =
            |reason: &str, message: &str| format!(r#"{{"error":{{"code":1,"message":"{message}","errors":[{{"reason":"{reason}"}}]}}}}"#);
        for (status, reason, message, want) in [
            (404, "notFound", "No such object: b/k", Class::NotFound),
            (404, "notFound", "The specified bucket does not exist.", Class::BucketNotFound),
            (401, "authError", "Invalid Credentials", Class::InvalidCredentials),
            (403, "forbidden", "x does not have storage.objects.create access", Class::AccessDenied),
            (403, "rateLimitExceeded", "slow", Class::SlowDown),
            (429, "rateLimitExceeded", "The object exceeded the rate limit", Class::SlowDown),
            (412, "conditionNotMet", "At least one of the pre-conditions you specified did not hold.", Class::PreconditionFailed),
            (400, "invalid", "Provided CRC32C hash doesn't match calculated CRC32C hash.", Class::BadDigest),
            (503, "backendError", "Backend Error", Class::Unavailable),
        ] {
            let (code, detail) = failure(json(reason, message).as_bytes());
            assert_eq!((code.as_str(), detail.as_str()), (reason, message));
            assert_eq!(class(status, &code, &detail), want, "{status} {reason}");
        }
        assert_eq!(failure(b"Not Found\n"), (String::new(), "Not Found".into()));
    }
}
