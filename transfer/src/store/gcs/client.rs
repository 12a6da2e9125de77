//! The calls of [`ObjectStore`], in the JSON API's words.

use serde::Deserialize;

use super::related::Checked;
use super::resource::{FIELDS, Listing, Object, Rewritten};
use super::{Call, EMPTY, Gcs};
use crate::store::{Class, Condition, Info, ObjectStore, Page, Parts, Sink, StoreError, Stretch};

impl Gcs {
    pub(super) fn json<T: for<'a> Deserialize<'a>>(&self, call: &Call<'_>, answer: &[u8]) -> Result<T, StoreError> {
        serde_json::from_slice(answer).map_err(|e| self.nonsense(call, format!("the answer is not Google Cloud Storage's JSON: {e}")))
    }

    pub(super) fn nonsense(&self, call: &Call<'_>, detail: String) -> StoreError {
        let request = format!("{} {}", call.method, self.url(call.key));
        StoreError { class: Class::Refused, request, status: 200, code: String::new(), detail }
    }

    fn listed(&self, prefix: &str, page: Option<&str>) -> Result<Listing, StoreError> {
        let mut query = vec![("prefix", prefix), ("fields", "items(name,size,generation,crc32c),nextPageToken")];
        query.extend(page.map(|token| ("pageToken", token)));
        let path = format!("/storage/v1/b/{}/o", self.bucket);
        let call = Call { method: "GET", path, query, headers: vec![], body: EMPTY, key: "" };
        let found: Listing = self.json(&call, &self.call(&call)?)?;
        if found.next_page_token.is_some() && found.next_page_token.as_deref() == page {
            return Err(self.nonsense(&call, "the listing does not go on".into()));
        }
        Ok(found)
    }

    /// Every object below a prefix.
    pub(super) fn all(&self, prefix: &str) -> Result<Vec<Object>, StoreError> {
        let (mut objects, mut page) = (vec![], None);
        loop {
            let found = self.listed(prefix, page.as_deref())?;
            objects.extend(found.items);
            page = found.next_page_token;
            if page.is_none() {
                return Ok(objects);
            }
        }
    }
}

impl ObjectStore for Gcs {
    fn name(&self, key: &str) -> String {
        self.url(key)
    }

    fn integrity(&self) -> Result<&'static str, StoreError> {
        // Not asked: the documentation promises that an upload which names another checksum is refused.
        Ok(match self.checked()? {
            Checked::Crc32c => "crc32c",
            Checked::Md5 => "md5",
            Checked::Nothing => "none",
        })
    }

    fn no_version(&self) -> String {
        "1".into()
    }

    fn head(&self, key: &str) -> Result<Option<Info>, StoreError> {
        let call = Call { method: "GET", path: self.object(key), query: vec![("fields", FIELDS)], headers: vec![], body: EMPTY, key };
        let answer = match self.call(&call) {
            Ok(answer) => answer,
            Err(e) if e.class == Class::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let object: Object = self.json(&call, &answer)?;
        object.info().map(Some).ok_or_else(|| self.nonsense(&call, "the object has no size".into()))
    }

    fn get(&self, key: &str, sink: Sink<'_>) -> Result<Info, StoreError> {
        self.download(key, sink)
    }

    fn read_range(&self, key: &str, from: u64, to: u64) -> Result<Vec<u8>, StoreError> {
        if from == to {
            return Ok(vec![]);
        }
        let headers = vec![("accept-encoding", "gzip".to_string()), ("range", format!("bytes={from}-{}", to - 1))];
        let call = Call { method: "GET", path: self.object(key), query: vec![("alt", "media")], headers, body: EMPTY, key };
        let bytes = self.call(&call)?;
        if bytes.len() as u64 != to - from {
            return Err(self.nonsense(&call, format!("{} bytes came for {from} to {to}", bytes.len())));
        }
        Ok(bytes)
    }

    fn put(&self, key: &str, body: &[u8]) -> Result<String, StoreError> {
        self.write(key, body, None)
    }

    fn put_if(&self, key: &str, body: &[u8], condition: Condition<'_>) -> Result<String, StoreError> {
        match condition {
            // No object has the generation 0.
            Condition::Absent => self.write(key, body, Some("0")),
            Condition::Version(generation) => self.write(key, body, Some(generation)),
        }
    }

    fn list(&self, prefix: &str, page: Option<&str>) -> Result<Page, StoreError> {
        let found = self.listed(prefix, page)?;
        let mut objects = Vec::with_capacity(found.items.len());
        for object in found.items {
            let size = object.size.parse().map_err(|_| StoreError {
                class: Class::Refused,
                request: format!("LIST {}", self.url(prefix)),
                status: 200,
                code: String::new(),
                detail: format!("the listing has no size for {:?}", object.name),
            })?;
            objects.push((object.name, size));
        }
        Ok(Page { objects, next: found.next_page_token })
    }

    fn create_upload(&self, _key: &str) -> Result<String, StoreError> {
        self.checked().map(|_| self.new_upload())
    }

    fn upload_part(&self, _key: &str, upload: &str, number: u32, body: &[u8]) -> Result<String, StoreError> {
        self.write(&Gcs::part_key(upload, number), body, None)
    }

    fn put_stretch(&self, key: &str, body: &Stretch<'_>) -> Result<String, StoreError> {
        self.write_stretch(key, body)
    }

    fn upload_stretch(&self, _key: &str, upload: &str, number: u32, body: &Stretch<'_>) -> Result<String, StoreError> {
        self.write_stretch(&Gcs::part_key(upload, number), body)
    }

    fn list_parts(&self, _key: &str, upload: &str) -> Result<Option<Parts>, StoreError> {
        let number = |object: &Object| object.name.strip_prefix(upload)?.parse().ok();
        let found: Parts = self.of_upload(upload)?.into_iter().filter_map(|o| Some((number(&o)?, o.generation))).collect();
        // An upload without a part is not told from one that is gone.
        Ok(Some(found).filter(|found| !found.is_empty()))
    }

    fn holds_upload(&self, key: &str, upload: &str, parts: &[String]) -> Result<bool, StoreError> {
        match self.parts(key, upload, parts) {
            Err(e) if e.class == Class::NoSuchUpload => Ok(false),
            other => other.map(|_| true),
        }
    }

    fn complete_upload(&self, key: &str, upload: &str, parts: &[String], crc64nvme: &str) -> Result<(), StoreError> {
        self.composed(key, upload, parts, crc64nvme)
    }

    fn abort_upload(&self, _key: &str, upload: &str) -> Result<(), StoreError> {
        self.forget(upload)
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), StoreError> {
        let mut token: Option<String> = None;
        loop {
            let path = format!("{}/rewriteTo/b/{}/o/{}", self.object(from), self.bucket, crate::store::s3::sign::encode(to, false));
            let query = token.iter().map(|token| ("rewriteToken", token.as_str())).collect();
            let headers = vec![("content-type", "application/json".to_string())];
            let call = Call { method: "POST", path, query, headers, body: EMPTY, key: from };
            let step: Rewritten = self.json(&call, &self.call(&call)?)?;
            if step.done {
                return Ok(());
            }
            // A large copy goes on for several requests.
            token = Some(step.rewrite_token.ok_or_else(|| self.nonsense(&call, "the copy does not say how it goes on".into()))?);
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        match self.call(&Call { method: "DELETE", path: self.object(key), query: vec![], headers: vec![], body: EMPTY, key }) {
            Err(e) if e.class != Class::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}
