//! Objects on their way to Google Cloud Storage: from memory, or from a file of which no more than a buffer is in memory.

use super::related::{Checked, Frame, Sums};
use super::resource::{FIELDS, Object};
use super::{Call, Gcs};
use crate::checksum::crc64nvme;
use crate::store::s3::connection::Payload;
use crate::store::wire::Try;
use crate::store::{Class, StoreError, Stretch, summed};

impl Gcs {
    pub(super) fn checked(&self) -> Result<Checked, StoreError> {
        Checked::by(self.wanted).ok_or_else(|| StoreError {
            class: Class::NotHonoured,
            request: format!("PUT {}", self.url(&self.folder)),
            status: 0,
            code: String::new(),
            detail: "Google Cloud Storage checks crc32c and md5 only".into(),
        })
    }

    /// Writes an object, only over that generation if one is named. Returns its own.
    pub(super) fn write(&self, key: &str, bytes: &[u8], generation: Option<&str>) -> Result<String, StoreError> {
        let mut sums = Sums::new(self.checked()?);
        sums.update(bytes);
        let frame = Frame::new(key, crc64nvme(bytes), sums.finish().0);
        let body = [&frame.before[..], bytes, &frame.after].concat();
        let call = self.upload(key, generation, &frame, Payload::Bytes(&body));
        let made: Object = self.json(&call, &self.call(&call)?)?;
        Ok(made.generation)
    }

    /// Sends a stretch of a file.
    pub(super) fn write_stretch(&self, key: &str, body: &Stretch<'_>) -> Result<String, StoreError> {
        let mut sums = Sums::new(self.checked()?);
        summed(&self.url(key), body, |bytes| sums.update(bytes))?;
        let (told, crc32c) = sums.finish();
        let frame = Frame::new(key, body.crc64nvme, told);
        let call = self.upload(key, None, &frame, Payload::Framed(&frame.before, body, &frame.after));
        self.repeat(|| {
            let made = self.try_call(&call).and_then(|answer| self.json::<Object>(&call, &answer).map_err(Try::Failed));
            let made = match made {
                // Also where the job wants nothing checked: it is answered anyway, and the file may change while it is sent.
                Ok(made) if made.crc32c.as_ref().is_some_and(|there| *there != crc32c) => Err(Try::Failed(StoreError {
                    class: Class::BadDigest,
                    detail: "its CRC-32C is of other bytes".into(),
                    ..self.nonsense(&call, String::new())
                })),
                other => other,
            };
            match made {
                // Not damaged on its way: the file is another one, and no repetition brings it back.
                Err(Try::Failed(e)) if e.class == Class::BadDigest && !body.holds().unwrap_or(false) => Ok(Err(e)),
                other => other.map(|made| Ok(made.generation)),
            }
        })?
    }

    fn upload<'a>(&self, key: &'a str, generation: Option<&'a str>, frame: &Frame, body: Payload<'a>) -> Call<'a> {
        let mut query = vec![("uploadType", "multipart"), ("fields", FIELDS)];
        query.extend(generation.map(|generation| ("ifGenerationMatch", generation)));
        let path = format!("/upload/storage/v1/b/{}/o", self.bucket);
        Call { method: "POST", path, query, headers: vec![("content-type", frame.content_type.clone())], body, key }
    }
}
