//! What a destination holds, judged by its own manifest: nothing, exactly one attempt's results, or something that must not be.

use super::Store;
use gpujob_transfer::checksum::sha256_hex;
use gpujob_transfer::epoch::{Epoch, State};
use gpujob_transfer::manifest::Manifest;
use gpujob_transfer::plan::{CONTROL, EPOCH_KEY, MANIFEST_KEY, Strong};
use gpujob_transfer::receipt::Ended;

/// What lies at a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// No visible file.
    Nothing,
    /// The files of one attempt, whole, and no others.
    Exactly {
        /// The job.
        job_uid: String,
        /// The attempt.
        attempt: u32,
        /// The pod that made the files, as they say themselves.
        pod_uid: String,
        /// How its program had ended.
        outcome: Ended,
        /// The manifest's SHA-256, in hex.
        manifest_sha256: String,
    },
    /// A commit has passed the point of no return and is not finished: whoever comes next rolls it forward.
    Committing,
    /// What must never be; why.
    Broken(String),
}

impl Store {
    /// Judges a destination (`results.to`).
    #[must_use]
    pub fn delivered(&self, to: &str) -> Delivered {
        let control = format!("{to}{CONTROL}");
        let visible: Vec<String> =
            self.below(to).into_iter().filter(|k| !k.starts_with(&control)).filter_map(|k| k.strip_prefix(to).map(str::to_owned)).collect();
        let epoch = self.peek(&format!("{to}{EPOCH_KEY}")).and_then(|bytes| serde_json::from_slice::<Epoch>(&bytes).ok());
        let state = epoch.as_ref().map(|e| e.state);
        if state == Some(State::Committing) {
            return Delivered::Committing;
        }
        match (epoch, state) {
            (Some(epoch), Some(State::Committed)) => self.whole(to, &epoch, &visible).unwrap_or_else(Delivered::Broken),
            _ if visible.is_empty() => Delivered::Nothing,
            _ => Delivered::Broken(format!("{visible:?} are visible at {to}, and the epoch says {state:?}")),
        }
    }

    fn whole(&self, to: &str, epoch: &Epoch, visible: &[String]) -> Result<Delivered, String> {
        let bytes = self.peek(&format!("{to}{MANIFEST_KEY}")).ok_or("committed without a manifest")?;
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| format!("the manifest cannot be read: {e}"))?;
        if (manifest.attempt, &manifest.job.uid) != (epoch.attempt, &epoch.job.uid) {
            return Err(format!("the epoch is attempt {}'s, the manifest attempt {}'s", epoch.attempt, manifest.attempt));
        }
        let named: Vec<&String> = manifest.files.iter().map(|f| &f.path).collect();
        if named != visible.iter().collect::<Vec<_>>() {
            return Err(format!("the manifest names {named:?}, and there are {visible:?}"));
        }
        for file in &manifest.files {
            let there = self.peek(&format!("{to}{}", file.path)).unwrap_or_default();
            if file.strong != Strong::Whole(sha256_hex(&there)) {
                return Err(format!("{} is not what the manifest says", file.path));
            }
            // Programs sign what they leave, see `kubelet::container`.
            if !String::from_utf8_lossy(&there).contains(&format!("pod {}", epoch.pod_uid)) {
                return Err(format!("{} was not made by the pod of attempt {}", file.path, epoch.attempt));
            }
        }
        Ok(Delivered::Exactly {
            job_uid: epoch.job.uid.clone(),
            attempt: epoch.attempt,
            pod_uid: epoch.pod_uid.clone(),
            outcome: manifest.outcome,
            manifest_sha256: sha256_hex(&bytes),
        })
    }
}
