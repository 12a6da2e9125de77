//! Google Cloud Storage, by its JSON API.
//!
//! The JSON API rather than the S3-like XML one: both check CRC-32C and MD5 and do conditional writes on generations, but
//! nothing that can be run in a test does the XML API's uploads in parts. Parts are objects of their own here, out of sight
//! below `.gpujob/staging/`, and completing an upload composes them (see [`compose`]).

use std::ops::ControlFlow;

use crate::credentials::{CredentialError, Renewing, google};
use crate::spec::Integrity;

use super::s3::connection::Payload;
use super::s3::endpoint::Endpoint;
use super::s3::framing::Head;
use super::s3::sign::query;
use super::wire::{Request, Try, Wire};
use super::{Class, StoreError};

mod client;
mod compose;
mod download;
mod related;
mod resource;
mod send;

/// Largest answer that is not a download.
const ANSWER_LIMIT: usize = 16 << 20;

/// One bucket of Google Cloud Storage.
pub struct Gcs {
    bucket: String,
    endpoint: Endpoint,
    /// None: the emulator asks for none.
    token: Option<Renewing<String>>,
    wire: Wire,
    /// What uploads are checked by; CRC-32C when the job does not say.
    wanted: Option<Integrity>,
    /// Below which folder parts of uploads wait.
    folder: String,
}

/// A request, before it has its token.
struct Call<'a> {
    method: &'static str,
    /// Encoded.
    path: String,
    query: Vec<(&'a str, &'a str)>,
    headers: Vec<(&'static str, String)>,
    body: Payload<'a>,
    /// The object, for people.
    key: &'a str,
}

/// No body.
const EMPTY: Payload<'static> = Payload::Bytes(&[]);

impl Gcs {
    /// A bucket. `STORAGE_EMULATOR_HOST` names an emulator, which is asked without a token; [`google::from_env`] says where
    /// tokens come from. Connects to nothing.
    ///
    /// # Errors
    /// [`Class::Refused`] when the emulator's address is none.
    pub fn from_env(bucket: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Gcs, StoreError> {
        let emulator = env("STORAGE_EMULATOR_HOST").map(|v| v.trim().to_string()).filter(|v| !v.is_empty());
        let (endpoint, token) = match emulator {
            Some(host) => {
                let url = if host.contains("://") { host } else { format!("http://{host}") };
                let endpoint = Endpoint::parse(&url).map_err(|_| StoreError {
                    class: Class::Refused,
                    request: format!("gs://{bucket}"),
                    status: 0,
                    code: String::new(),
                    detail: "STORAGE_EMULATOR_HOST has no valid host and port".into(),
                })?;
                (endpoint, None)
            }
            None => {
                let endpoint = Endpoint { tls: true, host: "storage.googleapis.com".into(), port: 443 };
                (endpoint, Some(google::from_env(env)))
            }
        };
        let wire = Wire::new(format!("gs://{bucket}"));
        Ok(Gcs { bucket: bucket.into(), endpoint, token, wire, wanted: None, folder: String::new() })
    }

    /// Has uploads checked by `wanted` (`md5` or `none`), or by CRC-32C. Parts of uploads wait below `folder` (empty or with a
    /// slash at its end).
    #[must_use]
    pub fn checked_by(mut self, wanted: Option<Integrity>, folder: &str) -> Gcs {
        (self.wanted, self.folder) = (wanted, folder.into());
        self
    }

    fn url(&self, key: &str) -> String {
        format!("gs://{}/{key}", self.bucket)
    }

    fn repeat<T>(&self, one: impl FnMut() -> Result<T, Try>) -> Result<T, StoreError> {
        self.wire.repeat(&|| self.token.as_ref().is_some_and(Renewing::renew), one)
    }

    /// Sends a request until it is answered for good, and reads the answer into memory.
    fn call(&self, call: &Call<'_>) -> Result<Vec<u8>, StoreError> {
        self.repeat(|| self.try_call(call))
    }

    fn try_call(&self, call: &Call<'_>) -> Result<Vec<u8>, Try> {
        let mut body = Vec::new();
        let head = self.once(call, &mut |_, piece| {
            if body.len() + piece.len() > ANSWER_LIMIT {
                return ControlFlow::Break(());
            }
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        })?;
        if (200..300).contains(&head.status) { Ok(body) } else { Err(Try::Failed(self.refused(call, head.status, &body))) }
    }

    /// One try, with a token of this moment.
    fn once(&self, call: &Call<'_>, sink: &mut dyn FnMut(&Head, &[u8]) -> ControlFlow<()>) -> Result<Head, Try> {
        let mark = if call.query.is_empty() { "" } else { "?" };
        let mut head = format!("{} {}{mark}{} HTTP/1.1\r\n", call.method, call.path, query(&call.query));
        let agent = concat!("gpujob-transfer/", env!("CARGO_PKG_VERSION"));
        head.push_str(&format!("host: {}\r\nuser-agent: {agent}\r\n", self.endpoint.authority()));
        if let Some(token) = &self.token {
            let token = token.get().map_err(|e| Try::Failed(self.no_token(call, &e)))?;
            head.push_str(&format!("authorization: Bearer {token}\r\n"));
        }
        for (name, value) in &call.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if call.method == "POST" {
            head.push_str(&format!("content-length: {}\r\n", call.body.length()));
        }
        head.push_str("\r\n");
        self.wire.once(&self.endpoint, &Request { method: call.method, head: &head, body: call.body }, sink)
    }

    fn refused(&self, call: &Call<'_>, status: u16, body: &[u8]) -> StoreError {
        let (code, detail) = resource::failure(body);
        let class = resource::class(status, &code, &detail);
        let class = if class == Class::NotFound && call.key.is_empty() { Class::BucketNotFound } else { class };
        StoreError { class, request: format!("{} {}", call.method, self.url(call.key)), status, code, detail }
    }

    fn no_token(&self, call: &Call<'_>, error: &CredentialError) -> StoreError {
        let class = match error {
            CredentialError::Wrong(_) => Class::InvalidCredentials,
            CredentialError::Passing(_) => Class::Unavailable,
        };
        StoreError {
            class,
            request: format!("{} {}", call.method, self.url(call.key)),
            status: 0,
            code: String::new(),
            detail: error.to_string(),
        }
    }
}
