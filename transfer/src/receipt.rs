//! What a role answers: the JSON in its container's termination message.
//!
//! Kubernetes cuts a termination message at 4,096 bytes, and all of a pod's messages at 12 KiB together. So the
//! fixed part comes first and is at most [`FIXED_LIMIT`] bytes; the summary follows only if all of it fits.

use serde::{Deserialize, Serialize};

/// Most bytes that a receipt takes without its summary.
pub const FIXED_LIMIT: usize = 700;
/// Most bytes of [`Receipt::message`].
pub const MESSAGE_LIMIT: usize = 300;

/// Most of [`Receipt::warnings`].
pub const WARNINGS: usize = 4;
/// Most bytes of one warning.
pub const WARNING_LIMIT: usize = 200;

/// Exit code: done.
pub const EXIT_OK: i32 = 0;
/// Exit code: a failure that may pass (`retryable: true`), after the role's own retries.
pub const EXIT_RETRYABLE: i32 = 1;
/// Exit code: a failure that another try cannot mend (`retryable: false`), or the attempt was revoked.
pub const EXIT_PERMANENT: i32 = 2;
/// Exit code: the results were already committed; neither a failure nor an attempt.
pub const EXIT_ALREADY_COMMITTED: i32 = 93;

/// Values of [`Receipt::reason`] that the operator may want to tell apart. Successes repeat the outcome's name.
pub mod reason {
    /// Keys are missing, unknown, wrong or expired.
    pub const INVALID_CREDENTIALS: &str = "InvalidCredentials";
    /// The keys are right but may not do this.
    pub const ACCESS_DENIED: &str = "AccessDenied";
    /// The bucket does not exist.
    pub const BUCKET_NOT_FOUND: &str = "BucketNotFound";
    /// An input has no object.
    pub const INPUT_NOT_FOUND: &str = "InputNotFound";
    /// An input lies in an archive (S3 Glacier) and must be restored first.
    pub const OBJECT_ARCHIVED: &str = "ObjectArchived";
    /// The destination holds files, and `onExisting` is not `Overwrite`.
    pub const DESTINATION_NOT_EMPTY: &str = "DestinationNotEmpty";
    /// Another job has claimed the destination; see [`super::Receipt::holder`].
    pub const DESTINATION_IN_USE: &str = "DestinationInUse";
    /// No answer from the store.
    pub const STORE_UNREACHABLE: &str = "StoreUnreachable";
    /// The store's certificate is not to be trusted, or it speaks no TLS.
    pub const STORE_UNTRUSTED: &str = "StoreUntrusted";
    /// The store answered, but kept failing or asked for fewer requests.
    pub const STORE_UNAVAILABLE: &str = "StoreUnavailable";
    /// Bytes changed on their way.
    pub const CHECKSUM_MISMATCH: &str = "ChecksumMismatch";
    /// No room on the node's disk.
    pub const DISK_FULL: &str = "DiskFull";
    /// `GPUJOB_TRANSFER` or the environment does not make sense.
    pub const INVALID_SPEC: &str = "InvalidSpec";
    /// A result's name is reserved (`.gpujob/`).
    pub const RESERVED_NAME: &str = "ReservedName";
    /// A result file cannot be read.
    pub const UNREADABLE_FILE: &str = "UnreadableFile";
    /// A result file kept changing while it was read.
    pub const FILE_CHANGING: &str = "FileChanging";
    /// There are more files than a list of them may hold that somebody has to read.
    pub const TOO_MANY_FILES: &str = "TooManyFiles";
    /// The sidecar has not sealed its results within the deadline.
    pub const NOT_SEALED: &str = "NotSealed";
    /// A higher attempt, or `discard`, took the claim away.
    pub const REVOKED: &str = "Revoked";
    /// The same job under another uid had delivered already (`onExisting: Reuse`).
    pub const RESULTS_REUSED: &str = "ResultsReused";
    /// A sealed file is neither in staging nor at its destination: the attempt is lost, run it again.
    pub const STAGED_FILE_LOST: &str = "StagedFileLost";
    /// The store does not do conditional writes: results are published below `<to>attempt-<n>/`.
    pub const NO_CONDITIONAL_WRITES: &str = "NoConditionalWrites";
    /// The store does not check uploads by the kind of checksum that the job names.
    pub const INTEGRITY_NOT_HONOURED: &str = "IntegrityNotHonoured";
    /// A defect of gpujob-transfer.
    pub const INTERNAL: &str = "Internal";

    /// Whether a person can take the cause away while the results are kept: keys, permissions, a bucket, a quota. What may pass by itself
    /// is repeated elsewhere, within its class; what lies in the files or the spec cannot be changed any more.
    #[must_use]
    pub fn mendable(reason: &str) -> bool {
        const MENDABLE: [&str; 8] = [
            INVALID_CREDENTIALS,
            ACCESS_DENIED,
            BUCKET_NOT_FOUND,
            // A Service that was made anew has no address for a while.
            STORE_UNREACHABLE,
            // A certificate that has run out is renewed at the store.
            STORE_UNTRUSTED,
            "WrongRegion",
            // A quota that is used up, a key that encrypts and was disabled: stores have many words for it.
            "StoreRefused",
            // An object of ours that is gone may be a bucket that was made anew.
            "ObjectNotFound",
        ];
        MENDABLE.contains(&reason)
    }
}

/// Which subcommand answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks at inputs and destination before anything is bought, and changes nothing.
    Check,
    /// Downloads the inputs (init container).
    Fetch,
    /// Uploads the results out of sight (sidecar).
    Stage,
    /// Makes a sealed attempt's results visible.
    Commit,
    /// Throws an attempt's staged results away.
    Discard,
    /// Says what became of a job's results.
    Resolve,
}

/// How it went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `fetch`: inputs are there. `stage` and `commit` of a job without results: nothing to do.
    Done,
    /// `stage`: all is staged and the plan is durable.
    Sealed,
    /// `commit`, `resolve`, `discard`: the results of this job are at their destination.
    Committed,
    /// `fetch`, `resolve`: they already were, or those of an equal job are reused.
    AlreadyCommitted,
    /// `discard`: staging is gone and the attempt can never commit.
    Discarded,
    /// `resolve`: nothing is committed, and nothing earlier can be any more: run the next attempt.
    Free,
    /// `fetch`, `resolve`, `discard`: a commit had been begun; it is finished now.
    RolledForward,
    /// A higher attempt, or `discard`, took the claim away. Exit code 2.
    Revoked,
    /// See reason, message and `retryable`.
    Failed,
}

/// The answer of one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Version of this format: 1.
    pub v: u32,
    /// Which subcommand answered.
    pub role: Role,
    /// How it went.
    pub outcome: Outcome,
    /// CamelCase, one of [`reason`] or the outcome's name.
    pub reason: String,
    /// A sentence for people, at most 300 bytes.
    pub message: String,
    /// Whether trying the same again can help.
    pub retryable: bool,
    /// Files moved.
    pub files: u64,
    /// Bytes moved.
    pub bytes: u64,
    /// How long the role worked, in seconds.
    pub seconds: f64,
    /// The store does no conditional writes, so results go below this folder of the destination: `attempt-<n>/`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published_under: Option<String>,
    /// The manifest, once results are committed.
    pub manifest: Option<ManifestRef>,
    /// How the attempt whose results are committed had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed: Option<Verdict>,
    /// The job that holds the destination (reason `DestinationInUse`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
    /// `check`: what will work, but not as well as it could. `stage`: why its last checkpoints could not be saved. At most 4 sentences of
    /// 200 bytes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// The content of `results.summary`; last, because it may not fit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<serde_json::Value>,
    /// True when there is a summary but it did not fit, or was not usable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary_omitted: Option<bool>,
}

/// Where the manifest is, and what it must hash to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestRef {
    /// Key below the destination: `.gpujob/manifest.json`, or that in [`Receipt::published_under`].
    pub key: String,
    /// SHA-256 of its bytes, in hex.
    pub sha256: String,
}

/// How an attempt's main containers ended, as the operator saw it.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// Which attempt's results these are.
    pub attempt: u32,
    /// Succeeded, or Failed with what it left.
    pub outcome: Ended,
    /// Main's exit code, where one was recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
}

/// Whether the attempt's program succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Hash, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Main exited 0 before any disruption.
    Succeeded,
    /// The last attempt of a failed or over-budget job; its results so far are kept.
    Failed,
}

/// A job that holds a destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its uid.
    pub uid: String,
    /// `namespace/name`, cut to 120 bytes: a GpuJob's fits, and a cut name would be taken for one that is gone.
    pub job: String,
    /// Uid of its cluster's namespace `kube-system`: only that cluster's operator can look whether it is gone.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
}

impl Receipt {
    /// A receipt with nothing moved and no reason yet beyond the outcome's name.
    pub fn new(role: Role, outcome: Outcome, message: impl Into<String>) -> Receipt {
        Receipt {
            v: 1,
            role,
            outcome,
            reason: format!("{outcome:?}"),
            message: message.into(),
            retryable: false,
            files: 0,
            bytes: 0,
            seconds: 0.0,
            published_under: None,
            manifest: None,
            committed: None,
            holder: None,
            warnings: vec![],
            summary: None,
            summary_omitted: None,
        }
    }

    /// Reads a termination message.
    ///
    /// # Errors
    /// When it is not a whole receipt: run `resolve`, never the attempt again.
    pub fn parse(text: &str) -> Result<Receipt, serde_json::Error> {
        serde_json::from_str(text.trim())
    }

    /// The exit code that goes with this receipt.
    pub fn exit_code(&self) -> i32 {
        match self.outcome {
            Outcome::AlreadyCommitted => EXIT_ALREADY_COMMITTED,
            Outcome::Revoked => EXIT_PERMANENT,
            Outcome::Failed if self.retryable => EXIT_RETRYABLE,
            Outcome::Failed => EXIT_PERMANENT,
            _ => EXIT_OK,
        }
    }

    /// The termination message of a pod with that many containers: at most `min(4096, 12288 / containers)` bytes.
    /// The fixed part is kept at [`FIXED_LIMIT`] bytes by cutting the message; a summary that does not fit is left
    /// out and `summaryOmitted` says so.
    pub fn encode(&self, containers: usize) -> String {
        let limit = 4096.min(12288 / containers.max(1));
        let mut fixed = self.clone();
        fixed.summary = None;
        let mut warnings = std::mem::take(&mut fixed.warnings);
        warnings.truncate(WARNINGS);
        warnings.iter_mut().for_each(|warning| cut(warning, WARNING_LIMIT));
        if self.summary.is_some() {
            fixed.summary_omitted = Some(true);
        }
        if let Some(holder) = &mut fixed.holder {
            cut(&mut holder.job, 120);
            cut(&mut holder.cluster, 36);
        }
        cut(&mut fixed.reason, 64);
        cut(&mut fixed.message, MESSAGE_LIMIT);
        let short = loop {
            let text = to_json(&fixed);
            // Quotes and control characters grow when escaped, so the size is looked at after encoding.
            if text.len() <= FIXED_LIMIT || fixed.message.is_empty() {
                break text;
            }
            let over = text.len() - FIXED_LIMIT;
            let keep = fixed.message.len().saturating_sub(over.div_ceil(6).max(1));
            cut(&mut fixed.message, keep);
        };
        // What fits is added: warnings first, they are short.
        let warned = Receipt { warnings, ..fixed };
        let warned_text = to_json(&warned);
        let (fixed, short) =
            if warned_text.len() <= limit { (warned, warned_text) } else { (Receipt { warnings: vec![], ..warned }, short) };
        let Some(summary) = &self.summary else { return short };
        let mut whole = fixed;
        whole.summary = Some(summary.clone());
        whole.summary_omitted = None;
        let long = to_json(&whole);
        if long.len() <= limit { long } else { short }
    }
}

fn to_json(receipt: &Receipt) -> String {
    serde_json::to_string(receipt).expect("a receipt has only string keys")
}

/// Cuts to at most `limit` bytes, at a character's border.
fn cut(text: &mut String, limit: usize) {
    if text.len() > limit {
        let mut end = limit;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn committed() -> Receipt {
        let mut r = Receipt::new(Role::Commit, Outcome::Committed, "3 files, 12 bytes");
        r.manifest = Some(ManifestRef { key: ".gpujob/manifest.json".into(), sha256: "0".repeat(64) });
        r.committed = Some(Verdict { attempt: 1, outcome: Ended::Succeeded, exit_code: Some(0) });
        r
    }

    #[test]
    fn the_fixed_part_never_exceeds_its_limit() {
        for filler in ["x", "\"", "\u{1}", "ü", "\n\"\\"] {
            let mut r = committed();
            r.message = filler.repeat(400);
            r.files = u64::MAX;
            r.bytes = u64::MAX;
            r.seconds = 123456.789;
            r.holder = Some(Holder { uid: "u".repeat(36), job: "n".repeat(400), cluster: "c".repeat(400) });
            r.summary = Some(serde_json::json!({ "text": "y".repeat(5000) }));
            let text = r.encode(1);
            assert!(text.len() <= FIXED_LIMIT, "{} bytes for {filler:?}", text.len());
            let back = Receipt::parse(&text).unwrap();
            assert_eq!(back.summary_omitted, Some(true));
            assert!(!back.message.is_empty() && back.message.len() <= MESSAGE_LIMIT);
        }
    }

    #[test]
    fn a_summary_is_sent_only_if_all_fits() {
        let mut r = committed();
        r.summary = Some(serde_json::json!({ "accuracy": 0.97, "pad": "z".repeat(2000) }));
        let text = r.encode(1);
        assert_eq!(Receipt::parse(&text).unwrap().summary, r.summary);
        assert!(text.find("\"summary\"").unwrap() > text.find("\"manifest\"").unwrap());
        // Six containers leave 2,048 bytes each.
        let text = r.encode(6);
        assert!(text.len() <= 2048);
        assert_eq!(Receipt::parse(&text).unwrap().summary_omitted, Some(true));
    }

    #[test]
    fn warnings_are_few_and_short_and_never_cost_the_reason() {
        let mut r = Receipt::new(Role::Check, Outcome::Done, "m".repeat(400));
        r.warnings = vec!["\u{1}w".repeat(300); 9];
        let alone = Receipt::parse(&r.encode(1)).unwrap();
        assert_eq!((alone.warnings.len(), alone.reason.as_str()), (WARNINGS, "Done"));
        assert!(alone.warnings.iter().all(|w| w.len() <= WARNING_LIMIT));
        // Twelve containers leave 1,024 bytes each.
        let crowded = Receipt::parse(&r.encode(12)).unwrap();
        assert!(crowded.warnings.is_empty() && !crowded.message.is_empty());
    }

    #[test]
    fn the_shape_is_the_contract() {
        let json: serde_json::Value = serde_json::from_str(&committed().encode(1)).unwrap();
        let keys: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        for key in ["v", "role", "outcome", "reason", "message", "retryable", "files", "bytes", "seconds", "manifest"] {
            assert!(keys.contains(&key), "{key}");
        }
        assert_eq!(json["role"], "commit");
        assert_eq!(json["outcome"], "Committed");
        assert!(!keys.contains(&"summaryOmitted"));
    }

    #[test]
    fn exit_codes() {
        let code = |o, retryable| Receipt { retryable, ..Receipt::new(Role::Fetch, o, "") }.exit_code();
        assert_eq!(code(Outcome::Done, false), 0);
        assert_eq!(code(Outcome::AlreadyCommitted, false), 93);
        assert_eq!(code(Outcome::Failed, true), 1);
        assert_eq!(code(Outcome::Failed, false), 2);
        assert_eq!(code(Outcome::Revoked, false), 2);
    }
}
