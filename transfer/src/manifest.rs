//! The list of a committed attempt's files, written last: `.gpujob/manifest.json`.

use serde::{Deserialize, Serialize};

use crate::plan::{FileSum, Plan, Skipped};
use crate::receipt::{Ended, Verdict};
use crate::spec::JobRef;

/// The manifest. It has no time in it: rolled forward twice, it has the same bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Version of this format: 1.
    pub version: u32,
    /// The job whose results these are.
    pub job: JobRef,
    /// Index of the job's array.
    pub index: u32,
    /// The attempt that won.
    pub attempt: u32,
    /// How its program ended.
    pub outcome: Ended,
    /// Main's exit code, where one was recorded.
    pub exit_code: Option<i32>,
    /// Every file, by name.
    pub files: Vec<FileSum>,
    /// What was in the results folder and is not delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
    /// Sums over `files`.
    pub totals: Totals,
}

/// Sums over a manifest's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Totals {
    /// Number of files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Manifest {
    /// What a plan becomes with that verdict.
    pub fn of(plan: &Plan, verdict: Verdict) -> Manifest {
        Manifest {
            version: 1,
            job: plan.job.clone(),
            index: plan.index,
            attempt: plan.attempt,
            outcome: verdict.outcome,
            exit_code: verdict.exit_code,
            files: plan.items.iter().map(|i| i.file.clone()).collect(),
            skipped: plan.skipped.clone(),
            totals: Totals { files: plan.items.len() as u64, bytes: plan.bytes() },
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).expect("a manifest has only string keys");
        bytes.push(b'\n');
        bytes
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::{Item, Staged, Strong};

    #[test]
    fn the_shape() {
        let strong = Strong::Tree { part_size: 8 << 20, digest: "cd".into() };
        let file = FileSum { path: "x".into(), size: 9, crc64nvme: "AA=".into(), strong };
        let plan = Plan {
            v: 1,
            job: JobRef { uid: "u".into(), ..JobRef::default() },
            index: 0,
            attempt: 2,
            pod_uid: "p".into(),
            items: vec![Item { file, staged: Staged::Object { key: "k".into() } }],
            skipped: vec![],
            summary: None,
            summary_omitted: false,
        };
        let verdict = Verdict { attempt: 2, outcome: Ended::Failed, exit_code: Some(3) };
        let manifest = Manifest::of(&plan, verdict);
        let json: serde_json::Value = serde_json::from_slice(&manifest.encode()).unwrap();
        assert_eq!(json["version"], 1);
        assert_eq!(json["outcome"], "Failed");
        assert_eq!(json["exitCode"], 3);
        assert_eq!(json["files"][0]["sha256tree"]["digest"], "cd");
        assert_eq!(json["totals"], serde_json::json!({"files": 1, "bytes": 9}));
        assert_eq!(serde_json::from_slice::<Manifest>(&manifest.encode()).unwrap(), manifest);
        assert!(json["files"][0].get("staged").is_none());
    }
}
