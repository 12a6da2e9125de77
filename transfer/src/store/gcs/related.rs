//! `multipart/related`: an object's metadata and its bytes in one request, so that its checksum comes before them.

use serde_json::{Map, Value, json};

use super::resource::CRC64NVME;
use crate::checksum::{Crc32c, Md5, crc64nvme_text, nonce};
use crate::spec::Integrity;

/// What stands around an object's bytes.
pub(super) struct Frame {
    pub(super) content_type: String,
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl Frame {
    /// Of an upload as `key`, checked by `sum`.
    pub(super) fn new(key: &str, crc64nvme: u64, sum: Option<(&'static str, String)>) -> Frame {
        let mut about = Map::new();
        about.insert("name".into(), key.into());
        about.insert("contentType".into(), "application/octet-stream".into());
        about.extend(sum.map(|(name, value)| (name.to_string(), value.into())));
        about.insert("metadata".into(), json!({ CRC64NVME: crc64nvme_text(crc64nvme) }));
        // Random: no file can have it in it on purpose.
        let boundary = format!("gpujob-{}{}", nonce(), nonce());
        let about = Value::Object(about);
        let before = format!(
            "--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n{about}\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n"
        );
        let after = format!("\r\n--{boundary}--\r\n");
        Frame { content_type: format!("multipart/related; boundary={boundary}"), before: before.into(), after: after.into() }
    }
}

/// The sums of an object that is sent: the one that the store is to check it by, and the CRC-32C that it answers with.
pub(super) struct Sums {
    kind: Checked,
    crc32c: Crc32c,
    md5: Md5,
}

impl Sums {
    pub(super) fn new(kind: Checked) -> Sums {
        Sums { kind, crc32c: Crc32c::default(), md5: Md5::default() }
    }

    /// More bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.crc32c.update(bytes);
        if self.kind == Checked::Md5 {
            self.md5.update(bytes);
        }
    }

    /// What the store is told, and the CRC-32C.
    pub(super) fn finish(self) -> (Option<(&'static str, String)>, String) {
        let crc32c = self.crc32c.finish();
        let told = match self.kind {
            Checked::Crc32c => Some(("crc32c", crc32c.clone())),
            Checked::Md5 => Some(("md5Hash", self.md5.finish())),
            Checked::Nothing => None,
        };
        (told, crc32c)
    }
}

/// What the store can check an upload by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    Crc32c,
    Md5,
    Nothing,
}

impl Checked {
    /// What the job's spec means here; `None` for a kind that the store does not know.
    pub(super) fn by(wanted: Option<Integrity>) -> Option<Checked> {
        match wanted {
            None => Some(Checked::Crc32c),
            Some(Integrity::Md5) => Some(Checked::Md5),
            Some(Integrity::None) => Some(Checked::Nothing),
            Some(Integrity::Crc64nvme | Integrity::Sha256) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::crc64nvme;

    #[test]
    fn what_is_announced_is_what_was_chosen() {
        for (kind, name) in [(Checked::Crc32c, Some("crc32c")), (Checked::Md5, Some("md5Hash")), (Checked::Nothing, None)] {
            assert_eq!(Sums::new(kind).finish().0.map(|told| told.0), name);
        }
    }

    #[test]
    fn metadata_first_then_the_bytes() {
        let mut sums = Sums::new(Checked::Crc32c);
        sums.update(b"1234");
        sums.update(b"56789");
        let (told, crc32c) = sums.finish();
        assert_eq!(crc32c, "4waSgw==");
        let frame = Frame::new("a\"b", crc64nvme(b"123456789"), told);
        let text = String::from_utf8([&frame.before[..], b"123456789", &frame.after].concat()).expect("text");
        let boundary = frame.content_type.split_once("boundary=").expect("a boundary").1;
        let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
        assert_eq!((parts.len(), parts[0], parts[3]), (4, "", "--\r\n"));
        let about: Value = serde_json::from_str(parts[1].split_once("\r\n\r\n").expect("a head").1.trim()).expect("JSON");
        assert_eq!(about["name"], "a\"b");
        assert_eq!(about["crc32c"], "4waSgw==");
        assert_eq!(about["metadata"]["gpujob-crc64nvme"], "rosUhgp5mIg=");
        assert!(parts[2].ends_with("\r\n\r\n123456789\r\n"));
    }
}
