//! Who may write checkpoints, and which ones are complete: the object `head`. Pure: what was read goes in, what to write comes out.

use serde::{Deserialize, Serialize};

/// The head object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    /// Version of this format: 1.
    pub v: u32,
    /// The attempt that may write.
    pub attempt: u32,
    /// Uid of its pod.
    pub pod_uid: String,
    /// Random name of the process that may write.
    pub process: String,
    /// Counts the writes; with the process it names one write, so that a lost answer can be told from a lost race.
    pub seq: u64,
    /// Complete checkpoints, oldest first.
    pub kept: Vec<Kept>,
}

/// A complete checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Kept {
    /// The attempt that saved it.
    pub attempt: u32,
    /// Its number, counted over all of the job's attempts.
    pub number: u64,
    /// Key of its manifest, below the repository.
    pub manifest: String,
    /// SHA-256 of the manifest's bytes, in hex.
    pub sha256: String,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// A process that wants to write.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    /// Its attempt.
    pub attempt: u32,
    /// Uid of its pod.
    pub pod_uid: String,
    /// Its random name.
    pub process: String,
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Move {
    /// Write this, only if the head still is as it was read.
    Write(Head),
    /// It is ours already: an answer was lost.
    Holds,
    /// Another may write, for good; who.
    Revoked(String),
}

impl Head {
    /// Whether this is the very write `wrote`.
    pub fn is_write(&self, wrote: &Head) -> bool {
        self.process == wrote.process && self.seq == wrote.seq
    }

    fn next(&self, me: &Writer, kept: Vec<Kept>) -> Head {
        let Writer { attempt, pod_uid, process } = me.clone();
        Head { v: 1, attempt, pod_uid, process, seq: self.seq.wrapping_add(1), kept }
    }
}

/// Takes the right to write, with all that is kept. `fresh`: also where there is no head yet. Only `fetch` may, which runs once
/// before a pod's main: a zombie's sidecar that is started again after its job's checkpoints were removed must not begin anew.
pub fn claim(me: &Writer, found: Option<&Head>, fresh: bool) -> Move {
    match found {
        None if fresh => {
            let Writer { attempt, pod_uid, process } = me.clone();
            Move::Write(Head { v: 1, attempt, pod_uid, process, seq: 1, kept: vec![] })
        }
        None => gone(),
        Some(head) if head.process == me.process => Move::Holds,
        Some(head) if head.attempt < me.attempt || (head.attempt == me.attempt && head.pod_uid == me.pod_uid) => {
            Move::Write(head.next(me, head.kept.clone()))
        }
        Some(head) => taken(head),
    }
}

/// Adds a checkpoint and keeps the newest `keep`, at least one.
pub fn publish(me: &Writer, found: Option<&Head>, new: &Kept, keep: usize) -> Move {
    match found {
        None => gone(),
        Some(head) if head.process != me.process => taken(head),
        Some(head) if head.kept.contains(new) => Move::Holds,
        Some(head) => {
            let mut kept = head.kept.clone();
            kept.push(new.clone());
            let kept = kept.split_off(kept.len().saturating_sub(keep.max(1)));
            Move::Write(head.next(me, kept))
        }
    }
}

/// Takes checkpoints off that were found damaged, by their manifests' keys: they must not push whole ones out.
pub fn drop_damaged(me: &Writer, found: Option<&Head>, damaged: &[String]) -> Move {
    match found {
        None => gone(),
        Some(head) if head.process != me.process => taken(head),
        Some(head) if !head.kept.iter().any(|k| damaged.contains(&k.manifest)) => Move::Holds,
        Some(head) => Move::Write(head.next(me, head.kept.iter().filter(|k| !damaged.contains(&k.manifest)).cloned().collect())),
    }
}

fn gone() -> Move {
    Move::Revoked("the job's checkpoints were removed: it has ended".into())
}

fn taken(head: &Head) -> Move {
    Move::Revoked(format!("attempt {} (pod {}) saves this job's checkpoints now", head.attempt, head.pod_uid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(attempt: u32, pod: &str, process: &str) -> Writer {
        Writer { attempt, pod_uid: pod.into(), process: process.into() }
    }

    fn kept(number: u64) -> Kept {
        Kept { attempt: 1, number, manifest: format!("m/{number}"), sha256: "s".into(), files: 1, bytes: 1 }
    }

    fn written(step: Move) -> Head {
        match step {
            Move::Write(head) => head,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn only_a_higher_attempt_or_the_same_pod_takes_over() {
        let first = written(claim(&writer(2, "p", "x"), None, true));
        assert_eq!((first.attempt, first.seq), (2, 1));
        assert!(matches!(claim(&writer(2, "p", "x"), None, false), Move::Revoked(_)));
        assert_eq!(claim(&writer(2, "p", "x"), Some(&first), false), Move::Holds);
        for (who, takes) in
            [(writer(3, "q", "y"), true), (writer(2, "p", "y"), true), (writer(2, "q", "y"), false), (writer(1, "p", "y"), false)]
        {
            let step = claim(&who, Some(&first), true);
            assert_eq!(matches!(step, Move::Write(_)), takes, "{who:?} {step:?}");
        }
    }

    #[test]
    fn the_newest_are_kept_and_only_by_who_holds_it() {
        let me = writer(1, "p", "x");
        let mut head = written(claim(&me, None, true));
        for n in 1..=3 {
            head = written(publish(&me, Some(&head), &kept(n), 2));
        }
        assert_eq!(head.kept.iter().map(|k| k.number).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(publish(&me, Some(&head), &kept(3), 2), Move::Holds);
        let next = written(claim(&writer(2, "q", "y"), Some(&head), true));
        assert_eq!(next.kept, head.kept);
        assert!(matches!(publish(&me, Some(&next), &kept(4), 2), Move::Revoked(_)));
        assert!(matches!(publish(&me, None, &kept(4), 2), Move::Revoked(_)));
        // Keeping none would be keeping nothing to restore.
        assert_eq!(written(publish(&me, Some(&head), &kept(4), 0)).kept.len(), 1);
    }

    #[test]
    fn damaged_ones_go_and_the_others_stay() {
        let me = writer(1, "p", "x");
        let mut head = written(claim(&me, None, true));
        for n in 1..=3 {
            head = written(publish(&me, Some(&head), &kept(n), 3));
        }
        let left = written(drop_damaged(&me, Some(&head), &["m/3".into()]));
        assert_eq!(left.kept, [kept(1), kept(2)]);
        assert_eq!(drop_damaged(&me, Some(&left), &["m/3".into()]), Move::Holds);
    }
}
