//! What happened, in order: who wrote or called what, which fault struck, which promise was broken. It is the record that two
//! runs of one seed are compared by, and what people read.

use crate::clock::SimClock;
use serde::Serialize;
use std::collections::hash_map::DefaultHasher;
use std::fmt;
use std::hash::Hasher;
use std::sync::{Arc, Mutex};

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A write at the API server.
    Write,
    /// A call to the cloud that changes something.
    Call,
    /// A process began, ended, or something was done to it.
    Process,
    /// A fault of the schedule.
    Fault,
    /// Somebody outside did something: a person, the cloud.
    World,
    /// A promise was broken.
    Violation,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Virtual milliseconds since the beginning.
    pub at_ms: u64,
    /// The process, or the part of the world.
    pub who: String,
    /// What kind of thing.
    pub kind: Kind,
    /// What, for people.
    pub what: String,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (s, ms) = (self.at_ms / 1000, self.at_ms % 1000);
        let mark = match self.kind {
            Kind::Write | Kind::World => ' ',
            Kind::Call => '$',
            Kind::Process => '*',
            Kind::Fault => '~',
            Kind::Violation => '!',
        };
        write!(f, "{:02}:{:02}:{:02}.{ms:03} {mark} {:<13} {}", s / 3600, s / 60 % 60, s % 60, self.who, self.what)
    }
}

#[derive(Debug, Default)]
struct Record {
    entries: Vec<Entry>,
    /// Of everything, reads included, that is not worth a line.
    digest: DefaultHasher,
}

/// The record of one schedule. Clones share it.
#[derive(Clone, Debug)]
pub struct Timeline {
    clock: SimClock,
    record: Arc<Mutex<Record>>,
}

impl Timeline {
    /// An empty record.
    #[must_use]
    pub fn new(clock: SimClock) -> Self {
        Timeline { clock, record: Arc::default() }
    }

    /// Adds a line, now.
    pub fn note(&self, who: &str, kind: Kind, what: impl Into<String>) {
        let entry = Entry { at_ms: self.now_ms(), who: who.to_owned(), kind, what: what.into() };
        let mut record = self.lock();
        record.digest.write(entry.what.as_bytes());
        record.digest.write_u64(entry.at_ms);
        record.entries.push(entry);
    }

    /// Takes note of something that gets no line of its own but must be the same in every replay.
    pub fn trace(&self, who: &str, what: &str) {
        let at = self.now_ms();
        let mut record = self.lock();
        record.digest.write_u64(at);
        record.digest.write(who.as_bytes());
        record.digest.write(what.as_bytes());
    }

    /// Everything so far.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        self.lock().entries.clone()
    }

    /// How many lines there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether nothing has happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A fingerprint of all that happened, reads included.
    #[must_use]
    pub fn digest(&self) -> u64 {
        self.lock().digest.finish()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().expect("no panic holds this lock")
    }
}

/// Lines as text, one each.
#[must_use]
pub fn render(entries: &[Entry]) -> String {
    entries.iter().map(|e| format!("{e}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn lines_carry_virtual_time_and_reads_count_in_the_digest() {
        let timeline = Timeline::new(SimClock::new());
        tokio::time::sleep(Duration::from_millis(61_005)).await;
        timeline.note("operator-a", Kind::Write, "create gpunodes/gn-1");
        assert_eq!(render(&timeline.entries()), "00:01:01.005   operator-a    create gpunodes/gn-1\n");
        let before = timeline.digest();
        timeline.trace("operator-a", "get pods/p");
        assert_ne!(timeline.digest(), before);
        assert_eq!(timeline.len(), 1);
    }
}
