//! AWS Signature Version 4, for S3: the canonical form of a request and its `Authorization` header. Pure: the time is given.

use aws_lc_rs::hmac;

use crate::checksum::{hex, sha256_hex};
use crate::credentials::aws::Keys;

/// A moment as SigV4 writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// `20130524T000000Z`
    pub time: String,
    /// `20130524`
    pub date: String,
}

impl Stamp {
    /// From seconds since 1970, UTC. The calendar is Howard Hinnant's `civil_from_days`.
    pub fn from_unix(seconds: u64) -> Stamp {
        let (days, rest) = ((seconds / 86_400) as i64, seconds % 86_400);
        let z = days + 719_468;
        let era = z / 146_097;
        let doe = z - era * 146_097;
        let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
        let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
        let mp = (5 * doy + 2) / 153;
        let day = doy - (153 * mp + 2) / 5 + 1;
        let month = if mp < 10 { mp + 3 } else { mp - 9 };
        let year = yoe + era * 400 + i64::from(month <= 2);
        let date = format!("{year:04}{month:02}{day:02}");
        Stamp { time: format!("{date}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60), date }
    }
}

/// Percent-encodes everything but unreserved characters; a slash only where `slash` is false.
pub fn encode(text: &str, slash: bool) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (slash && byte == b'/') {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
    }
    out
}

/// A query string: sorted and encoded, as both the request line and the signature need it.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut encoded: Vec<_> = pairs.iter().map(|(k, v)| (encode(k, false), encode(v, false))).collect();
    encoded.sort();
    encoded.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join("&")
}

/// What is signed. Header names are lower-case.
pub struct Request<'a> {
    /// `GET`, `PUT`, …
    pub method: &'a str,
    /// Encoded path.
    pub path: &'a str,
    /// From [`query`].
    pub query: &'a str,
    /// Every header that is sent, without `authorization`; all of them are signed.
    pub headers: &'a [(String, String)],
    /// SHA-256 of the body in hex, or `UNSIGNED-PAYLOAD`.
    pub payload: &'a str,
}

/// The `Authorization` header's value.
pub fn authorization(request: &Request<'_>, keys: &Keys, region: &str, at: &Stamp) -> String {
    let mut headers: Vec<_> = request.headers.iter().map(|(k, v)| (k.as_str(), v.trim())).collect();
    headers.sort();
    let names = headers.iter().map(|h| h.0).collect::<Vec<_>>().join(";");
    let mut canonical = format!("{}\n{}\n{}\n", request.method, request.path, request.query);
    for (name, value) in &headers {
        canonical.push_str(&format!("{name}:{value}\n"));
    }
    canonical.push_str(&format!("\n{names}\n{}", request.payload));
    let scope = format!("{}/{region}/s3/aws4_request", at.date);
    let to_sign = format!("AWS4-HMAC-SHA256\n{}\n{scope}\n{}", at.time, sha256_hex(canonical.as_bytes()));
    let mut key = format!("AWS4{}", keys.secret_key).into_bytes();
    for part in [at.date.as_str(), region, "s3", "aws4_request", &to_sign] {
        key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), part.as_bytes()).as_ref().to_vec();
    }
    let access = &keys.access_key;
    format!("AWS4-HMAC-SHA256 Credential={access}/{scope}, SignedHeaders={names}, Signature={}", hex(&key))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of "Signature Calculations for the Authorization Header" in the Amazon S3 API reference.
    fn aws_example(method: &str, path: &str, query: &str, more: &[(&str, &str)], payload: &str) -> String {
        let mut headers =
            vec![("host".to_string(), "examplebucket.s3.amazonaws.com".to_string()), ("x-amz-content-sha256".into(), payload.into())];
        if !more.iter().any(|h| h.0 == "x-amz-date") {
            headers.push(("x-amz-date".into(), "20130524T000000Z".into()));
        }
        headers.extend(more.iter().map(|(k, v)| (k.to_string(), v.to_string())));
        let keys = Keys {
            access_key: "AKIAIOSFODNN7EXAMPLE".into(),
            secret_key: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".into(),
            session_token: None,
        };
        let request = Request { method, path, query, headers: &headers, payload };
        let value = authorization(&request, &keys, "us-east-1", &Stamp::from_unix(1_369_353_600));
        value.rsplit_once("Signature=").map(|s| s.1.to_string()).unwrap_or_default()
    }

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn get_object() {
        assert_eq!(
            aws_example("GET", "/test.txt", "", &[("range", "bytes=0-9")], EMPTY),
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
    }

    #[test]
    fn put_object() {
        let more = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
        let body = sha256_hex(b"Welcome to Amazon S3.");
        assert_eq!(
            aws_example("PUT", &encode("/test$file.text", true), "", &more, &body),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
        );
    }

    #[test]
    fn bucket_lifecycle_and_listing() {
        assert_eq!(
            aws_example("GET", "/", &query(&[("lifecycle", "")]), &[], EMPTY),
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
        );
        assert_eq!(
            aws_example("GET", "/", &query(&[("prefix", "J"), ("max-keys", "2")]), &[], EMPTY),
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
        );
    }

    #[test]
    fn stamps_and_encoding() {
        assert_eq!(Stamp::from_unix(951_782_400).time, "20000229T000000Z");
        assert_eq!(Stamp::from_unix(1_767_225_599).time, "20251231T235959Z");
        assert_eq!(encode("a b/ü+~", true), "a%20b/%C3%BC%2B~");
        assert_eq!(query(&[("prefix", "a/b"), ("list-type", "2")]), "list-type=2&prefix=a%2Fb");
    }
}
