//! How a file of a pack is made visible, as `role/pack.rs` does it: read the pack, write under the condition that nothing is there; over
//! something else only as the version that was seen before the epoch still said `committing`. Each of these is a step of its own, and a
//! write may arrive at any later moment, with its condition.
//!
//! A version is its owner here: no two owners write the same bytes. Where they do, S3's ETags are equal and so are the files.

use super::*;

/// How a file gets to its final name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// The store copies it: nothing arrives once its source is gone.
    Copied,
    /// Its bytes come from a pack and travel with the request, which has a condition.
    Packed,
    /// The same without a condition: what must be found.
    Blind,
}

/// Where in that a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Put {
    /// It has the bytes, and writes over this, or over nothing.
    Write(Option<Owner>),
    /// It was refused, and looks what lies there.
    Look,
    /// It has seen that, and asks the epoch whether the commit is still under way.
    Ask(Option<Owner>),
}

impl World {
    /// Reads the pack. A lost answer is asked for again.
    pub(super) fn read(&mut self, index: usize, of: Owner, lose: bool) -> Option<()> {
        self.processes[index].at = match () {
            () if lose => return None,
            () if self.staged.contains(of) => At::Packed(of, Put::Write(None)),
            // The pack went because another roller has finished: what lies at the key counts.
            () if self.file == Some(of) => At::Finish(of),
            () => At::Done,
        };
        Some(())
    }

    pub(super) fn packed(&mut self, index: usize, of: Owner, put: Put, lose: bool, race: &Race) -> Option<()> {
        let next = match put {
            Put::Write(seen) if lose => return self.late_puts.insert((of, seen)).then_some(()),
            _ if lose => return None,
            Put::Write(seen) => {
                self.arrive(of, seen, race);
                // Refused, and this very file is there, or something else.
                if self.file == Some(of) { At::Finish(of) } else { At::Packed(of, Put::Look) }
            }
            Put::Look => At::Packed(of, Put::Ask(self.file)),
            Put::Ask(seen) => match &self.epoch {
                Some(epoch) if epoch.state == State::Committing && owner_of(epoch) == of => At::Packed(of, Put::Write(seen)),
                _ => At::Finish(of),
            },
        };
        self.processes[index].at = next;
        Some(())
    }

    /// The store looks at the condition and writes.
    pub(super) fn arrive(&mut self, of: Owner, seen: Option<Owner>, race: &Race) {
        if self.file == seen || race.files == Files::Blind {
            self.file = Some(of);
        }
    }
}

fn two_jobs(files: Files) -> Race {
    let processes = vec![("a1", At::Claim), ("a1", At::Begin), ("a1", At::Begin), ("b1", At::Claim), ("b1", At::Begin)];
    Race { processes, sweeps_others: true, files }
}

#[test]
fn files_of_packs_are_the_winners_too() {
    let attempts = vec![("a1", At::Claim), ("a1", At::Begin), ("a2", At::Claim), ("a2", At::Begin), ("a1", At::Resolve)];
    for race in [Race { processes: attempts, sweeps_others: true, files: Files::Packed }, two_jobs(Files::Packed)] {
        let found = explore(race);
        println!("{} states", found.unique_state_count());
        found.assert_properties();
    }
    // The model can fail: bytes that travel without a condition land on the later job's file.
    let blind = explore(two_jobs(Files::Blind));
    assert!(blind.discovery("the file is the winner's, but while a commit is under way").is_some());
}
