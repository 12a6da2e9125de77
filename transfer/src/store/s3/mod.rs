//! S3 by hand: blocking HTTP/1.1 with keep-alive and SigV4.
//!
//! No SDK, because per-request CPU decides how fast small files move, and because every upload carries its CRC-64/NVME
//! in a header: servers accept a wrong signed payload hash, but not a wrong `x-amz-checksum-*`.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::now;
use super::wire::{Request, Try, Wire};
use super::{Class, StoreError};
use crate::credentials::aws::Keys;
use crate::credentials::{self, CredentialError, Renewing};
use crate::spec::Integrity;

mod about;
mod client;
pub mod connection;
pub mod endpoint;
pub mod framing;
mod integrity;
mod lifecycle;
mod listing;
mod pages;
mod range;
mod region;
pub mod retry;
mod send;
pub mod sign;
pub mod xml;

use connection::Payload;
use endpoint::Address;
use framing::Head;
use integrity::Settled;
use sign::Stamp;

/// Name of the variable that says how the bucket is addressed at `AWS_ENDPOINT_URL_S3`: `path` (the default there) or `virtual`.
pub const ADDRESSING_ENV: &str = "GPUJOB_S3_ADDRESSING";
/// Largest answer that is not a download.
const ANSWER_LIMIT: usize = 16 << 20;

/// One bucket of an S3 or S3-compatible store.
pub struct S3 {
    bucket: String,
    place: Mutex<Arc<Place>>,
    moves: AtomicU32,
    keys: Renewing<Keys>,
    wire: Wire,
    /// The store refuses to be asked for checksums with an answer.
    plain: AtomicBool,
    integrity: Settled,
}

/// Where the bucket is. A store may tell us of a better place.
struct Place {
    address: Address,
    region: String,
}

/// A request, before it is signed.
struct Call<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: Vec<(&'static str, String)>,
    body: Payload<'a>,
}

/// No body.
const EMPTY: Payload<'static> = Payload::Bytes(&[]);

/// An answer with its body in memory.
struct Answer {
    head: Head,
    body: Vec<u8>,
}

impl S3 {
    /// A bucket by the SDKs' own environment variables: `AWS_REGION`, `AWS_ENDPOINT_URL_S3`, and those of
    /// [`credentials::aws::from_env`]. Connects to nothing.
    ///
    /// # Errors
    /// [`Class::InvalidCredentials`] when keys are missing, [`Class::Refused`] when the endpoint is no URL.
    pub fn from_env(bucket: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<S3, StoreError> {
        let get = |name: &str| env(name).map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let fail = |class, detail: String| StoreError { class, request: format!("s3://{bucket}"), status: 0, code: String::new(), detail };
        let region = get("AWS_REGION").or_else(|| get("AWS_DEFAULT_REGION")).unwrap_or_else(|| "us-east-1".into());
        let endpoint = get("AWS_ENDPOINT_URL_S3").or_else(|| get("AWS_ENDPOINT_URL"));
        let hosted = get(ADDRESSING_ENV).map(|style| style == "virtual");
        let address = Address::of(bucket, &region, endpoint.as_deref(), hosted).map_err(|e| fail(Class::Refused, e))?;
        let keys = credentials::aws::from_env(env).map_err(|e| fail(Class::InvalidCredentials, e.to_string()))?;
        Ok(S3 {
            bucket: bucket.into(),
            place: Mutex::new(Arc::new(Place { address, region })),
            moves: AtomicU32::new(0),
            keys,
            wire: Wire::new(format!("s3://{bucket}")),
            plain: AtomicBool::new(false),
            integrity: Settled::new(endpoint.is_none()),
        })
    }

    /// Has uploads checked by `wanted`, or by the strongest kind that the store honours. What has to be asked of the store
    /// is asked below `folder` (empty or with a slash at its end).
    #[must_use]
    pub fn checked_by(mut self, wanted: Option<Integrity>, folder: &str) -> S3 {
        (self.integrity.wanted, self.integrity.folder) = (wanted, folder.into());
        self
    }

    fn url(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.bucket)
    }

    /// Sends a request until it is answered for good, and reads the answer into memory.
    fn call(&self, call: &Call<'_>) -> Result<Answer, StoreError> {
        self.repeat(|| self.try_call(call))
    }

    fn try_call(&self, call: &Call<'_>) -> Result<Answer, Try> {
        let mut body = Vec::new();
        let head = self.once(call, &mut |_, piece| {
            if body.len() + piece.len() > ANSWER_LIMIT {
                return ControlFlow::Break(());
            }
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        if (200..300).contains(&head.status) {
            // Complete and Copy answer 200 first, and may still fail in the body.
            return match failure(&body) {
                Some((code, message)) => Err(Try::Failed(self.refused(call, 200, code, message))),
                None => Ok(Answer { head, body }),
            };
        }
        Err(self.failed(call, &head, &body))
    }

    /// What an answer that is no success means for the request.
    fn failed(&self, call: &Call<'_>, head: &Head, body: &[u8]) -> Try {
        let (code, message) = failure(body).unwrap_or_default();
        let error = self.refused(call, head.status, code, message);
        if self.moved(&error, head, body) { Try::Stale } else { Try::Failed(error) }
    }

    fn place(&self) -> Arc<Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Repeats `one` as its failures' class says.
    fn repeat<T>(&self, one: impl FnMut() -> Result<T, Try>) -> Result<T, StoreError> {
        self.wire.repeat(&|| self.keys.renew(), one)
    }

    /// One try. The sink gets the head's status with each piece of the body.
    fn once(&self, call: &Call<'_>, sink: &mut dyn FnMut(&Head, &[u8]) -> ControlFlow<()>) -> Result<Head, Try> {
        let keys = self.keys.get().map_err(|e| Try::Failed(self.no_keys(call.method, &e)))?;
        let place = self.place();
        let head = self.sign(call, &keys, &place);
        self.wire.once(&place.address.endpoint, &Request { method: call.method, head: &head, body: call.body }, sink)
    }

    /// The request's head, signed now: a repetition has its own time.
    fn sign(&self, call: &Call<'_>, keys: &Keys, place: &Place) -> String {
        let stamp = Stamp::from_unix(self.wire.clock.store(now()));
        let key = sign::encode(call.key, true);
        let path = match (place.address.path.as_str(), key.as_str()) {
            ("", key) => format!("/{key}"),
            (bucket, "") => bucket.to_string(),
            (bucket, key) => format!("{bucket}/{key}"),
        };
        let query = sign::query(call.query);
        // Over TLS the body is protected on its way, and its CRC is in a signed header.
        let payload =
            if place.address.endpoint.tls && !call.body.length() > 0 { "UNSIGNED-PAYLOAD".to_string() } else { call.body.sha256_hex() };
        let mut headers = vec![
            ("host".to_string(), place.address.endpoint.authority()),
            ("x-amz-content-sha256".into(), payload.clone()),
            ("x-amz-date".into(), stamp.time.clone()),
        ];
        if let Some(token) = &keys.session_token {
            headers.push(("x-amz-security-token".into(), token.clone()));
        }
        headers.extend(call.headers.iter().map(|(k, v)| (k.to_string(), v.clone())));
        let request = sign::Request { method: call.method, path: &path, query: &query, headers: &headers, payload: &payload };
        let authorization = sign::authorization(&request, keys, &place.region, &stamp);
        let mark = if query.is_empty() { "" } else { "?" };
        let mut text = format!("{} {path}{mark}{query} HTTP/1.1\r\n", call.method);
        for (name, value) in &headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if matches!(call.method, "PUT" | "POST") {
            text.push_str(&format!("content-length: {}\r\n", call.body.length()));
        }
        let agent = concat!("gpujob-transfer/", env!("CARGO_PKG_VERSION"));
        text.push_str(&format!("user-agent: {agent}\r\nauthorization: {authorization}\r\n\r\n"));
        text
    }

    fn refused(&self, call: &Call<'_>, status: u16, code: String, message: String) -> StoreError {
        let class = match Class::of(status, &code) {
            // A multipart upload's 404 without a body, and so on: the code decides, the status is the last resort.
            Class::NotFound if code.is_empty() && call.key.is_empty() => Class::BucketNotFound,
            // A HEAD is refused without words.
            Class::AccessDenied if code.is_empty() && self.wire.clock.is_wrong() => Class::ClockSkew,
            class => class,
        };
        let request = format!("{} {}", call.method, self.url(call.key));
        StoreError { class, request, status, code, detail: message }
    }

    fn no_keys(&self, method: &str, error: &CredentialError) -> StoreError {
        let class = match error {
            CredentialError::Wrong(_) => Class::InvalidCredentials,
            CredentialError::Passing(_) => Class::Unavailable,
        };
        StoreError { class, request: format!("{method} {}", self.url("")), status: 0, code: String::new(), detail: error.to_string() }
    }
}

/// Code and message of an `<Error>` document.
fn failure(body: &[u8]) -> Option<(String, String)> {
    let root = xml::parse(body.trim_ascii_start())?;
    (root.name == "Error").then(|| (root.get("Code").to_string(), root.get("Message").to_string()))
}
