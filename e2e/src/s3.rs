//! A small S3 client for the lab's own errands: buckets, sample data, looking at results. Requests are signed (SigV4).

use crate::host::{REGION, S3_ENDPOINT};
use crate::http::{self, Answer};
use crate::services::ec2::ADMINISTRATOR;
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, StatusCode};
use sha2::{Digest, Sha256};

/// One account at one endpoint; paths are `endpoint/bucket/key`.
#[derive(Debug, Clone)]
pub struct S3 {
    /// `http://host:port`.
    pub endpoint: String,
    /// Access key id.
    pub access_key: String,
    /// Secret access key.
    pub secret_key: String,
}

impl S3 {
    /// The lab's, as its administrator.
    pub fn lab() -> Self {
        let (access_key, secret_key) = ADMINISTRATOR;
        Self { endpoint: S3_ENDPOINT.to_owned(), access_key: access_key.to_owned(), secret_key: secret_key.to_owned() }
    }

    /// Makes a bucket (3 letters or more); one that is there already is fine.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn create_bucket(&self, bucket: &str) -> Result<()> {
        let answer = self.send(Method::PUT, &format!("/{bucket}"), &[], b"").await?;
        if answer.status == StatusCode::CONFLICT {
            return Ok(());
        }
        answer.success().map(drop)
    }

    /// Writes an object.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn put(&self, bucket: &str, key: &str, body: &[u8]) -> Result<()> {
        self.send(Method::PUT, &object(bucket, key), &[], body).await?.success().map(drop)
    }

    /// Reads an object; `None` if it is not there.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn get(&self, bucket: &str, key: &str) -> Result<Option<Bytes>> {
        let answer = self.send(Method::GET, &object(bucket, key), &[], b"").await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        Ok(Some(answer.success()?.body))
    }

    /// Deletes an object; one that is not there is fine.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn delete(&self, bucket: &str, key: &str) -> Result<()> {
        self.send(Method::DELETE, &object(bucket, key), &[], b"").await?.success().map(drop)
    }

    /// All keys that begin with `prefix`, in order.
    ///
    /// # Errors
    /// The store refuses or does not answer.
    pub async fn list(&self, bucket: &str, prefix: &str) -> Result<Vec<String>> {
        let (mut keys, mut token) = (vec![], None::<String>);
        loop {
            let mut query = vec![("list-type", "2".to_owned()), ("prefix", prefix.to_owned())];
            if let Some(token) = token.take() {
                query.push(("continuation-token", token));
            }
            let text = self.send(Method::GET, &format!("/{bucket}"), &query, b"").await?.success()?.text();
            keys.extend(elements(&text, "Key"));
            token = elements(&text, "NextContinuationToken").pop();
            if token.is_none() {
                return Ok(keys);
            }
        }
    }

    /// Sends any request, signed; the answer's status may be of any class.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn send(&self, method: Method, path: &str, query: &[(&str, String)], body: &[u8]) -> Result<Answer> {
        let mut query: Vec<_> = query.iter().map(|(name, value)| format!("{name}={}", encode(value, false))).collect();
        query.sort();
        let (path, query) = (encode(path, true), query.join("&"));
        let host = self.endpoint.strip_prefix("http://").context("an endpoint starts with http://")?;
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
        let hash = hex(&Sha256::digest(body));
        let headers = format!("host:{host}\nx-amz-content-sha256:{hash}\nx-amz-date:{time}\n");
        let names = "host;x-amz-content-sha256;x-amz-date";
        let canonical = format!("{method}\n{path}\n{query}\n{headers}\n{names}\n{hash}");
        let scope = format!("{}/{REGION}/s3/aws4_request", &time[..8]);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex(&Sha256::digest(canonical)));
        let start = format!("AWS4{}", self.secret_key).into_bytes();
        let key = scope.split('/').fold(start, |key, part| hmac(&key, part.as_bytes()));
        let signature = hex(&hmac(&key, to_sign.as_bytes()));
        let credential = format!("{}/{scope}", self.access_key);
        let authorization = format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={signature}");
        let mark = if query.is_empty() { "" } else { "?" };
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}{mark}{query}", self.endpoint))
            .header("host", host)
            .header("x-amz-date", time)
            .header("x-amz-content-sha256", hash)
            .header("authorization", authorization)
            .body(Full::from(body.to_vec()))?;
        http::send(request).await
    }
}

fn object(bucket: &str, key: &str) -> String {
    format!("/{bucket}/{key}")
}

/// Percent-encoding as SigV4 wants it.
fn encode(text: &str, keep_slash: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) || (keep_slash && byte == b'/');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The texts of all elements with this name, with XML's five entities undone.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let inner = xml.split(&open).skip(1).filter_map(|rest| rest.split_once(&close).map(|(inner, _)| inner));
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#34;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    inner.map(|text| entities.iter().fold(text.to_owned(), |text, (entity, plain)| text.replace(entity, plain))).collect()
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    if key.len() > block.len() {
        block[..32].copy_from_slice(&Sha256::digest(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner = Sha256::new().chain_update(block.map(|byte| byte ^ 0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(block.map(|byte| byte ^ 0x5c)).chain_update(inner).finalize().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hmac_is_that_of_rfc_4231() {
        let expected = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        assert_eq!(hex(&hmac(b"Jefe", b"what do ya want for nothing?")), expected);
    }

    #[test]
    fn keys_are_found_in_a_listing() {
        let xml = "<R><Contents><Key>a&amp;b</Key></Contents><Contents><Key>c</Key></Contents></R>";
        assert_eq!(elements(xml, "Key"), ["a&b", "c"]);
        assert_eq!(encode("/a b/ü", true), "/a%20b/%C3%BC");
    }
}
