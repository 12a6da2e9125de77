//! Locks that end with the process that holds them: of the file system, so that they hold between containers.

use std::fs::{self, File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::progress::say;

/// How often a lock that somebody holds is asked for.
const EVERY: Duration = Duration::from_millis(100);
/// How long its holder may get nowhere.
const PATIENCE: Duration = Duration::from_secs(60);

/// The lock at `path`, once nobody else holds it. `None` when it cannot be had: its holder gets nowhere (`filling`, which is what this
/// process waits for, is not written to), or the disk refuses.
pub(super) fn wait(path: &Path, filling: &Path) -> Option<File> {
    let file = super::open_lock(path).map_err(|e| say(&format!("{}: {e}; past the cache", path.display()))).ok()?;
    // Not its length: what comes in ranges has that from the beginning.
    let written = || fs::metadata(filling).and_then(|about| about.modified()).ok();
    let (mut seen, mut since, mut said) = (written(), Instant::now(), false);
    loop {
        match file.try_lock() {
            Ok(()) => return Some(file),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(e)) => {
                say(&format!("{}: {e}; past the cache", path.display()));
                return None;
            }
        }
        if !said {
            say("another job on this node fetches the same input: waiting for it");
            said = true;
        }
        let now = written();
        if now != seen {
            (seen, since) = (now, Instant::now());
        } else if since.elapsed() > PATIENCE {
            say("the other job gets nowhere: past the cache");
            return None;
        }
        std::thread::sleep(EVERY);
    }
}
