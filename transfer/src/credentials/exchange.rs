//! One request to whoever lends credentials, on a connection of its own.

use std::ops::ControlFlow;
use std::time::Duration;

use super::CredentialError;
use crate::store::s3::connection::{Connection, Payload};
use crate::store::s3::endpoint::Endpoint;
use crate::store::s3::sign::encode;

const SILENCE: Duration = Duration::from_secs(10);
/// Largest answer: tokens are a few KiB.
const LIMIT: usize = 256 << 10;

/// An answer's status and body.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Vec<u8>,
}

/// A URL in its parts: where to connect, and what to ask for there.
pub(super) fn split(url: &str) -> Result<(Endpoint, String), CredentialError> {
    let after = url.find("://").map_or(0, |at| at + 3);
    let (base, path) = match url[after..].find('/') {
        Some(slash) => url.split_at(after + slash),
        None => (url, "/"),
    };
    // The endpoint's own words are about another variable.
    let bad = |_| CredentialError::Wrong(format!("{base:?} is no http:// or https:// URL of a host"));
    if path.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err(CredentialError::Wrong("a URL of a lender of credentials has a space or control character in it".into()));
    }
    Ok((Endpoint::parse(base).map_err(bad)?, path.to_string()))
}

/// Sends one request; answers that may pass (5xx, 429, none at all) are errors already.
pub(super) fn ask(method: &str, url: &str, headers: &[(&str, &str)], body: &[u8]) -> Result<Answer, CredentialError> {
    let (endpoint, path) = split(url)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n", endpoint.authority());
    for (name, value) in headers {
        if value.contains(['\r', '\n']) {
            return Err(CredentialError::Wrong(format!("the value for {name} has a line break in it")));
        }
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    let lost = |e: std::io::Error| CredentialError::Passing(format!("no answer from {}:{}: {e}", endpoint.host, endpoint.port));
    let mut connection = Connection::open(&endpoint, SILENCE).map_err(lost)?;
    let answer = connection.ask(&head, Payload::Bytes(body)).map_err(lost)?;
    let mut bytes = Vec::new();
    let whole = connection.body(&answer, method, &mut |piece| {
        bytes.extend_from_slice(piece);
        if bytes.len() > LIMIT { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    whole.map_err(lost)?;
    if answer.status == 429 || answer.status >= 500 {
        return Err(CredentialError::Passing(format!("{} answers HTTP {}", endpoint.host, answer.status)));
    }
    Ok(Answer { status: answer.status, body: bytes })
}

/// The body of a form.
pub(super) fn form(pairs: &[(&str, &str)]) -> String {
    pairs.iter().map(|(k, v)| format!("{}={}", encode(k, false), encode(v, false))).collect::<Vec<_>>().join("&")
}

/// A file that somebody else keeps fresh, trimmed.
pub(super) fn file(path: &str) -> Result<String, CredentialError> {
    let text = std::fs::read_to_string(path).map_err(|e| CredentialError::Wrong(format!("{path}: {e}")))?;
    let text = text.trim();
    if text.is_empty() { Err(CredentialError::Passing(format!("{path} is empty"))) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_forms() {
        let at = |url| split(url).map(|(endpoint, path)| (endpoint.authority(), path));
        assert_eq!(at("http://169.254.170.23/v1/credentials"), Ok(("169.254.170.23".into(), "/v1/credentials".into())));
        assert_eq!(at("https://sts.eu-west-1.amazonaws.com"), Ok(("sts.eu-west-1.amazonaws.com".into(), "/".into())));
        assert_eq!(at("http://[fd00:ec2::23]:80/v1?x=y"), Ok(("[fd00:ec2::23]".into(), "/v1?x=y".into())));
        for bad in ["", "host/path", "ftp://x/y", "http://host/a b", "http://host/a\r\nb: c", "http:///x"] {
            assert!(split(bad).is_err(), "{bad}");
        }
        assert_eq!(form(&[("Action", "A b"), ("Token", "x+y/=&")]), "Action=A%20b&Token=x%2By%2F%3D%26");
    }
}
