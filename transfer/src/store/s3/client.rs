//! The calls of [`ObjectStore`], in S3's words.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::about::{info, whole};
use super::connection::Payload;
use super::framing::Framing;
use super::listing::{self, AND};
use super::{Answer, Call, EMPTY, S3, integrity, lifecycle, xml};
use crate::spec::Integrity;
use crate::store::wire::Try;
use crate::store::{Class, Condition, Info, ObjectStore, Page, Parts, Sink, StoreError, Stretch};

const CRC: &str = "x-amz-checksum-crc64nvme";

impl S3 {
    /// Asks for the stored checksums, of a store that does not mind being asked.
    fn with_checksums(&self) -> Vec<(&'static str, String)> {
        if self.plain.load(Ordering::Relaxed) { vec![] } else { vec![("x-amz-checksum-mode", "ENABLED".into())] }
    }

    /// Whether `error` is a store's dislike of that question, which is then asked no more.
    fn minds(&self, error: &StoreError) -> bool {
        matches!(error.class, Class::NotImplemented) && !self.plain.swap(true, Ordering::Relaxed)
    }

    pub(super) fn remove(&self, key: &str) -> Result<(), StoreError> {
        match self.answer("DELETE", key, &[]) {
            Err(e) if e.class != Class::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    fn answer(&self, method: &'static str, key: &str, query: &[(&str, &str)]) -> Result<Answer, StoreError> {
        self.call(&Call { method, key, query, headers: vec![], body: EMPTY })
    }

    fn element(&self, call: &str, answer: &Answer) -> Result<xml::Element, StoreError> {
        xml::parse(answer.body.trim_ascii_start()).ok_or_else(|| {
            self.nonsense(call, answer.head.status, "the answer is not S3's XML; is AWS_ENDPOINT_URL_S3 an S3 server?".into())
        })
    }

    fn nonsense(&self, call: &str, status: u16, detail: String) -> StoreError {
        StoreError { class: Class::Refused, request: format!("{call} {}", self.url("")), status, code: String::new(), detail }
    }
}

impl ObjectStore for S3 {
    fn name(&self, key: &str) -> String {
        self.url(key)
    }

    fn ranged(&self) -> bool {
        true
    }

    fn get_range(&self, key: &str, version: &str, from: u64, length: u64, sink: Sink<'_>) -> Result<(), StoreError> {
        self.range(key, version, from, length, sink)
    }

    fn abort_days(&self, prefix: &str) -> Result<Option<u32>, StoreError> {
        match self.answer("GET", "", &[("lifecycle", "")]) {
            Ok(answer) => Ok(self.element("GET LIFECYCLE", &answer).ok().and_then(|root| lifecycle::abort_days(&root, prefix))),
            // No rules, rules that these keys may not read, or a store that has none.
            Err(e) if !e.class.repeat() => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn integrity(&self) -> Result<&'static str, StoreError> {
        self.kind().map(integrity::name)
    }

    fn no_version(&self) -> String {
        // The MD5 of nothing that anybody would write: an ETag in form, so that no server takes it for a broken header.
        "\"00000000000000000000000000000000\"".into()
    }

    fn head(&self, key: &str) -> Result<Option<Info>, StoreError> {
        match self.call(&Call { method: "HEAD", key, query: &[], headers: self.with_checksums(), body: EMPTY }) {
            Ok(answer) => Ok(Some(info(&answer.head))),
            Err(e) if self.minds(&e) => self.head(key),
            Err(e) if e.class == Class::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn get(&self, key: &str, sink: Sink<'_>) -> Result<Info, StoreError> {
        let mut first: Option<(Info, Option<u64>)> = None;
        let mut done = 0u64;
        self.repeat(|| {
            let mut headers = self.with_checksums();
            // After a break: the rest of the very object whose beginning the sink has had.
            if let Some((info, size)) = &first {
                if size.is_some_and(|size| done >= size) {
                    return Ok(info.clone());
                }
                headers.push(("range", format!("bytes={done}-")));
                headers.push(("if-match", info.version.clone()));
            }
            let call = Call { method: "GET", key, query: &[], headers, body: EMPTY };
            let mut error = Vec::new();
            let resumed = done > 0;
            let head = self.once(&call, &mut |head, piece| {
                let good = if resumed { head.status == 206 } else { head.status == 200 };
                if !good {
                    error.extend_from_slice(&piece[..piece.len().min(65_536 - error.len().min(65_536))]);
                    return ControlFlow::Continue(());
                }
                if first.is_none() {
                    first = Some((info(head), whole(head)));
                }
                done += piece.len() as u64;
                sink(piece)
            })?;
            match head.status {
                // Nothing tells such an answer's end from a broken connection.
                200 | 206 if head.framing("GET").is_ok_and(|framing| framing == Framing::Close) => {
                    let detail = "the answer says neither its length nor its end".into();
                    Err(Try::Failed(self.nonsense("GET", head.status, detail)))
                }
                200 if !resumed => Ok(Info { size: whole(&head).unwrap_or(done), ..info(&head) }),
                206 if resumed => match &first {
                    Some((info, size)) => Ok(Info { size: size.unwrap_or(done), ..info.clone() }),
                    None => Err(Try::Stopped),
                },
                _ => Err(match self.failed(&call, &head, &error) {
                    Try::Failed(error) if self.minds(&error) => Try::Stale,
                    other => other,
                }),
            }
        })
    }

    fn read_range(&self, key: &str, from: u64, to: u64) -> Result<Vec<u8>, StoreError> {
        if from == to {
            return Ok(vec![]);
        }
        let headers = vec![("range", format!("bytes={from}-{}", to - 1))];
        let answer = self.call(&Call { method: "GET", key, query: &[], headers, body: EMPTY })?;
        // A store that does not do ranges sends all of it.
        let stretch = usize::try_from(from).ok().zip(usize::try_from(to).ok());
        if let (200, Some(bytes)) = (answer.head.status, stretch.and_then(|(from, to)| answer.body.get(from..to))) {
            return Ok(bytes.to_vec());
        }
        if answer.head.status != 206 || answer.body.len() as u64 != to - from {
            let detail = format!("{} bytes came for {from} to {to}", answer.body.len());
            return Err(self.nonsense("GET", answer.head.status, detail));
        }
        Ok(answer.body)
    }

    fn put(&self, key: &str, body: &[u8]) -> Result<String, StoreError> {
        self.write(key, &[], body, None)
    }

    fn put_if(&self, key: &str, body: &[u8], condition: Condition<'_>) -> Result<String, StoreError> {
        let header = match condition {
            Condition::Absent => ("if-none-match", "*".to_string()),
            Condition::Version(version) => ("if-match", version.to_string()),
        };
        match self.write(key, &[], body, Some(header)) {
            // If-Match on an object that was deleted meanwhile.
            Err(e) if e.class == Class::NotFound => Err(StoreError { class: Class::PreconditionFailed, ..e }),
            other => other,
        }
    }

    fn list(&self, prefix: &str, page: Option<&str>) -> Result<Page, StoreError> {
        let mut query = vec![("list-type", "2"), ("prefix", prefix), ("encoding-type", "url")];
        if let Some(token) = page {
            query.push(("continuation-token", token));
        }
        let answer = self.answer("GET", "", &query)?;
        let root = self.element("LIST", &answer)?;
        listing::page(&root, page).map_err(|detail| self.nonsense("LIST", answer.head.status, detail))
    }

    fn create_upload(&self, key: &str) -> Result<String, StoreError> {
        let headers = match self.kind()? {
            Integrity::Crc64nvme => vec![("x-amz-checksum-algorithm", "CRC64NVME".into()), ("x-amz-checksum-type", "FULL_OBJECT".into())],
            Integrity::Sha256 => vec![("x-amz-checksum-algorithm", "SHA256".into())],
            Integrity::Md5 | Integrity::None => vec![],
        };
        let answer = self.call(&Call { method: "POST", key, query: &[("uploads", "")], headers, body: EMPTY })?;
        let id = self.element("CREATE UPLOAD", &answer)?.get("UploadId").to_string();
        if id.is_empty() {
            return Err(StoreError {
                class: Class::Refused,
                request: format!("CREATE UPLOAD {}", self.url(key)),
                status: answer.head.status,
                code: String::new(),
                detail: "the answer has no UploadId".into(),
            });
        }
        Ok(id)
    }

    fn upload_part(&self, key: &str, upload: &str, number: u32, body: &[u8]) -> Result<String, StoreError> {
        let etag = self.write(key, &[("partNumber", &number.to_string()), ("uploadId", upload)], body, None)?;
        Ok(match (self.kind()?, integrity::header(Integrity::Sha256, body)) {
            // AWS completes an upload with part checksums only if it is told them again.
            (Integrity::Sha256, Some((_, sha256))) => format!("{etag}{AND}{sha256}"),
            _ => etag,
        })
    }

    fn put_stretch(&self, key: &str, body: &Stretch<'_>) -> Result<String, StoreError> {
        self.write_stretch(key, &[], body)
    }

    fn upload_stretch(&self, key: &str, upload: &str, number: u32, body: &Stretch<'_>) -> Result<String, StoreError> {
        let etag = self.write_stretch(key, &[("partNumber", &number.to_string()), ("uploadId", upload)], body)?;
        let kind = self.kind()?;
        Ok(match integrity::header_of(kind, body) {
            Some((_, sha256)) if kind == Integrity::Sha256 => format!("{etag}{AND}{sha256}"),
            _ => etag,
        })
    }

    fn list_parts(&self, key: &str, upload: &str) -> Result<Option<Parts>, StoreError> {
        let (mut found, mut marker) = (vec![], String::new());
        loop {
            let mut query = vec![("uploadId", upload)];
            if !marker.is_empty() {
                query.push(("part-number-marker", &marker));
            }
            let answer = match self.answer("GET", key, &query) {
                Err(e) if matches!(e.class, Class::NoSuchUpload | Class::NotFound) => return Ok(None),
                other => other?,
            };
            let root = self.element("LIST PARTS", &answer)?;
            match listing::parts(&root, &marker).map_err(|detail| self.nonsense("LIST PARTS", answer.head.status, detail))? {
                (page, None) => {
                    found.extend(page);
                    return Ok(Some(found));
                }
                (page, Some(next)) => {
                    found.extend(page);
                    marker = next;
                }
            }
        }
    }

    fn holds_upload(&self, key: &str, upload: &str, _parts: &[String]) -> Result<bool, StoreError> {
        // Its parts are all there or none is: one line of their list is enough.
        match self.answer("GET", key, &[("max-parts", "1"), ("uploadId", upload)]) {
            Err(e) if e.class == Class::NoSuchUpload => Ok(false),
            Err(e) if e.class.repeat() => Err(e),
            // A bare 404 or 403 may be of the question: no proof that anything is gone.
            _ => Ok(true),
        }
    }

    fn complete_upload(&self, key: &str, upload: &str, parts: &[String], crc64nvme: &str) -> Result<(), StoreError> {
        let body =
            xml::complete(parts.iter().map(|part| part.split_once(AND).map_or((part.as_str(), None), |(tag, sha)| (tag, Some(sha)))));
        let headers = match self.kind()? {
            Integrity::Crc64nvme => vec![(CRC, crc64nvme.to_string()), ("x-amz-checksum-type", "FULL_OBJECT".into())],
            _ => vec![],
        };
        let query = [("uploadId", upload)];
        let call = Call { method: "POST", key, query: &query, headers, body: Payload::Bytes(body.as_bytes()) };
        match self.call(&call) {
            Ok(_) => Ok(()),
            // Some stores answer a bare 404 for an upload that is gone.
            Err(e) if e.class == Class::NotFound => Err(StoreError { class: Class::NoSuchUpload, ..e }),
            Err(e) => Err(e),
        }
    }

    fn abort_upload(&self, key: &str, upload: &str) -> Result<(), StoreError> {
        match self.answer("DELETE", key, &[("uploadId", upload)]) {
            Err(e) if !matches!(e.class, Class::NoSuchUpload | Class::NotFound) => Err(e),
            _ => Ok(()),
        }
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let source = format!("/{}/{}", self.bucket, super::sign::encode(from, true));
        let mut headers = vec![("x-amz-copy-source", source)];
        match self.kind()? {
            Integrity::Crc64nvme => headers.push(("x-amz-checksum-algorithm", "CRC64NVME".into())),
            Integrity::Sha256 => headers.push(("x-amz-checksum-algorithm", "SHA256".into())),
            Integrity::Md5 | Integrity::None => {}
        }
        self.call(&Call { method: "PUT", key: to, query: &[], headers, body: EMPTY }).map(drop)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.remove(key)
    }
}
