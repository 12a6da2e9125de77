//! Staging while main runs: files that have come to rest are sent before main has ended, so that little is left to do after it.
//!
//! The folder is looked at again and again. A file is sent once it was not written to for a while and two looks in a row found it the same;
//! one that changes afterwards is sent again, and has to rest four times as long each time. Nothing is believed because of this: after
//! main has ended everything is looked at once more, and what is not as it was staged is staged anew. Notifications (inotify) are not
//! used: they overflow, need a watch for each folder, and say nothing of writes through a memory map.

use std::collections::hash_map::DefaultHasher;
use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::progress::{Meter, count, say, size};
use crate::spec::Results;

use super::destination::Destination;
use super::globs::Globs;
use super::ledger::Ledger;
use super::upload::Stager;
use super::walk::{self, Found};
use super::{Context, Fault};

/// Name of the environment variable that says for how many milliseconds a file must not have been written to; 0 stages nothing before
/// main has ended.
const REST_ENV: &str = "GPUJOB_REST_MS";
/// That long, where it is not set.
const REST: Duration = Duration::from_secs(10);
/// Longest rest that is asked of a file that was sent again and again.
const LONGEST: Duration = Duration::from_secs(3600);
/// Requests at a time: main has the node for itself.
const THREADS: usize = 2;
/// A look takes at most this part of the time.
const SHARE: u32 = 20;

/// How long files must rest on this node.
pub(super) fn rest() -> Duration {
    std::env::var(REST_ENV).ok().and_then(|text| text.parse().ok()).map_or(REST, Duration::from_millis)
}

/// Stages what has come to rest, until `stop` is set. What fails here is tried again in the next round, and after main has ended.
pub(super) fn run(context: &Context, results: &Results, to: &Destination, base: &str, ledger: &Ledger, stop: &AtomicBool) {
    let rest = rest();
    if rest.is_zero() {
        return;
    }
    // Of this thread and those it starts: the program's own come first.
    let _ = rustix::process::nice(15);
    let mut resting = Resting { rest, ..Resting::default() };
    let (mut pause, mut said) = (rest / 2, String::new());
    while sleep(pause, stop) {
        let began = Instant::now();
        let round = round(context, results, to, base, ledger, stop, &mut resting);
        if let Err(fault) = round
            && !stop.load(Ordering::Relaxed)
            && said != fault.message
        {
            say(&format!("while main runs: {fault}; it is tried again"));
            said = fault.message;
        }
        pause = (rest / 2).max(began.elapsed().min(Duration::from_secs(30)) * SHARE);
    }
}

fn round(
    context: &Context,
    results: &Results,
    to: &Destination,
    base: &str,
    ledger: &Ledger,
    stop: &AtomicBool,
    resting: &mut Resting,
) -> Result<(), Fault> {
    let globs = Globs::new(&results.include, &results.exclude)?;
    let mut files = walk::tree(Path::new(&results.path), to.room(), &globs)?.files;
    resting.look(&mut files, ledger, SystemTime::now());
    if files.is_empty() {
        return Ok(());
    }
    let (number, bytes) = (files.len() as u64, files.iter().map(|f| f.size).sum());
    let meter = Meter::new("staged while main runs:", number, bytes);
    let state = &context.state;
    let stager = Stager { to, base: base.into(), stop, meter, state, ledger, recheck: false, main_runs: true, threads: THREADS };
    stager.all(files)?;
    say(&format!("staged {} ({}) while main runs", count(number, "file"), size(bytes)));
    Ok(())
}

/// Sleeps; false when it is time to end.
fn sleep(pause: Duration, stop: &AtomicBool) -> bool {
    let until = Instant::now() + pause;
    while !stop.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
    false
}

/// Which files have come to rest. Pure.
#[derive(Default)]
struct Resting {
    rest: Duration,
    /// Name and stamp of what the last look found, as a hash: a million files are 8 MB.
    seen: HashSet<u64>,
    /// How often a file was sent again.
    restless: HashMap<String, u32>,
}

impl Resting {
    /// Leaves in `files` those that are to be staged now.
    fn look(&mut self, files: &mut Vec<Found>, ledger: &Ledger, now: SystemTime) {
        let mut seen = HashSet::with_capacity(files.len());
        files.retain(|found| {
            let mut hasher = DefaultHasher::new();
            (&found.name, &found.stamp).hash(&mut hasher);
            let hash = hasher.finish();
            seen.insert(hash);
            if !self.seen.contains(&hash) || ledger.find(&found.name, &found.stamp).is_some() {
                return false;
            }
            let again = self.restless.get(&found.name).copied().unwrap_or(0);
            let rest = self.rest.saturating_mul(4u32.saturating_pow(again)).min(LONGEST.max(self.rest));
            // A time in the future says nothing; it is delivered after main has ended.
            if now.duration_since(found.written).unwrap_or_default() < rest {
                return false;
            }
            if ledger.has(&found.name) {
                *self.restless.entry(found.name.clone()).or_default() += 1;
            }
            true
        });
        self.seen = seen;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plan::{FileSum, Item, Staged, Strong};
    use crate::role::ledger::Entry;
    use std::fs;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_file_that_changes_again_and_again_has_to_rest_longer() {
        let folder = tempfile::tempdir().unwrap();
        let state = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(state.path(), "s/");
        let mut resting = Resting { rest: 10 * SECOND, ..Resting::default() };
        fs::write(folder.path().join("a"), "1").unwrap();
        let globs = Globs::new(&[], &[]).unwrap();
        let mut look = |after: u32| {
            let mut files = walk::tree(folder.path(), 1024, &globs).unwrap().files;
            let now = files[0].written + SECOND * after;
            resting.look(&mut files, &ledger, now);
            for found in &files {
                let file = FileSum { path: found.name.clone(), size: 1, crc64nvme: String::new(), strong: Strong::Whole(String::new()) };
                let staged = Staged::Object { key: String::new() };
                ledger.add(vec![Entry { stamp: found.stamp, item: Item { file, staged } }]);
            }
            files.len()
        };
        assert_eq!(look(11), 0, "seen once");
        assert_eq!(look(9), 0, "written to 9 s ago");
        assert_eq!(look(11), 1);
        assert_eq!(look(99), 0, "staged as it is");
        fs::write(folder.path().join("a"), "22").unwrap();
        assert_eq!((look(11), look(11)), (0, 1));
        fs::write(folder.path().join("a"), "333").unwrap();
        assert_eq!((look(11), look(39), look(41)), (0, 0, 1));
    }
}
