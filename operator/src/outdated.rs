//! Objects whose cached version is known to be old: we wrote a newer one, or a write on it was refused. A look at such an object would
//! plan what was done already, and its write would be refused again: with a late watch that is a storm of conflicts, which makes the
//! watch later still (measured: 10,000 conflicts in four minutes while 1,000 nodes came up on a busy machine).
//!
//! The watch brings the newer version, and with it the next look. A watch that is very late is not waited for: then the API server
//! is asked to judge again.

use kube::ResourceExt;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long the watch is waited for.
const LATE: Duration = Duration::from_secs(5);
/// From so many entries on, those that have had their time are dropped: their objects are gone.
const MANY: usize = 4096;

/// By UID: the least version worth looking at, and until when that is believed.
#[derive(Debug, Default)]
pub struct Outdated(Mutex<HashMap<String, (u64, Instant)>>);

/// Resource versions of one kind may be compared as numbers (Kubernetes 1.35, API concepts); older servers happen to keep to it too.
fn version(object: &impl ResourceExt) -> Option<u64> {
    object.resource_version()?.parse().ok()
}

impl Outdated {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (u64, Instant)>> {
        self.0.lock().expect("no panic holds this lock")
    }

    fn below(&self, uid: Option<String>, least: Option<u64>) {
        let (Some(uid), Some(least), now) = (uid, least, Instant::now()) else { return };
        let mut known = self.lock();
        if known.len() >= MANY {
            known.retain(|_, (_, until)| *until > now);
        }
        known.insert(uid, (least, now + LATE));
    }

    /// The API server has answered a write with this.
    pub fn wrote(&self, written: &impl ResourceExt) {
        self.below(written.uid(), version(written));
    }

    /// A write on this version was refused: somebody else has written.
    pub fn refused(&self, read: &impl ResourceExt) {
        self.below(read.uid(), version(read).map(|v| v + 1));
    }

    /// How long to wait for a newer version than this one, if it is known to be old.
    #[must_use]
    pub fn wait(&self, cached: &impl ResourceExt) -> Option<Duration> {
        let (uid, now) = (cached.uid()?, Instant::now());
        let mut known = self.lock();
        let (least, until) = *known.get(&uid)?;
        if until <= now || version(cached).is_none_or(|v| v >= least) {
            known.remove(&uid);
            return None;
        }
        Some(until - now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::GpuNode;

    fn node(version: &str) -> GpuNode {
        let mut node = GpuNode::new("gn", Default::default());
        (node.metadata.uid, node.metadata.resource_version) = (Some("u".into()), Some(version.into()));
        node
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_is_waited_for() {
        let outdated = Outdated::default();
        assert_eq!(outdated.wait(&node("7")), None, "nothing is known");
        outdated.wrote(&node("9"));
        assert_eq!(outdated.wait(&node("7")), Some(LATE));
        assert_eq!(outdated.wait(&node("8")), Some(LATE), "newer, but not ours");
        assert_eq!(outdated.wait(&node("10")), None);
        assert_eq!(outdated.wait(&node("7")), None, "it was seen: known no more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_waits_for_any_newer_version_and_not_for_ever() {
        let outdated = Outdated::default();
        outdated.refused(&node("7"));
        assert_eq!(outdated.wait(&node("7")), Some(LATE));
        tokio::time::sleep(LATE).await;
        assert_eq!(outdated.wait(&node("7")), None, "the watch may be broken");
        outdated.refused(&node("7"));
        assert_eq!(outdated.wait(&node("8")), None);
    }
}
