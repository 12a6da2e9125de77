//! `multipart/related`: an object's metadata and its bytes in one request, so that its checksum comes before them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::CrcAlgorithm;
use serde_json::{Map, Value, json};

use super::resource::CRC64NVME;
use crate::checksum::{crc64nvme, crc64nvme_text, md5, nonce};
use crate::spec::Integrity;

/// The content type and the body of an upload of `bytes` as `key`, checked by `kind`.
pub(super) fn upload(key: &str, bytes: &[u8], kind: Checked) -> (String, Vec<u8>) {
    let mut about = Map::new();
    about.insert("name".into(), key.into());
    about.insert("contentType".into(), "application/octet-stream".into());
    match kind {
        Checked::Crc32c => drop(about.insert("crc32c".into(), crc32c(bytes).into())),
        Checked::Md5 => drop(about.insert("md5Hash".into(), STANDARD.encode(md5(bytes)).into())),
        Checked::Nothing => {}
    }
    about.insert("metadata".into(), json!({ CRC64NVME: crc64nvme_text(crc64nvme(bytes)) }));
    // Random: no file can have it in it on purpose.
    let boundary = format!("gpujob-{}{}", nonce(), nonce());
    let mut body = Vec::with_capacity(bytes.len() + 1024);
    body.extend_from_slice(format!("--{boundary}\r\ncontent-type: application/json; charset=UTF-8\r\n\r\n").as_bytes());
    body.extend_from_slice(Value::Object(about).to_string().as_bytes());
    body.extend_from_slice(format!("\r\n--{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n").as_bytes());
    body.extend_from_slice(bytes);
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    (format!("multipart/related; boundary={boundary}"), body)
}

/// CRC-32C as the store writes it: base64 of 4 big-endian bytes.
fn crc32c(bytes: &[u8]) -> String {
    let crc = crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, bytes);
    STANDARD.encode(&crc.to_be_bytes()[4..])
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

    #[test]
    fn metadata_first_then_the_bytes() {
        let (kind, body) = upload("a\"b", b"123456789", Checked::Crc32c);
        let text = String::from_utf8(body).expect("text");
        let boundary = kind.split_once("boundary=").expect("a boundary").1;
        let parts: Vec<_> = text.split(&format!("--{boundary}")).collect();
        assert_eq!((parts.len(), parts[0], parts[3]), (4, "", "--\r\n"));
        let about: Value = serde_json::from_str(parts[1].split_once("\r\n\r\n").expect("a head").1.trim()).expect("JSON");
        assert_eq!(about["name"], "a\"b");
        assert_eq!(about["crc32c"], "4waSgw==");
        assert_eq!(about["metadata"]["gpujob-crc64nvme"], "rosUhgp5mIg=");
        assert!(parts[2].ends_with("\r\n\r\n123456789\r\n"));
    }
}
