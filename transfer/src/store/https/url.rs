//! `https://host/path?query` URLs: where to connect, what to ask for, what the file is called. Pure.

use std::net::IpAddr;

use crate::store::s3::endpoint::Endpoint;

/// Where one file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    /// Where to connect.
    pub endpoint: Endpoint,
    /// Path and query as they are asked for.
    pub target: String,
}

/// Why a URL cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{shown}: {why}")]
pub struct BadUrl {
    /// Without query, which may be a secret.
    pub shown: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Url {
    /// Reads a URL. `http://` is for loopback only: elsewhere anybody on the way could read along.
    ///
    /// # Errors
    /// When it is no URL of a file that can be asked for.
    pub fn parse(text: &str) -> Result<Url, BadUrl> {
        let bad = |why| BadUrl { shown: without_query(text).into(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| bad("it is no https:// URL"))?;
        if scheme != "https" && scheme != "http" {
            return Err(bad("it is no https:// URL"));
        }
        let rest = rest.split('#').next().unwrap_or_default();
        let at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err(BadUrl { shown: format!("{scheme}://…"), why: "a URL must have no user and password; sign it instead" });
        }
        let endpoint = Endpoint::parse(&format!("{scheme}://{authority}")).map_err(|_| bad("it has no valid host and port"))?;
        if !endpoint.host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._:".contains(&b)) {
            return Err(bad("a host has letters, digits, dots and dashes"));
        }
        if !endpoint.tls && !loopback(&endpoint.host) {
            return Err(bad("http:// is not protected on its way: use https://"));
        }
        let slash = if path.starts_with('/') { "" } else { "/" };
        Ok(Url { endpoint, target: format!("{slash}{}", escaped(path)) })
    }

    /// Where a `Location` header leads.
    ///
    /// # Errors
    /// When it is no place that may be asked for; from `https://` never to `http://`.
    pub fn join(&self, location: &str) -> Result<Url, BadUrl> {
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        let host = self.endpoint.authority();
        let to = if location.split('/').next().is_some_and(|first| first.ends_with(':')) {
            Url::parse(location)?
        } else if let Some(rest) = location.strip_prefix("//") {
            Url::parse(&format!("{scheme}://{rest}"))?
        } else if location.starts_with('/') {
            Url::parse(&format!("{scheme}://{host}{location}"))?
        } else {
            let path = without_query(&self.target);
            let folder = &path[..path.rfind('/').map_or(0, |slash| slash + 1)];
            Url::parse(&format!("{scheme}://{host}{folder}{location}"))?
        };
        if self.endpoint.tls && !to.endpoint.tls {
            return Err(BadUrl { shown: to.shown(), why: "a redirect leads from https:// to http://" });
        }
        Ok(to)
    }

    /// For people: without its query, which may hold a signature.
    pub fn shown(&self) -> String {
        let scheme = if self.endpoint.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.endpoint.authority(), without_query(&self.target))
    }

    /// What the file is called: the path's last part. Empty for a folder.
    pub fn name(&self) -> String {
        let path = without_query(&self.target);
        unescaped(path.rsplit('/').next().unwrap_or_default())
    }
}

fn without_query(text: &str) -> &str {
    text.split(['?', '#']).next().unwrap_or_default()
}

fn loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What no request line can carry, as percent and hex.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

fn unescaped(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        match (bytes[at], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_names() {
        for (text, shown, target, name) in [
            ("https://example.com/a/model.bin?sig=s%3D", "https://example.com/a/model.bin", "/a/model.bin?sig=s%3D", "model.bin"),
            ("https://example.com:8443/ü b#part", "https://example.com:8443/%C3%BC%20b", "/%C3%BC%20b", "ü b"),
            ("https://example.com", "https://example.com/", "/", ""),
            ("https://example.com?x=y", "https://example.com/", "/?x=y", ""),
            ("http://127.0.0.1:8000/x", "http://127.0.0.1:8000/x", "/x", "x"),
            ("http://[::1]:8000/100%", "http://[::1]:8000/100%", "/100%", "100%"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!((url.shown().as_str(), url.target.as_str(), url.name().as_str()), (shown, target, name));
        }
        for bad in ["ftp://x/y", "https://", "https:///x", "https://h:port/x", "http://example.com/x", "https://ex\nample/x", "host/x"] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
        let told = Url::parse("https://me:secret@host/x?token=t").expect_err("a password").to_string();
        assert!(!told.contains("secret") && !told.contains("token"), "{told}");
        // No header can be slipped in.
        assert!(Url::parse("https://host/x\r\nrange: y").is_ok_and(|url| !url.target.contains(['\r', '\n', ' '])));
    }

    #[test]
    fn redirects_lead_somewhere_safe() {
        let from = Url::parse("https://example.com/a/b?x").expect("a URL");
        let to = |location| from.join(location).map(|url| url.shown());
        assert_eq!(to("https://cdn.example.com/c"), Ok("https://cdn.example.com/c".into()));
        assert_eq!(to("//cdn.example.com/c"), Ok("https://cdn.example.com/c".into()));
        assert_eq!(to("/c"), Ok("https://example.com/c".into()));
        assert_eq!(to("c"), Ok("https://example.com/a/c".into()));
        assert!(to("http://example.com/c").is_err() && to("http://127.0.0.1/c").is_err() && to("ftp://x/").is_err());
    }
}
