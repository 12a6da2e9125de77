//! Checksums: CRC-64/NVME as S3 writes it (base64 of 8 big-endian bytes), SHA-256 in hex.

use aws_lc_rs::digest::{Context, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crc_fast::{CrcAlgorithm, Digest};
use md5::Digest as _;

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|n| char::from(DIGITS[usize::from(n)])).collect()
}

/// SHA-256 of bytes, in hex.
pub fn sha256_hex(bytes: &[u8]) -> String {
    hex(sha256(bytes).as_slice())
}

/// SHA-256 of bytes.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// MD5 of bytes: what stores of another age check uploads by, and what most ETags of single objects are.
pub fn md5(bytes: &[u8]) -> [u8; 16] {
    md5::Md5::digest(bytes).into()
}

/// MD5 of a stream of bytes.
#[derive(Default)]
pub struct Md5(md5::Md5);

impl Md5 {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came, in base64.
    pub fn finish(self) -> String {
        STANDARD.encode(self.0.finalize())
    }
}

/// CRC-32C of a stream of bytes.
pub struct Crc32c(Digest);

impl Default for Crc32c {
    fn default() -> Crc32c {
        Crc32c(Digest::new(CrcAlgorithm::Crc32Iscsi))
    }
}

impl Crc32c {
    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came: base64 of 4 big-endian bytes.
    pub fn finish(self) -> String {
        STANDARD.encode(&self.0.finalize().to_be_bytes()[4..])
    }
}

/// SHA-256 of a stream of bytes.
pub struct Sha256(Context);

impl Default for Sha256 {
    fn default() -> Sha256 {
        Sha256::new()
    }
}

impl Sha256 {
    /// Of nothing yet.
    pub fn new() -> Sha256 {
        Sha256(Context::new(&SHA256))
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came.
    pub fn finish(self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        out
    }
}

/// The bytes of a checksum as a job's spec writes it: `sha256:` and 64 hex digits.
pub fn pinned(text: &str) -> Option<[u8; 32]> {
    let digits = text.strip_prefix("sha256:")?.as_bytes();
    let mut out = [0; 32];
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, two) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(two).ok()?, 16).ok()?;
    }
    Some(out)
}

/// CRC-64/NVME of a stream of bytes.
pub struct Crc64(Digest);

impl Default for Crc64 {
    fn default() -> Crc64 {
        Crc64::new()
    }
}

impl Crc64 {
    /// Of nothing yet.
    pub fn new() -> Crc64 {
        Crc64(Digest::new(CrcAlgorithm::Crc64Nvme))
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Of all that came.
    pub fn finish(self) -> u64 {
        self.0.finalize()
    }
}

/// CRC-64/NVME of bytes.
pub fn crc64nvme(bytes: &[u8]) -> u64 {
    crc_fast::checksum(CrcAlgorithm::Crc64Nvme, bytes)
}

/// The CRC of two neighbours from their own, `len` being the second one's length.
pub fn crc64nvme_join(first: u64, second: u64, len: u64) -> u64 {
    crc_fast::checksum_combine(CrcAlgorithm::Crc64Nvme, first, second, len)
}

/// As in `x-amz-checksum-crc64nvme`.
pub fn crc64nvme_text(crc: u64) -> String {
    STANDARD.encode(crc.to_be_bytes())
}

/// The checksums that a store keeps with an object, as its headers have them (base64).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// CRC-64/NVME; always over the whole object.
    pub crc64nvme: Option<String>,
    /// CRC-32C.
    pub crc32c: Option<String>,
    /// CRC-32.
    pub crc32: Option<String>,
    /// SHA-256.
    pub sha256: Option<String>,
    /// MD5, from an ETag where that is one.
    pub md5: Option<String>,
    /// The values are hashes of the parts' hashes, so they say nothing about the bytes alone.
    pub composite: bool,
}

/// Checks a stream of bytes against what the store keeps with it.
pub struct Check {
    kind: Kind,
    want: String,
}

enum Kind {
    Crc(Box<Digest>, usize),
    Sha(Box<Context>),
    Md5(Box<md5::Md5>),
}

impl Check {
    /// The strongest check that `stored` allows; none when there is nothing to compare with.
    pub fn against(stored: &Stored) -> Option<Check> {
        let plain = |v: &Option<String>| v.clone().filter(|v| !stored.composite && !v.contains('-'));
        let crc = |algorithm, width, want| Check { kind: Kind::Crc(Box::new(Digest::new(algorithm)), width), want };
        if let Some(want) = plain(&stored.crc64nvme) {
            return Some(crc(CrcAlgorithm::Crc64Nvme, 8, want));
        }
        if let Some(want) = plain(&stored.sha256) {
            return Some(Check { kind: Kind::Sha(Box::new(Context::new(&SHA256))), want });
        }
        if let Some(want) = plain(&stored.crc32c) {
            return Some(crc(CrcAlgorithm::Crc32Iscsi, 4, want));
        }
        if let Some(want) = plain(&stored.crc32) {
            return Some(crc(CrcAlgorithm::Crc32IsoHdlc, 4, want));
        }
        // An ETag has no type: the other kinds are never composite without saying so, and this one was looked at when it was read.
        stored.md5.clone().map(|want| Check { kind: Kind::Md5(Box::default()), want })
    }

    /// More bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.kind {
            Kind::Crc(digest, _) => digest.update(bytes),
            Kind::Sha(context) => context.update(bytes),
            Kind::Md5(context) => context.update(bytes),
        }
    }

    /// `Err((got, want))` when the bytes are not those that were stored.
    ///
    /// # Errors
    /// Both values in base64.
    pub fn finish(self) -> Result<(), (String, String)> {
        let got = match self.kind {
            Kind::Crc(digest, width) => STANDARD.encode(&digest.finalize().to_be_bytes()[8 - width..]),
            Kind::Sha(context) => STANDARD.encode(context.finish().as_ref()),
            Kind::Md5(context) => STANDARD.encode(context.finalize()),
        };
        if got == self.want { Ok(()) } else { Err((got, self.want)) }
    }
}

/// A random name of 16 hex digits: tells this process's writes from everybody else's.
pub fn nonce() -> String {
    let mut bytes = [0; 8];
    aws_lc_rs::rand::fill(&mut bytes).expect("the system has randomness");
    hex(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        // The check value of the catalogue of CRCs, and FIPS 180's "abc".
        assert_eq!(crc64nvme(b"123456789"), 0xae8b_1486_0a79_9888);
        assert_eq!(sha256_hex(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let joined = crc64nvme_join(crc64nvme(b"1234"), crc64nvme(b"56789"), 5);
        assert_eq!(joined, 0xae8b_1486_0a79_9888);
        let mut stream = (Sha256::new(), Crc64::new());
        for piece in [&b"123"[..], b"", b"456789"] {
            stream.0.update(piece);
            stream.1.update(piece);
        }
        assert_eq!((stream.0.finish(), stream.1.finish()), (sha256(b"123456789"), 0xae8b_1486_0a79_9888));
        assert_eq!(pinned(&format!("sha256:{}", sha256_hex(b"abc"))), Some(sha256(b"abc")));
        for bad in
            ["", "sha256:", "md5:00", &sha256_hex(b"abc"), &format!("sha256:{}é", "a".repeat(62)), &format!("sha256:+{}", "a".repeat(63))]
        {
            assert_eq!(pinned(bad), None, "{bad}");
        }
        assert_eq!(crc64nvme_text(0xae8b_1486_0a79_9888), "rosUhgp5mIg=");
    }

    #[test]
    fn every_kind_of_stored_checksum_is_checked() {
        for stored in [
            Stored { crc64nvme: Some("rosUhgp5mIg=".into()), ..Stored::default() },
            Stored { crc32: Some("y/Q5Jg==".into()), ..Stored::default() },
            Stored { crc32c: Some("4waSgw==".into()), ..Stored::default() },
            Stored { sha256: Some(STANDARD.encode(sha256(b"123456789"))), ..Stored::default() },
            Stored { md5: Some("JfnnlDI7RTiF9RgfG2JNCw==".into()), composite: true, ..Stored::default() },
        ] {
            for (bytes, good) in [(b"123456789", true), (b"123456780", false)] {
                let mut check = Check::against(&stored).expect("a check");
                check.update(&bytes[..4]);
                check.update(&bytes[4..]);
                assert_eq!(check.finish().is_ok(), good, "{stored:?}");
            }
        }
    }

    #[test]
    fn a_hash_of_hashes_is_no_check() {
        let parts = Stored { sha256: Some("abc=-2".into()), ..Stored::default() };
        assert!(Check::against(&parts).is_none());
        assert!(Check::against(&Stored { crc32: Some("y/Q5Jg==".into()), composite: true, ..Stored::default() }).is_none());
    }
}
