//! What an answer's head says of an object: its size, its version, the checksums kept with it. Pure.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::framing::Head;
use crate::checksum::Stored;
use crate::store::Info;

/// Its version.
pub(super) fn etag(head: &Head) -> String {
    head.get("etag").unwrap_or_default().to_string()
}

/// The object's size, if the answer says it.
pub(super) fn whole(head: &Head) -> Option<u64> {
    // A ranged answer says the whole size after the slash.
    let ranged = head.get("content-range").and_then(|r| r.rsplit_once('/')).map(|r| r.1);
    ranged.or_else(|| head.get("content-length")).and_then(|v| v.parse().ok())
}

pub(super) fn info(head: &Head) -> Info {
    Info { size: whole(head).unwrap_or(0), version: etag(head), sums: stored(head) }
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
pub(super) fn etag_md5(head: &Head) -> Option<String> {
    let encrypted = head.get("x-amz-server-side-encryption").is_some_and(|kind| kind.starts_with("aws:"));
    if encrypted || head.get("x-amz-server-side-encryption-customer-algorithm").is_some() {
        return None;
    }
    let text = head.get("etag")?.trim_matches('"');
    let digits: Vec<u8> = text.bytes().map(|b| (b as char).to_digit(16).map(|d| d as u8)).collect::<Option<_>>()?;
    let bytes: Vec<u8> = digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    (digits.len() == 32).then(|| STANDARD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_an_md5_unless_it_is_said_or_seen_not_to_be() {
        let head = |more: &[(&str, &str)]| {
            let etag = ("etag".to_string(), "\"25f9e794323b453885f5181f1b624d0b\"".to_string());
            Head { headers: more.iter().map(|h| (h.0.to_string(), h.1.to_string())).chain([etag]).collect(), ..Head::default() }
        };
        assert_eq!(etag_md5(&head(&[])).as_deref(), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
        assert_eq!(etag_md5(&head(&[("x-amz-server-side-encryption", "AES256")])).as_deref(), Some("JfnnlDI7RTiF9RgfG2JNCw=="));
        assert_eq!(etag_md5(&head(&[("x-amz-server-side-encryption", "aws:kms")])), None);
        assert_eq!(etag_md5(&head(&[("x-amz-server-side-encryption-customer-algorithm", "AES256")])), None);
        for other in ["\"25f9e794323b453885f5181f1b624d0b-2\"", "\"short\"", ""] {
            assert_eq!(etag_md5(&Head { headers: vec![("etag".into(), other.into())], ..Head::default() }), None, "{other}");
        }
    }

    #[test]
    fn a_size_that_is_not_said_is_not_zero() {
        let head = |name: &str, value: &str| Head { headers: vec![(name.into(), value.into())], ..Head::default() };
        assert_eq!(whole(&head("content-length", "0")), Some(0));
        assert_eq!(whole(&head("content-range", "bytes 2-4/5")), Some(5));
        assert_eq!(whole(&head("transfer-encoding", "chunked")), None);
    }
}
