//! Uploads in parts: each part is an object below the upload's folder, and completing composes them, at most 32 at a time.
//!
//! The upload's id is that folder. A part is named by its number and pinned by its generation, so that a part which somebody
//! wrote again is not taken. The parts' CRC-32C, which the store checked one by one, join to the one that the whole must have.

use std::collections::HashMap;

use crc_fast::CrcAlgorithm;
use serde_json::json;

use super::resource::{CRC64NVME, Object};
use super::{Call, Gcs};
use crate::checksum::nonce;
use crate::crew;
use crate::store::s3::connection::Payload;
use crate::store::s3::sign::encode;
use crate::store::{Class, ObjectStore, StoreError};

/// Where parts wait, below the store's folder.
const PARTS: &str = ".gpujob/staging/parts/";
/// Most sources of one composition.
const MOST: usize = 32;
/// Requests at a time.
const THREADS: usize = 8;

/// A source of a composition: name, generation, size, CRC-32C.
pub(super) struct Part {
    name: String,
    generation: String,
    size: u64,
    crc32c: u64,
}

impl Gcs {
    pub(super) fn new_upload(&self) -> String {
        format!("{}{PARTS}{}/", self.folder, nonce())
    }

    /// Whether an upload of ours can have that id. Ids come back from journals, and everything that begins with one is removed: a
    /// damaged one, an empty one above all, must not name anything else.
    fn is_upload(&self, id: &str) -> bool {
        let name = id.strip_prefix(&self.folder).and_then(|id| id.strip_prefix(PARTS)).and_then(|id| id.strip_suffix('/'));
        name.is_some_and(|name| name.len() == 16 && name.bytes().all(|b| b.is_ascii_hexdigit()))
    }

    /// Every object of an upload; there is none of what is no upload.
    pub(super) fn of_upload(&self, id: &str) -> Result<Vec<Object>, StoreError> {
        if self.is_upload(id) { self.all(id) } else { Ok(vec![]) }
    }

    pub(super) fn part_key(upload: &str, number: u32) -> String {
        format!("{upload}{number:05}")
    }

    /// Makes the object, then removes the parts: a second call finds them gone.
    pub(super) fn composed(&self, key: &str, upload: &str, generations: &[String], crc64nvme: &str) -> Result<(), StoreError> {
        let mut parts = self.parts(key, upload, generations)?;
        let mut level = 0;
        while parts.len() > MOST {
            let groups: Vec<_> = parts.chunks(MOST).enumerate().collect();
            parts = crew::run(THREADS, groups, |(n, group)| self.compose(&format!("{upload}c{level}-{n:05}"), group, None))?;
            level += 1;
        }
        self.compose(key, &parts, Some(crc64nvme))?;
        self.forget(upload)
    }

    /// Removes everything of an upload.
    pub(super) fn forget(&self, upload: &str) -> Result<(), StoreError> {
        let keys: Vec<_> = self.of_upload(upload)?.into_iter().map(|object| object.name).collect();
        crew::run(THREADS, keys, |key| self.delete(&key)).map(drop)
    }

    /// The parts in order, if every one of them is still what was sent.
    pub(super) fn parts(&self, key: &str, upload: &str, generations: &[String]) -> Result<Vec<Part>, StoreError> {
        let found: HashMap<_, _> = self.of_upload(upload)?.into_iter().map(|object| (object.name.clone(), object)).collect();
        let one = |(n, generation): (usize, &String)| {
            let number = u32::try_from(n + 1).ok()?;
            let object = found.get(&Gcs::part_key(upload, number)).filter(|object| object.generation == *generation)?;
            part(object)
        };
        generations.iter().enumerate().map(one).collect::<Option<_>>().ok_or_else(|| StoreError {
            class: Class::NoSuchUpload,
            request: format!("COMPOSE {}", self.url(key)),
            status: 404,
            code: String::new(),
            detail: "its parts are gone: it was completed or given up".into(),
        })
    }

    fn compose(&self, to: &str, parts: &[Part], crc64nvme: Option<&str>) -> Result<Part, StoreError> {
        let sources: Vec<_> = parts.iter().map(|part| json!({"name": part.name, "generation": part.generation})).collect();
        let mut destination = json!({"contentType": "application/octet-stream"});
        if let Some(crc) = crc64nvme {
            destination["metadata"] = json!({ CRC64NVME: crc });
        }
        let body = json!({"sourceObjects": sources, "destination": destination}).to_string();
        let call = Call {
            method: "POST",
            path: format!("{}/compose", self.object(to)),
            query: vec![],
            headers: vec![("content-type", "application/json".into())],
            body: Payload::Bytes(body.as_bytes()),
            key: to,
        };
        let answer =
            self.call(&call).map_err(|e| if e.class == Class::NotFound { StoreError { class: Class::NoSuchUpload, ..e } } else { e })?;
        let made: Object = self.json(&call, &answer)?;
        let want = parts.iter().fold((0, 0), |(crc, size), next| {
            let joined =
                if size == 0 { next.crc32c } else { crc_fast::checksum_combine(CrcAlgorithm::Crc32Iscsi, crc, next.crc32c, next.size) };
            (joined, size + next.size)
        });
        match part(&made) {
            Some(part) if (part.crc32c, part.size) == want => Ok(Part { name: to.into(), ..part }),
            _ => Err(StoreError {
                class: Class::BadDigest,
                request: format!("COMPOSE {}", self.url(to)),
                status: 200,
                code: String::new(),
                detail: "the composed object is not the sum of its parts".into(),
            }),
        }
    }

    /// The encoded path of an object's resource.
    pub(super) fn object(&self, key: &str) -> String {
        format!("/storage/v1/b/{}/o/{}", self.bucket, encode(key, false))
    }
}

fn part(object: &Object) -> Option<Part> {
    let (size, crc32c) = (object.size.parse().ok()?, object.crc32c()?);
    Some(Part { name: object.name.clone(), generation: object.generation.clone(), size, crc32c })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_upload_is_called_is_one() {
        let gcs = |folder| Gcs::from_env("bucket", &|_| None).expect("it connects to nothing").checked_by(None, folder);
        for folder in ["", "out/"] {
            assert!(gcs(folder).is_upload(&gcs(folder).new_upload()));
        }
        let id = gcs("out/").new_upload();
        assert!(!gcs("").is_upload(&id) && !gcs("other/").is_upload(&id));
        let (cut, half) = (id.trim_end_matches('/'), &id[..id.len() - 5]);
        for bad in [
            "",
            "/",
            "out/",
            "out/.gpujob/staging/parts/",
            "out/.gpujob/staging/parts//",
            cut,
            half,
            &format!("{cut}/../"),
            &format!("{id}0/"),
        ] {
            assert!(!gcs("out/").is_upload(bad), "{bad:?}");
            // Nothing is asked of a store that is not there.
            assert!(gcs("out/").of_upload(bad).expect("no request").is_empty(), "{bad:?}");
        }
    }
}
