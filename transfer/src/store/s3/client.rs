//! The calls of [`ObjectStore`], in S3's words.

use std::ops::ControlFlow;

use super::framing::Head;
use super::{Answer, Call, S3, Try, failure, stored, xml};
use crate::checksum::{crc64nvme, crc64nvme_text};
use crate::store::{Class, Condition, Info, ObjectStore, Page, Sink, StoreError};

const CRC: &str = "x-amz-checksum-crc64nvme";

fn etag(head: &Head) -> String {
    head.get("etag").unwrap_or_default().to_string()
}

fn info(head: &Head) -> Info {
    // A ranged answer says the whole size after the slash.
    let whole = head.get("content-range").and_then(|r| r.rsplit_once('/')).map(|r| r.1);
    let size = whole.or_else(|| head.get("content-length")).and_then(|v| v.parse().ok()).unwrap_or(0);
    Info { size, version: etag(head), sums: stored(head) }
}

impl S3 {
    fn write(&self, key: &str, query: &[(&str, &str)], body: &[u8], more: Option<(&'static str, String)>) -> Result<String, StoreError> {
        let mut headers = vec![(CRC, crc64nvme_text(crc64nvme(body)))];
        headers.extend(more);
        let answer = self.call(&Call { method: "PUT", key, query, headers, body })?;
        Ok(etag(&answer.head))
    }

    fn answer(&self, method: &'static str, key: &str, query: &[(&str, &str)]) -> Result<Answer, StoreError> {
        self.call(&Call { method, key, query, headers: vec![], body: &[] })
    }

    fn element(&self, call: &str, answer: &Answer) -> Result<xml::Element, StoreError> {
        xml::parse(answer.body.trim_ascii_start()).ok_or_else(|| StoreError {
            class: Class::Refused,
            request: format!("{call} {}", self.url("")),
            status: answer.head.status,
            code: String::new(),
            detail: "the answer is not S3's XML; is AWS_ENDPOINT_URL_S3 an S3 server?".into(),
        })
    }
}

impl ObjectStore for S3 {
    fn name(&self, key: &str) -> String {
        self.url(key)
    }

    fn head(&self, key: &str) -> Result<Option<Info>, StoreError> {
        let headers = vec![("x-amz-checksum-mode", "ENABLED".into())];
        match self.call(&Call { method: "HEAD", key, query: &[], headers, body: &[] }) {
            Ok(answer) => Ok(Some(info(&answer.head))),
            Err(e) if e.class == Class::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    fn get(&self, key: &str, sink: Sink<'_>) -> Result<Info, StoreError> {
        let mut first: Option<Info> = None;
        let mut done = 0u64;
        self.repeat(|| {
            let mut headers = vec![("x-amz-checksum-mode", "ENABLED".to_string())];
            // After a break: the rest of the very object whose beginning the sink has had.
            if let Some(info) = &first {
                if done >= info.size {
                    return Ok(info.clone());
                }
                headers.push(("range", format!("bytes={done}-")));
                headers.push(("if-match", info.version.clone()));
            }
            let call = Call { method: "GET", key, query: &[], headers, body: &[] };
            let mut error = Vec::new();
            let resumed = done > 0;
            let head = self.once(&call, &mut |head, piece| {
                let good = if resumed { head.status == 206 } else { head.status == 200 };
                if !good {
                    error.extend_from_slice(&piece[..piece.len().min(65_536 - error.len().min(65_536))]);
                    return ControlFlow::Continue(());
                }
                if first.is_none() {
                    first = Some(info(head));
                }
                done += piece.len() as u64;
                sink(piece)
            })?;
            match head.status {
                200 if !resumed => Ok(info(&head)),
                206 if resumed => first.clone().ok_or(Try::Stopped),
                status => {
                    let (code, message) = failure(&error).unwrap_or_default();
                    Err(Try::Failed(self.refused(&call, status, code, message)))
                }
            }
        })
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
        let encoded = root.get("EncodingType") == "url";
        let mut found = Page::default();
        for item in root.children.iter().filter(|c| c.name == "Contents") {
            let key = item.get("Key");
            let key = if encoded { xml::url_decode(key) } else { key.to_string() };
            found.objects.push((key, item.get("Size").parse().unwrap_or(0)));
        }
        if root.get("IsTruncated") == "true" {
            found.next = Some(root.get("NextContinuationToken").to_string()).filter(|t| !t.is_empty());
        }
        Ok(found)
    }

    fn create_upload(&self, key: &str) -> Result<String, StoreError> {
        let headers = vec![("x-amz-checksum-algorithm", "CRC64NVME".into()), ("x-amz-checksum-type", "FULL_OBJECT".into())];
        let answer = self.call(&Call { method: "POST", key, query: &[("uploads", "")], headers, body: &[] })?;
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
        self.write(key, &[("partNumber", &number.to_string()), ("uploadId", upload)], body, None)
    }

    fn complete_upload(&self, key: &str, upload: &str, parts: &[String], crc64nvme: &str) -> Result<(), StoreError> {
        let body = xml::complete(parts);
        let headers = vec![(CRC, crc64nvme.to_string()), ("x-amz-checksum-type", "FULL_OBJECT".into())];
        let query = [("uploadId", upload)];
        let call = Call { method: "POST", key, query: &query, headers, body: body.as_bytes() };
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
        let headers = vec![("x-amz-copy-source", source), ("x-amz-checksum-algorithm", "CRC64NVME".into())];
        self.call(&Call { method: "PUT", key: to, query: &[], headers, body: &[] }).map(drop)
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.answer("DELETE", key, &[]) {
            Err(e) if e.class != Class::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}
