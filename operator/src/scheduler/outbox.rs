//! What waits to be said, and whose turn it is: each namespace a lane of its own, first come first served, and a job that could not be
//! told is tried again later. One whose webhooks hang delays its own jobs only. Of several things for one job only the last is kept.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Writes of one namespace at a time.
pub(super) const EACH: usize = 8;
/// Writes at a time in all. Those of thirty namespaces whose webhooks hang leave room for the others'.
const MOST: usize = 32 * EACH;
/// The longest wait after failures in a row; the first is 1 s.
const LONGEST: Duration = Duration::from_secs(60);

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is on record, or somebody else wrote first: the job's newer version brings another look.
    Over,
    /// No answer, or a refusal that may pass.
    Failed,
}

/// See the module. Jobs are named by UID.
#[derive(Debug)]
pub(super) struct Outbox<T> {
    /// What each job is to be told, with its namespace.
    sayings: BTreeMap<String, (String, T)>,
    /// By namespace: the jobs of `sayings` whose turn comes, in their order.
    lanes: BTreeMap<String, VecDeque<String>>,
    /// Those that wait after a failure.
    later: BTreeSet<(Instant, String)>,
    /// Those that are being written: what is put for them meanwhile waits for the answer.
    writing: BTreeMap<String, String>,
    /// Failures in a row.
    failures: BTreeMap<String, u32>,
}

impl<T> Default for Outbox<T> {
    fn default() -> Self {
        Outbox {
            sayings: BTreeMap::new(),
            lanes: BTreeMap::new(),
            later: BTreeSet::new(),
            writing: BTreeMap::new(),
            failures: BTreeMap::new(),
        }
    }
}

impl<T> Outbox<T> {
    /// Says this instead of what the job was to be told before. It keeps its turn.
    pub(super) fn put(&mut self, namespace: &str, uid: String, saying: T) {
        let known = self.sayings.insert(uid.clone(), (namespace.to_owned(), saying)).is_some();
        if !known && !self.writing.contains_key(&uid) {
            self.lanes.entry(namespace.to_owned()).or_default().push_back(uid);
        }
    }

    /// The next that may be written now, with its job's UID. [`Outbox::done`] must be told how that ended.
    pub(super) fn take(&mut self, now: Instant) -> Option<(String, T)> {
        while self.later.first().is_some_and(|(at, _)| *at <= now)
            && let Some((_, uid)) = self.later.pop_first()
        {
            if let Some((namespace, _)) = self.sayings.get(&uid) {
                self.lanes.entry(namespace.clone()).or_default().push_back(uid);
            }
        }
        if self.writing.len() >= MOST {
            return None;
        }
        let busy = |namespace: &String| self.writing.values().filter(|of| *of == namespace).count() >= EACH;
        let namespace = self.lanes.keys().find(|namespace| !busy(namespace))?.clone();
        let lane = self.lanes.get_mut(&namespace)?;
        let uid = lane.pop_front()?;
        if lane.is_empty() {
            self.lanes.remove(&namespace);
        }
        let (_, saying) = self.sayings.remove(&uid)?;
        self.writing.insert(uid.clone(), namespace);
        Some((uid, saying))
    }

    /// This job's write has ended. One that failed is tried again after a while, with what was put meanwhile if anything was.
    pub(super) fn done(&mut self, uid: &str, saying: T, told: Told, now: Instant) {
        let Some(namespace) = self.writing.remove(uid) else { return };
        if told == Told::Over {
            // What was put meanwhile was said of the version before.
            self.sayings.remove(uid);
            self.failures.remove(uid);
            return;
        }
        let failures = self.failures.entry(uid.to_owned()).and_modify(|n| *n += 1).or_insert(0);
        let wait = Duration::from_secs(1 << (*failures).min(6)).min(LONGEST);
        self.sayings.entry(uid.to_owned()).or_insert((namespace, saying));
        self.later.insert((now + wait, uid.to_owned()));
    }

    /// When the next of those that failed is tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.later.first().map(|(at, _)| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(outbox: &mut Outbox<u32>, now: Instant) -> Vec<(String, u32)> {
        std::iter::from_fn(|| outbox.take(now)).collect()
    }

    #[test]
    fn first_come_first_served_with_the_last_words() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for (uid, words) in [("z", 1), ("a", 2), ("z", 3)] {
            outbox.put("ns", uid.into(), words);
        }
        assert_eq!(all(&mut outbox, now), [("z".to_owned(), 3), ("a".to_owned(), 2)]);
    }

    #[test]
    fn a_lane_that_is_full_delays_no_other() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        (0..2 * EACH).for_each(|n| outbox.put("a", n.to_string(), 0));
        outbox.put("b", "b".into(), 7);
        let taken = all(&mut outbox, now);
        assert_eq!(taken.len(), EACH + 1);
        assert_eq!(taken.last(), Some(&("b".to_owned(), 7)));
        outbox.done("0", 0, Told::Over, now);
        assert_eq!(all(&mut outbox, now).len(), 1);
    }

    #[test]
    fn many_namespaces_do_not_write_all_at_once() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        (0..MOST + 5).for_each(|n| outbox.put(&format!("ns-{n}"), n.to_string(), 0));
        let taken = all(&mut outbox, now);
        assert_eq!(taken.len(), MOST);
        outbox.done(&taken[0].0, 0, Told::Over, now);
        assert_eq!(all(&mut outbox, now).len(), 1);
    }

    #[test]
    fn what_failed_waits_longer_each_time_and_lets_others_pass() {
        let (mut outbox, mut now) = (Outbox::default(), Instant::now());
        outbox.put("ns", "bad".into(), 0);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            let (uid, words) = outbox.take(now).expect("its turn");
            outbox.put("ns", "bad".into(), words + 1);
            outbox.done(&uid, words, Told::Failed, now);
            outbox.put("ns", "good".into(), 9);
            assert_eq!(all(&mut outbox, now), [("good".to_owned(), 9)]);
            outbox.done("good", 9, Told::Over, now);
            assert_eq!(outbox.next_try(), Some(now + Duration::from_secs(seconds)));
            now += Duration::from_secs(seconds);
        }
        assert_eq!(all(&mut outbox, now), [("bad".to_owned(), 8)]);
        outbox.put("ns", "bad".into(), 99);
        outbox.done("bad", 8, Told::Over, now);
        assert_eq!((all(&mut outbox, now), outbox.next_try()), (vec![], None), "said of the version before");
    }
}
