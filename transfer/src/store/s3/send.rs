//! Bytes on their way to S3: from memory, or from a file of which no more than a buffer is in memory.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::about::etag;
use super::connection::Payload;
use super::{Call, S3, integrity};
use crate::checksum::{Md5, md5};
use crate::spec::Integrity;
use crate::store::wire::Try;
use crate::store::{Class, StoreError, Stretch, changed, summed};

impl S3 {
    /// Sends bytes, checked as the store can, with one more header. Returns the ETag.
    pub(super) fn write(
        &self,
        key: &str,
        query: &[(&str, &str)],
        body: &[u8],
        more: Option<(&'static str, String)>,
    ) -> Result<String, StoreError> {
        // CreateBucket (only tests do it) has no folder to ask in.
        let kind = if key.is_empty() { Integrity::Crc64nvme } else { self.kind()? };
        let mut headers: Vec<_> = integrity::header(kind, body).into_iter().collect();
        headers.extend(more);
        let call = Call { method: "PUT", key, query, headers, body: Payload::Bytes(body) };
        let answer = self.repeat(|| {
            let answer = self.try_call(&call)?;
            if kind == Integrity::None && self.damaged(&answer.head, || STANDARD.encode(md5(body))) {
                return Err(self.of_other_bytes(&call));
            }
            Ok(answer)
        })?;
        Ok(etag(&answer.head))
    }

    /// Sends a stretch of a file. Returns the ETag.
    pub(super) fn write_stretch(&self, key: &str, query: &[(&str, &str)], body: &Stretch<'_>) -> Result<String, StoreError> {
        let kind = self.kind()?;
        let (header, sent) = match integrity::header_of(kind, body) {
            Some(header) => (Some(header), None),
            None => {
                let mut sum = Md5::default();
                summed(&self.url(key), body, |bytes| sum.update(bytes))?;
                let sum = sum.finish();
                ((kind == Integrity::Md5).then(|| ("content-md5", sum.clone())), Some(sum))
            }
        };
        let call = Call { method: "PUT", key, query, headers: header.into_iter().collect(), body: Payload::Stretch(body) };
        let answer = self.repeat(|| {
            let answer = match self.try_call(&call) {
                Ok(answer) if kind == Integrity::None && self.damaged(&answer.head, || sent.clone().unwrap_or_default()) => {
                    Err(self.of_other_bytes(&call))
                }
                other => other,
            };
            match answer {
                // Not damaged on its way: the file is another one, and no repetition brings it back.
                Err(Try::Failed(e)) if e.class == Class::BadDigest && !body.holds().unwrap_or(false) => Ok(Err(e)),
                other => other.map(Ok),
            }
        })??;
        // Where nothing tells what came, only the file tells that it was not written to while it was sent.
        if kind == Integrity::None && !body.holds().unwrap_or(false) {
            return Err(changed(&self.url(key)));
        }
        Ok(etag(&answer.head))
    }

    fn of_other_bytes(&self, call: &Call<'_>) -> Try {
        Try::Failed(self.refused(call, 200, "BadDigest".into(), "its ETag is of other bytes".into()))
    }
}
