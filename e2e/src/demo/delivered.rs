//! Results as anyone finds them in the store: the manifest first, then every file against it.

use crate::s3::S3;
use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use gpujob_transfer::manifest::Manifest;
use gpujob_transfer::plan::{MANIFEST_KEY, STAGING, Strong};
use sha2::{Digest, Sha256};
use std::fmt::Write;

/// Delivered results, checked.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The manifest.
    pub manifest: Manifest,
    /// SHA-256 of its bytes, in hex.
    pub manifest_sha256: String,
    /// Every file that it lists.
    pub files: Vec<File>,
}

/// One file.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name below the destination.
    pub path: String,
    /// Its content.
    pub content: Bytes,
}

impl Delivered {
    /// The content of a file, if it is there.
    pub fn file(&self, path: &str) -> Option<&Bytes> {
        self.files.iter().find(|file| file.path == path).map(|file| &file.content)
    }
}

/// Downloads everything below `prefix` that the manifest lists and checks size, SHA-256 and CRC-64/NVME of each. What the
/// manifest does not list must not be there, nor anything staged.
///
/// # Errors
/// There is no manifest, a file is missing, differs, or is one too many.
pub async fn fetch(store: &S3, bucket: &str, prefix: &str) -> Result<Delivered> {
    let text = store.get(bucket, &format!("{prefix}{MANIFEST_KEY}")).await?.context("no manifest is stored")?;
    let manifest: Manifest = serde_json::from_slice(&text).context("the manifest")?;
    let mut files = vec![];
    for listed in &manifest.files {
        let content = store.get(bucket, &format!("{prefix}{}", listed.path)).await?;
        let content = content.with_context(|| format!("{} is in the manifest and not in the store", listed.path))?;
        ensure!(content.len() as u64 == listed.size, "{} has {} bytes, the manifest says {}", listed.path, content.len(), listed.size);
        ensure!(crc64nvme_text(crc64nvme(&content)) == listed.crc64nvme, "{}: the CRC-64/NVME differs", listed.path);
        match &listed.strong {
            Strong::Whole(digest) => ensure!(sha256(&content) == *digest, "{}: the SHA-256 differs", listed.path),
            Strong::Tree { part_size, digest } => {
                let parts = content.chunks(usize::try_from(*part_size)?).flat_map(Sha256::digest).collect::<Vec<u8>>();
                ensure!(sha256(&parts) == *digest, "{}: the SHA-256 of its parts differs", listed.path);
            }
        }
        files.push(File { path: listed.path.clone(), content });
    }
    for key in store.list(bucket, prefix).await? {
        let name = key.strip_prefix(prefix).unwrap_or(&key);
        if name.starts_with(STAGING) {
            bail!("{key} is left in staging");
        }
        ensure!(name.starts_with(".gpujob/") || manifest.files.iter().any(|file| file.path == name), "{key} is not in the manifest");
    }
    let total: u64 = manifest.files.iter().map(|file| file.size).sum();
    ensure!(manifest.totals.bytes == total && manifest.totals.files == files.len() as u64, "the manifest's totals are wrong");
    Ok(Delivered { manifest_sha256: sha256(&text), manifest, files })
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_known_ones() {
        assert!(sha256(b"abc").starts_with("ba7816bf8f01cfea"));
        assert_eq!(crc64nvme_text(crc64nvme(b"123456789")), "rosUhgp5mIg=");
    }
}
