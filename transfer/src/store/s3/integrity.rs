//! What the store checks uploads by: the header of each kind, and the probe that finds the strongest one it honours.
//!
//! Servers that speak S3 differ: some check all kinds, some only `Content-MD5`, some accept a wrong checksum without a word,
//! some refuse headers that they do not know. So a first upload is preceded by one with a wrong checksum, which a store that
//! checks must refuse. AWS itself is known to check all of them and is not asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::about::etag_md5;
use super::connection::Payload;
use super::framing::Head;
use super::{Call, S3};
use crate::checksum::{crc64nvme, crc64nvme_text, md5, sha256};
use crate::spec::Integrity;
use crate::store::wire::Try;
use crate::store::{Class, StoreError, Stretch};

/// CRC-64/NVME is the first choice: the store keeps it for the whole object, also for one made of parts.
const STRONGEST_FIRST: [Integrity; 3] = [Integrity::Crc64nvme, Integrity::Sha256, Integrity::Md5];
const BODY: &[u8] = b"gpujob-transfer asks whether checksums are checked";

/// The kind in use, once it is known.
pub(super) struct Settled {
    /// What the job's spec says.
    pub(super) wanted: Option<Integrity>,
    /// Below which folder the probe writes.
    pub(super) folder: String,
    /// The store is AWS itself.
    pub(super) known: bool,
    found: OnceLock<Integrity>,
    /// Nothing else is checked, but an ETag is the MD5 of what the store has got.
    etags: AtomicBool,
    /// One thread asks; the others wait for its answer.
    asking: Mutex<()>,
}

impl Settled {
    pub(super) fn new(known: bool) -> Settled {
        Settled {
            wanted: None,
            folder: String::new(),
            known,
            found: OnceLock::new(),
            etags: AtomicBool::new(false),
            asking: Mutex::new(()),
        }
    }
}

/// The header that makes the store check `body`.
pub(super) fn header(kind: Integrity, body: &[u8]) -> Option<(&'static str, String)> {
    match kind {
        Integrity::Crc64nvme => Some(("x-amz-checksum-crc64nvme", crc64nvme_text(crc64nvme(body)))),
        Integrity::Sha256 => Some(("x-amz-checksum-sha256", STANDARD.encode(sha256(body)))),
        Integrity::Md5 => Some(("content-md5", STANDARD.encode(md5(body)))),
        Integrity::None => None,
    }
}

/// The header that makes the store check a file's bytes; none of a kind that must be computed from all of them.
pub(super) fn header_of(kind: Integrity, body: &Stretch<'_>) -> Option<(&'static str, String)> {
    match kind {
        Integrity::Crc64nvme => Some(("x-amz-checksum-crc64nvme", crc64nvme_text(body.crc64nvme))),
        Integrity::Sha256 => Some(("x-amz-checksum-sha256", STANDARD.encode(body.sha256))),
        Integrity::Md5 | Integrity::None => None,
    }
}

/// As the job's spec writes it.
pub(super) fn name(kind: Integrity) -> &'static str {
    match kind {
        Integrity::Crc64nvme => "crc64nvme",
        Integrity::Sha256 => "sha256",
        Integrity::Md5 => "md5",
        Integrity::None => "none",
    }
}

impl S3 {
    /// What uploads are checked by. Asks the store the first time.
    ///
    /// # Errors
    /// Those of writing an object, and [`Class::NotHonoured`] when the spec names a kind that the store does not check.
    pub(super) fn kind(&self) -> Result<Integrity, StoreError> {
        let settled = &self.integrity;
        if let Some(kind) = settled.found.get() {
            return Ok(*kind);
        }
        let _one = settled.asking.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(kind) = settled.found.get() {
            return Ok(*kind);
        }
        let kind = match settled.wanted {
            Some(Integrity::None) => Integrity::None,
            Some(kind) if settled.known || self.honours(kind)? => kind,
            Some(kind) => return Err(self.not_honoured(kind)),
            None if settled.known => Integrity::Crc64nvme,
            None => self.strongest()?,
        };
        Ok(*settled.found.get_or_init(|| kind))
    }

    fn strongest(&self) -> Result<Integrity, StoreError> {
        for kind in STRONGEST_FIRST {
            if self.honours(kind)? {
                return Ok(kind);
            }
        }
        let key = self.probe_key();
        let headers = vec![];
        let answer = self.call(&Call { method: "PUT", key: &key, query: &[], headers, body: Payload::Bytes(BODY) })?;
        let etags = etag_md5(&answer.head) == Some(STANDARD.encode(md5(BODY)));
        self.integrity.etags.store(etags, Ordering::Relaxed);
        self.remove(&key)?;
        let instead = if etags { "ETags and sizes" } else { "sizes" };
        crate::progress::say(&format!("{} checks no checksum of uploads: {instead} are compared afterwards", self.url("")));
        Ok(Integrity::None)
    }

    fn probe_key(&self) -> String {
        crate::store::probe_key(&self.integrity.folder)
    }

    /// Of a store that checks nothing itself: whether it has got other bytes than it was sent, as far as its answer tells.
    pub(super) fn damaged(&self, answer: &Head, md5_sent: impl FnOnce() -> String) -> bool {
        let told = if self.integrity.etags.load(Ordering::Relaxed) { etag_md5(answer) } else { None };
        told.is_some_and(|md5_there| md5_there != md5_sent())
    }

    /// Whether a wrong checksum of that kind is refused, and a right one is not.
    fn honours(&self, kind: Integrity) -> Result<bool, StoreError> {
        let key = self.probe_key();
        let wrong = self.asked(&key, header(kind, b"other bytes"))?;
        let honoured = match wrong {
            Ok(()) => Ok(false),
            Err(e) if e.class == Class::BadDigest => return Ok(true),
            Err(e) if e.class == Class::NotImplemented => return Ok(false),
            // Refused for the value, or for the header itself? The right value tells.
            Err(e) if e.class == Class::Refused => match self.asked(&key, header(kind, BODY))? {
                Ok(()) => Ok(true),
                Err(e) if matches!(e.class, Class::Refused | Class::NotImplemented | Class::BadDigest) => return Ok(false),
                Err(e) => return Err(e),
            },
            Err(e) => return Err(e),
        };
        self.remove(&key)?;
        honoured
    }

    /// One upload whose refusal is an answer: only what may pass is repeated.
    fn asked(&self, key: &str, header: Option<(&'static str, String)>) -> Result<Result<(), StoreError>, StoreError> {
        let headers: Vec<_> = header.into_iter().collect();
        self.repeat(|| {
            match self.try_call(&Call { method: "PUT", key, query: &[], headers: headers.clone(), body: Payload::Bytes(BODY) }) {
                Ok(_) => Ok(Ok(())),
                Err(Try::Failed(e)) if !e.class.repeat() || e.class == Class::BadDigest => Ok(Err(e)),
                Err(other) => Err(other),
            }
        })
    }

    fn not_honoured(&self, kind: Integrity) -> StoreError {
        StoreError {
            class: Class::NotHonoured,
            request: format!("PUT {}", self.url(&self.integrity.folder)),
            status: 0,
            code: String::new(),
            detail: format!("the store does not check {}, which the job's integrity asks for", name(kind)),
        }
    }
}
