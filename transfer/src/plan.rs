//! What a sealed attempt is to become: every file with its size, checksums and where it is staged.
//!
//! The plan is written once, under a name of its own in the attempt's staging, and the epoch carries its SHA-256: a
//! zombie that wrote a later plan could not slip it under a commit. Like [`crate::epoch`], nothing here does I/O.

use serde::{Deserialize, Serialize};

use crate::checksum::sha256_hex;
use crate::epoch::{Actor, PlanRef};
use crate::spec::JobRef;
use crate::store::Info;

/// Everything below the destination that is not a result lies here.
pub const CONTROL: &str = ".gpujob/";
/// The epoch object, below the destination.
pub const EPOCH_KEY: &str = ".gpujob/epoch";
/// The manifest, below the destination.
pub const MANIFEST_KEY: &str = ".gpujob/manifest.json";
/// The receipt, below the destination.
pub const RECEIPT_KEY: &str = ".gpujob/receipt";
/// All attempts' staging, below the destination.
pub const STAGING: &str = ".gpujob/staging/";

/// Files up to this size are staged in packs or as objects, larger ones as uncompleted multipart uploads. Also the smallest part.
pub const PART: u64 = 8 << 20;
/// Most parts of one upload that S3 takes.
const MOST_PARTS: u64 = 10_000;
/// Longest key that S3 takes, in bytes.
pub const KEY_LIMIT: usize = 1024;

/// Largest plan that a commit reads, and so that may be sealed, in bytes: some three million files.
pub const LIMIT: usize = 1 << 30;

/// The plan of one attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// Version of this format: 1.
    pub v: u32,
    /// The job.
    pub job: JobRef,
    /// Index of the job's array.
    pub index: u32,
    /// The attempt.
    pub attempt: u32,
    /// Its pod.
    pub pod_uid: String,
    /// Every file.
    pub items: Vec<Item>,
    /// What lies in the results folder and is not delivered.
    pub skipped: Vec<Skipped>,
    /// The content of `results.summary`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<serde_json::Value>,
    /// A summary was asked for and could not be used.
    #[serde(default)]
    pub summary_omitted: bool,
}

/// One file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Size and checksums, as the manifest will say them.
    #[serde(flatten)]
    pub file: FileSum,
    /// Where its bytes are until the commit.
    pub staged: Staged,
}

/// A file's name, size and checksums.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSum {
    /// Name below the destination.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME, base64 of 8 big-endian bytes: as `x-amz-checksum-crc64nvme`.
    pub crc64nvme: String,
    /// Strong hash.
    #[serde(flatten)]
    pub strong: Strong,
}

/// SHA-256 of a file of one part, or of its parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Strong {
    /// Of the whole file, in hex.
    #[serde(rename = "sha256")]
    Whole(String),
    /// Of its parts.
    #[serde(rename = "sha256tree")]
    Tree {
        /// Size of every part but the last.
        #[serde(rename = "partSize")]
        part_size: u64,
        /// SHA-256 over the parts' binary SHA-256 values in order, in hex.
        digest: String,
    },
}

/// Where a file's bytes are until the commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Staged {
    /// An object below the destination; the commit copies it.
    Object {
        /// Its key below the destination.
        key: String,
    },
    /// Bytes of an object below the destination that holds many small files: the commit reads them there and writes them under the
    /// file's key. Size and checksums are the file's own.
    Pack {
        /// The object's key below the destination.
        key: String,
        /// Where the file begins in it.
        offset: u64,
    },
    /// An uncompleted multipart upload against the final key; the commit completes it.
    Upload {
        /// Its id.
        upload_id: String,
        /// ETags of its parts, in order.
        parts: Vec<String>,
    },
}

/// Something in the results folder that is no deliverable file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Name below the results folder.
    pub path: String,
    /// Why.
    pub why: String,
}

/// Where an attempt stages: `.gpujob/staging/<attempt>-<pod uid>/`.
pub fn staging(attempt: u32, pod_uid: &str) -> String {
    format!("{STAGING}{attempt}-{pod_uid}/")
}

/// Part size for a file: at least [`PART`], and so that 10,000 parts are enough.
pub fn part_size(size: u64) -> u64 {
    PART.max(size.div_ceil(MOST_PARTS).next_multiple_of(1 << 20))
}

impl Plan {
    /// An attempt's plan, files sorted by name.
    pub fn new(me: &Actor, mut items: Vec<Item>, skipped: Vec<Skipped>) -> Plan {
        items.sort_by(|a, b| a.file.path.cmp(&b.file.path));
        Plan {
            v: 1,
            job: me.job.clone(),
            index: me.index,
            attempt: me.attempt,
            pod_uid: me.pod_uid.clone(),
            items,
            skipped,
            summary: None,
            summary_omitted: false,
        }
    }

    /// Its bytes, and the reference that goes into the epoch.
    pub fn encode(&self, key: String) -> (Vec<u8>, PlanRef) {
        let bytes = serde_json::to_vec(self).expect("a plan has only string keys");
        let sha256 = sha256_hex(&bytes);
        (bytes, PlanRef { key, sha256 })
    }

    /// Reads a plan that must be the one the epoch speaks of.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], expected: &PlanRef) -> Result<Plan, String> {
        if sha256_hex(bytes) != expected.sha256 {
            return Err(format!("{} is not the plan that was sealed: its SHA-256 differs", expected.key));
        }
        serde_json::from_slice(bytes).map_err(|e| format!("{} cannot be read: {e}", expected.key))
    }

    /// What the plan of files with these names has at least, in bytes: as much is known before anything is sent.
    pub fn least<'a>(names: impl Iterator<Item = &'a str>) -> usize {
        // Two checksums, a place and the words around them; quotes in a name only make it longer.
        const EACH: usize = 180;
        names.fold(0, |sum, name| sum.saturating_add(name.len() + EACH))
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.items.iter().fold(0, |sum, item| sum.saturating_add(item.file.size))
    }
}

/// Where a file is, after one try to make it visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landing {
    /// At its key, whole.
    Landed,
    /// At its key by size, but the store keeps no checksum: its bytes must be read.
    Unproven,
    /// Not at its key, and its staged form is there: try again.
    Again,
    /// Neither staged nor at its key: the attempt is lost.
    Lost,
}

/// Judges one file: `gone` says that its staged form was not found, `there` is what HEAD says of its key.
///
/// What is at the key counts only if size and checksum are the plan's: an old file of the same name is no delivery.
pub fn landing(file: &FileSum, gone: bool, there: Option<&Info>) -> Landing {
    let missing = if gone { Landing::Lost } else { Landing::Again };
    let Some(there) = there else { return missing };
    if there.size != file.size {
        return missing;
    }
    match &there.sums.crc64nvme {
        Some(crc) if *crc == file.crc64nvme => Landing::Landed,
        Some(_) => missing,
        None => Landing::Unproven,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::checksum::Stored;

    fn file(size: u64) -> FileSum {
        let strong = Strong::Whole("ab".into());
        FileSum { path: "a b/ü.txt".into(), size, crc64nvme: "AAAAAAAAAAA=".into(), strong }
    }

    fn plan() -> Plan {
        let me =
            Actor { job: JobRef { uid: "u".into(), ..JobRef::default() }, index: 0, attempt: 1, pod_uid: "p".into(), nonce: "n".into() };
        let small = Item { file: file(3), staged: Staged::Object { key: "k".into() } };
        let mut big =
            Item { file: file(9 << 20), staged: Staged::Upload { upload_id: "id".into(), parts: vec!["\"e1\"".into(), "\"e2\"".into()] } };
        big.file.path = "A".into();
        big.file.strong = Strong::Tree { part_size: PART, digest: "cd".into() };
        Plan::new(&me, vec![small, big], vec![])
    }

    #[test]
    fn a_plan_reads_back_only_as_the_one_that_was_sealed() {
        let plan = plan();
        assert_eq!(plan.items[0].file.path, "A");
        let (bytes, reference) = plan.encode("k".into());
        assert_eq!(Plan::decode(&bytes, &reference).unwrap(), plan);
        let mut other = bytes.clone();
        other[10] ^= 1;
        assert!(Plan::decode(&other, &reference).is_err());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(json["items"][0]["sha256tree"]["partSize"], PART);
        assert_eq!(json["items"][1]["sha256"], "ab");
        assert_eq!(json["items"][0]["staged"]["upload"]["uploadId"], "id");
    }

    #[test]
    fn the_least_that_a_plan_has_is_never_more_than_it_has() {
        let mut plan = plan();
        for (n, staged) in [
            Staged::Pack { key: String::new(), offset: 0 },
            Staged::Object { key: String::new() },
            Staged::Upload { upload_id: String::new(), parts: vec![] },
        ]
        .into_iter()
        .enumerate()
        {
            let strong = Strong::Whole("0".repeat(64));
            let file = FileSum { path: "x".repeat(n), size: 0, crc64nvme: "AAAAAAAAAAA=".into(), strong };
            plan.items.push(Item { file, staged });
        }
        plan.items.drain(..2);
        let (names, bytes) = (plan.items.iter().map(|item| item.file.path.as_str()), plan.encode(String::new()).0.len());
        let least = Plan::least(names);
        assert!(least <= bytes && bytes < 2 * least, "{least} {bytes}");
    }

    #[test]
    fn landings() {
        let there = |size, crc: Option<&str>| Info {
            size,
            version: "v".into(),
            sums: Stored { crc64nvme: crc.map(str::to_string), ..Stored::default() },
        };
        let crc = "AAAAAAAAAAA=";
        for (gone, info, want) in [
            (false, Some(there(3, Some(crc))), Landing::Landed),
            (true, Some(there(3, Some(crc))), Landing::Landed),
            (false, Some(there(3, Some("other"))), Landing::Again),
            (true, Some(there(3, Some("other"))), Landing::Lost),
            (true, Some(there(4, Some(crc))), Landing::Lost),
            (false, Some(there(3, None)), Landing::Unproven),
            (false, None, Landing::Again),
            (true, None, Landing::Lost),
        ] {
            assert_eq!(landing(&file(3), gone, info.as_ref()), want, "{gone} {info:?}");
        }
    }

    #[test]
    fn parts() {
        assert_eq!(part_size(1), PART);
        assert_eq!(part_size(80_000 << 20), PART);
        let tera = 1u64 << 40;
        assert!(tera.div_ceil(part_size(tera)) <= MOST_PARTS && part_size(tera).is_multiple_of(1 << 20));
    }
}
