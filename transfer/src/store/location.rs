//! `s3://bucket/prefix` and `gs://bucket/prefix` URLs.

/// Whose bucket it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `s3://`: AWS, or a store that speaks S3 at `AWS_ENDPOINT_URL_S3`.
    S3,
    /// `gs://`: Google Cloud Storage.
    Gs,
}

/// A place in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// Whose bucket.
    pub scheme: Scheme,
    /// Bucket.
    pub bucket: String,
    /// Key or prefix, without a leading slash; may be empty.
    pub key: String,
}

/// A URL that is no place in a bucket.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not of the form s3://bucket/prefix/ or gs://bucket/prefix/: {why}")]
pub struct BadLocation {
    /// As it was given.
    pub url: String,
    /// What is wrong with it.
    pub why: &'static str,
}

impl Location {
    /// Reads `s3://bucket/key` or `gs://bucket/key`.
    ///
    /// # Errors
    /// When the scheme, the bucket or the key cannot be right.
    pub fn parse(url: &str) -> Result<Location, BadLocation> {
        let bad = |why| BadLocation { url: url.into(), why };
        let (scheme, rest) = match url.split_once("://") {
            Some(("s3", rest)) => (Scheme::S3, rest),
            Some(("gs", rest)) => (Scheme::Gs, rest),
            _ => return Err(bad("only s3:// and gs:// are supported")),
        };
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
        if bucket.len() < 3
            || bucket.len() > (if scheme == Scheme::Gs && bucket.contains('.') { 222 } else { 63 })
            || !bucket.bytes().all(plain)
        {
            return Err(bad("a bucket has 3 to 63 letters, digits, dots and dashes"));
        }
        if key.starts_with('/') || key.split('/').any(|part| part == "." || part == "..") {
            return Err(bad("a key has no leading slash and no . or .. in it"));
        }
        Ok(Location { scheme, bucket: bucket.into(), key: key.into() })
    }

    /// As a folder: the key ends with a slash or is empty.
    pub fn folder(mut self) -> Location {
        if !self.key.is_empty() && !self.key.ends_with('/') {
            self.key.push('/');
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let at = |b: &str, k: &str| Ok(Location { scheme: Scheme::S3, bucket: b.into(), key: k.into() });
        assert_eq!(Location::parse("s3://data/digits/"), at("data", "digits/"));
        assert_eq!(Location::parse("s3://data"), at("data", ""));
        assert_eq!(Location::parse("s3://data/a b/ü"), at("data", "a b/ü"));
        assert_eq!(Location::parse("s3://data/x").map(Location::folder), at("data", "x/"));
        assert_eq!(Location::parse("s3://data").map(Location::folder), at("data", ""));
        assert_eq!(Location::parse("gs://data/k").map(|at| (at.scheme, at.bucket)), Ok((Scheme::Gs, "data".into())));
        for bad in ["https://x/y", "s3://", "s3:///k", "s3://b/k", "s3://bu cket/k", "s3://data//k", "s3://data/a/../b"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }
}
