//! S3 by hand: blocking HTTP/1.1 with keep-alive and SigV4.
//!
//! No SDK, because per-request CPU decides how fast small files move, and because every upload carries its CRC-64/NVME
//! in a header: servers accept a wrong signed payload hash, but not a wrong `x-amz-checksum-*`.

use std::io;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::clock::Clock;
use super::{Class, StoreError, reach};
use crate::checksum::{Stored, sha256_hex};
use crate::credentials::aws::Keys;
use crate::credentials::{self, CredentialError, Renewing};
use crate::spec::Integrity;

mod client;
pub mod connection;
pub mod endpoint;
pub mod framing;
mod integrity;
pub mod retry;
pub mod sign;
pub mod xml;

use connection::Connection;
use endpoint::Address;
use framing::Head;
use integrity::Settled;
use sign::Stamp;

/// Silence after which a connection is given up, once the store has answered.
const SILENCE: Duration = Duration::from_secs(30);
/// The same before its first answer: a packet filter that drops everything must show within 30 s.
const FIRST_SILENCE: Duration = Duration::from_secs(10);
/// Largest answer that is not a download.
const ANSWER_LIMIT: usize = 16 << 20;

/// One bucket of an S3 or S3-compatible store.
pub struct S3 {
    bucket: String,
    address: Address,
    region: String,
    keys: Renewing<Keys>,
    idle: Mutex<Vec<Connection>>,
    clock: Clock,
    contacted: AtomicBool,
    /// The store refuses to be asked for checksums with an answer.
    plain: AtomicBool,
    integrity: Settled,
    since: Instant,
}

/// A request, before it is signed.
struct Call<'a> {
    method: &'static str,
    key: &'a str,
    query: &'a [(&'a str, &'a str)],
    headers: Vec<(&'static str, String)>,
    body: &'a [u8],
}

/// An answer with its body in memory.
struct Answer {
    head: Head,
    body: Vec<u8>,
}

/// How one try ended, apart from a good answer.
enum Try {
    /// The sink of a download ended it.
    Stopped,
    /// A kept connection turned out to be closed: not a failure, try again at once.
    Stale,
    /// A failure.
    Failed(StoreError),
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
        let address = Address::of(bucket, &region, endpoint.as_deref()).map_err(|e| fail(Class::Refused, e))?;
        let keys = credentials::aws::from_env(env).map_err(|e| fail(Class::InvalidCredentials, e.to_string()))?;
        Ok(S3 {
            bucket: bucket.into(),
            address,
            region,
            keys,
            idle: Mutex::new(vec![]),
            clock: Clock::default(),
            contacted: AtomicBool::new(false),
            plain: AtomicBool::new(false),
            integrity: Settled::new(endpoint.is_none()),
            since: Instant::now(),
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
        let (code, message) = failure(&body).unwrap_or_default();
        Err(Try::Failed(self.refused(call, head.status, code, message)))
    }

    /// Repeats `one` as its failures' class says.
    fn repeat<T>(&self, mut one: impl FnMut() -> Result<T, Try>) -> Result<T, StoreError> {
        let mut tried = 0;
        let mut stale = 0;
        let mut skewed = 0;
        let mut renewed = false;
        loop {
            let error = match one() {
                Ok(answer) => return Ok(answer),
                // Every kept connection may be closed; after that many the next ones are new.
                Err(Try::Stale) if stale < 64 => {
                    stale += 1;
                    continue;
                }
                Err(Try::Stale) => self.unreachable("", &io::Error::other("connections are closed at once")),
                Err(Try::Stopped) => return Err(self.stopped()),
                // They have ended, or were replaced: with others the same request may be taken.
                Err(Try::Failed(error)) if error.class == Class::InvalidCredentials && error.status != 0 && !renewed => {
                    renewed = true;
                    if self.keys.renew() {
                        continue;
                    }
                    error
                }
                // Signed with this machine's clock, which may not be the store's.
                Err(Try::Failed(error)) if error.class == Class::ClockSkew && skewed < 2 && self.clock.correct() => {
                    skewed += 1;
                    continue;
                }
                Err(Try::Failed(error)) => error,
            };
            tried += 1;
            let contacted = self.contacted.load(Ordering::Relaxed);
            match retry::pause(error.class, tried, contacted, self.since.elapsed(), random()) {
                Some(wait) => {
                    if tried == 1 || tried == 5 {
                        crate::progress::say(&format!("{error} (trying again)"));
                    }
                    std::thread::sleep(wait);
                }
                None => return Err(error),
            }
        }
    }

    /// One try. The sink gets the head's status with each piece of the body.
    fn once(&self, call: &Call<'_>, sink: &mut dyn FnMut(&Head, &[u8]) -> ControlFlow<()>) -> Result<Head, Try> {
        let lost = |e: io::Error| Try::Failed(self.unreachable(call.method, &e));
        let contacted = self.contacted.load(Ordering::Relaxed);
        let silence = if contacted { SILENCE } else { FIRST_SILENCE };
        let kept = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(&self.address.endpoint, silence).map_err(lost)?,
        };
        let keys = self.keys.get().map_err(|e| Try::Failed(self.no_keys(call.method, &e)))?;
        let request = self.sign(call, &keys);
        let head = match connection.ask(&request, call.body) {
            Ok(head) => head,
            Err(e) if connection.used && closed(&e) => return Err(Try::Stale),
            Err(e) => return Err(lost(e)),
        };
        self.clock.hear(head.get("date"), now());
        if !contacted {
            self.contacted.store(true, Ordering::Relaxed);
            connection.set_silence(SILENCE).map_err(lost)?;
        }
        let whole = connection.body(&head, call.method, &mut |piece| sink(&head, piece)).map_err(lost)?;
        if !whole {
            return Err(Try::Stopped);
        }
        if head.keep_alive
            && let Ok(mut idle) = self.idle.lock()
        {
            idle.push(connection);
        }
        Ok(head)
    }

    /// The request's head, signed now: a repetition has its own time.
    fn sign(&self, call: &Call<'_>, keys: &Keys) -> String {
        let stamp = Stamp::from_unix(self.clock.store(now()));
        let key = sign::encode(call.key, true);
        let path = match (self.address.path.as_str(), key.as_str()) {
            ("", key) => format!("/{key}"),
            (bucket, "") => bucket.to_string(),
            (bucket, key) => format!("{bucket}/{key}"),
        };
        let query = sign::query(call.query);
        // Over TLS the body is protected on its way, and its CRC is in a signed header.
        let payload =
            if self.address.endpoint.tls && !call.body.is_empty() { "UNSIGNED-PAYLOAD".to_string() } else { sha256_hex(call.body) };
        let mut headers = vec![
            ("host".to_string(), self.address.endpoint.authority()),
            ("x-amz-content-sha256".into(), payload.clone()),
            ("x-amz-date".into(), stamp.time.clone()),
        ];
        if let Some(token) = &keys.session_token {
            headers.push(("x-amz-security-token".into(), token.clone()));
        }
        headers.extend(call.headers.iter().map(|(k, v)| (k.to_string(), v.clone())));
        let request = sign::Request { method: call.method, path: &path, query: &query, headers: &headers, payload: &payload };
        let authorization = sign::authorization(&request, keys, &self.region, &stamp);
        let mark = if query.is_empty() { "" } else { "?" };
        let mut text = format!("{} {path}{mark}{query} HTTP/1.1\r\n", call.method);
        for (name, value) in &headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if matches!(call.method, "PUT" | "POST") {
            text.push_str(&format!("content-length: {}\r\n", call.body.len()));
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
            Class::AccessDenied if code.is_empty() && self.clock.is_wrong() => Class::ClockSkew,
            class => class,
        };
        let request = format!("{} {}", call.method, self.url(call.key));
        StoreError { class, request, status, code, detail: message }
    }

    fn unreachable(&self, method: &str, error: &io::Error) -> StoreError {
        let at = &self.address.endpoint;
        StoreError {
            class: reach::class(error, self.contacted.load(Ordering::Relaxed)),
            request: format!("{method} {}", self.url("")),
            status: 0,
            code: String::new(),
            detail: format!("no answer from {}:{}: {error}", at.host, at.port),
        }
    }

    fn no_keys(&self, method: &str, error: &CredentialError) -> StoreError {
        let class = match error {
            CredentialError::Wrong(_) => Class::InvalidCredentials,
            CredentialError::Passing(_) => Class::Unavailable,
        };
        StoreError { class, request: format!("{method} {}", self.url("")), status: 0, code: String::new(), detail: error.to_string() }
    }

    fn stopped(&self) -> StoreError {
        StoreError {
            class: Class::Stopped,
            request: format!("GET {}", self.url("")),
            status: 0,
            code: String::new(),
            detail: "the receiver ended it".into(),
        }
    }
}

/// Seconds since 1970 by this machine's clock.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Code and message of an `<Error>` document.
fn failure(body: &[u8]) -> Option<(String, String)> {
    let root = xml::parse(body.trim_ascii_start())?;
    (root.name == "Error").then(|| (root.get("Code").to_string(), root.get("Message").to_string()))
}

/// The other side has closed a connection that was kept.
fn closed(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// The checksums in an answer's headers.
fn stored(head: &Head) -> Stored {
    let text = |name| head.get(name).map(str::to_string);
    Stored {
        crc64nvme: text("x-amz-checksum-crc64nvme"),
        crc32c: text("x-amz-checksum-crc32c"),
        crc32: text("x-amz-checksum-crc32"),
        sha256: text("x-amz-checksum-sha256"),
        md5: etag_md5(head),
        composite: head.get("x-amz-checksum-type").is_some_and(|t| t.eq_ignore_ascii_case("COMPOSITE")),
    }
}

/// The MD5 that an ETag is, in base64: of a single object that no key of the customer's or of KMS has encrypted.
fn etag_md5(head: &Head) -> Option<String> {
    let encrypted = head.get("x-amz-server-side-encryption").is_some_and(|kind| kind.starts_with("aws:"));
    if encrypted || head.get("x-amz-server-side-encryption-customer-algorithm").is_some() {
        return None;
    }
    let text = head.get("etag")?.trim_matches('"');
    let digits: Vec<u8> = text.bytes().map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 32).then(|| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, bytes))
}

/// A number in 0..1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Jitter without randomness is only less fair.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
