//! Where the store answers, and how a bucket is addressed there.

/// Scheme, host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// https.
    pub tls: bool,
    /// Name or address, an IPv6 address without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// What is asked of where: the connection, and the path in front of the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// Where to connect.
    pub endpoint: Endpoint,
    /// Encoded path of the bucket: `` or `/bucket`.
    pub path: String,
}

impl Endpoint {
    /// Reads `http://host:port` or `https://host`.
    ///
    /// # Errors
    /// What is wrong with it, for people. Never the value: it may hold a password, or a secret put there by mistake.
    pub fn parse(url: &str) -> Result<Endpoint, String> {
        let (tls, rest) = match url.split_once("://") {
            Some(("http", rest)) => (false, rest),
            Some(("https", rest)) => (true, rest),
            _ => return Err("AWS_ENDPOINT_URL_S3 must begin with http:// or https://".into()),
        };
        let rest = rest.trim_end_matches('/');
        if rest.contains(['/', '?', '@']) {
            return Err("AWS_ENDPOINT_URL_S3 must be a host and port only, without user, path or query".into());
        }
        let bad = || "AWS_ENDPOINT_URL_S3 has no valid host and port".to_string();
        let (host, port) = match rest.strip_prefix('[') {
            Some(v6) => {
                let (host, after) = v6.split_once(']').ok_or_else(bad)?;
                (host, after.strip_prefix(':'))
            }
            None => match rest.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (rest, None),
            },
        };
        let port = match port {
            Some(text) => text.parse().map_err(|_| bad())?,
            None if tls => 443,
            None => 80,
        };
        if host.is_empty() {
            return Err(bad());
        }
        Ok(Endpoint { tls, host: host.into(), port })
    }

    /// The `Host` header: without the port where it is the scheme's own.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl Address {
    /// Path-style at a given endpoint, unless it is said to be `hosted` there as at AWS: the bucket is part of the host name
    /// then, unless it has dots in it, which no wildcard certificate covers.
    ///
    /// # Errors
    /// When the endpoint is no URL.
    pub fn of(bucket: &str, region: &str, endpoint: Option<&str>, hosted: Option<bool>) -> Result<Address, String> {
        if let Some(url) = endpoint {
            let endpoint = Endpoint::parse(url)?;
            return Ok(match hosted {
                Some(true) => {
                    Address { endpoint: Endpoint { host: format!("{bucket}.{}", endpoint.host), ..endpoint }, path: String::new() }
                }
                _ => Address { endpoint, path: format!("/{bucket}") },
            });
        }
        let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let (host, path) = if bucket.contains('.') || hosted == Some(false) {
            (format!("s3.{region}.{domain}"), format!("/{bucket}"))
        } else {
            (format!("{bucket}.s3.{region}.{domain}"), String::new())
        };
        Ok(Address { endpoint: Endpoint { tls: true, host, port: 443 }, path })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        let at = |tls, host: &str, port| Ok(Endpoint { tls, host: host.into(), port });
        assert_eq!(Endpoint::parse("http://127.0.0.1:8333"), at(false, "127.0.0.1", 8333));
        assert_eq!(Endpoint::parse("https://minio.example/"), at(true, "minio.example", 443));
        assert_eq!(Endpoint::parse("http://[::1]:80"), at(false, "::1", 80));
        for bad in ["minio:9000", "ftp://x", "http://", "http://x:port", "http://x/path", "http://user@x"] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
        for secret in ["wJalrXUtnFEMI/K7MDENG", "http://user:wJalrXUtnFEMI@host", "http://host:wJalrXUtnFEMI", "http://[wJalrXUtnFEMI"] {
            assert!(Endpoint::parse(secret).is_err_and(|e| !e.contains("wJalr")), "{secret}");
        }
        let authority = |url| Endpoint::parse(url).map(|e| e.authority());
        assert_eq!(authority("http://[::1]:9"), Ok("[::1]:9".into()));
        assert_eq!(authority("https://h:443"), Ok("h".into()));
    }

    #[test]
    fn buckets() {
        let host = |b, r, e| Address::of(b, r, e, None).map(|a| format!("{}{}", a.endpoint.authority(), a.path));
        assert_eq!(host("data", "eu-west-1", None), Ok("data.s3.eu-west-1.amazonaws.com".into()));
        assert_eq!(host("my.data", "eu-west-1", None), Ok("s3.eu-west-1.amazonaws.com/my.data".into()));
        assert_eq!(host("data", "cn-north-1", None), Ok("data.s3.cn-north-1.amazonaws.com.cn".into()));
        assert_eq!(host("data", "x", Some("http://10.0.0.1:8333")), Ok("10.0.0.1:8333/data".into()));
        let styled = |e, h| Address::of("data", "x", e, h).map(|a| format!("{}{}", a.endpoint.authority(), a.path));
        assert_eq!(styled(Some("https://oss.example"), Some(true)), Ok("data.oss.example".into()));
        assert_eq!(styled(None, Some(false)), Ok("s3.x.amazonaws.com/data".into()));
    }
}
