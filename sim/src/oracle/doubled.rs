//! One attempt has one place: two nodes that are kept for it would both be paid for, and both might run it.

use super::mirror::Mirror;
use gpujob_crds::conditions::{self, node as condition};
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use std::collections::BTreeMap;

/// How long a second place may last: whoever made it knew less than it does now, and gives it back at the next look.
const BRIEF: SignedDuration = SignedDuration::from_secs(30);

/// Since when attempts have more than one place.
#[derive(Debug, Default)]
pub(super) struct Doubled(BTreeMap<(String, i32), Timestamp>);

impl Doubled {
    /// One look. `calm`: since when nothing has gone wrong that would excuse a delay.
    pub(super) fn look(&mut self, mirror: &Mirror, calm: Timestamp, now: Timestamp) -> Vec<String> {
        let mut places: BTreeMap<(String, i32), Vec<String>> = BTreeMap::new();
        let refused = |n: &gpujob_crds::GpuNode| {
            let launched = n.status.as_ref().and_then(|s| conditions::find(&s.conditions, condition::LAUNCHED));
            launched.is_some_and(|c| c.status == "False")
        };
        for node in mirror.nodes.values().filter(|n| n.metadata.deletion_timestamp.is_none() && !refused(n)) {
            for r in node.reservations() {
                places.entry((r.job_uid.clone(), r.attempt)).or_default().push(node.name_any());
            }
        }
        places.retain(|_, nodes| nodes.len() > 1);
        self.0.retain(|attempt, _| places.contains_key(attempt));
        let mut wrong = vec![];
        for (attempt, nodes) in places {
            let since = *self.0.entry(attempt.clone()).or_insert(now);
            if now.duration_since(since.max(calm)) > BRIEF {
                wrong.push(format!("attempt {} of the job with the UID {} has places on {nodes:?} since {since}", attempt.1, attempt.0));
            }
        }
        wrong
    }
}
