//! What a reader of `kubectl logs` sees: one line per step, on standard error.

use std::io::Write;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a long transfer says how far it is.
const EVERY: Duration = Duration::from_secs(5);

/// Counts what is done and says so now and then.
pub struct Meter {
    what: &'static str,
    files: AtomicU64,
    bytes: AtomicU64,
    total_files: u64,
    total_bytes: u64,
    said: Mutex<Instant>,
}

impl Meter {
    /// `what` as in "fetched" or "staged".
    pub fn new(what: &'static str, total_files: u64, total_bytes: u64) -> Meter {
        let (files, bytes) = (AtomicU64::new(0), AtomicU64::new(0));
        Meter { what, files, bytes, total_files, total_bytes, said: Mutex::new(Instant::now()) }
    }

    /// More is done.
    pub fn add(&self, files: u64, bytes: u64) {
        let files = self.files.fetch_add(files, Ordering::Relaxed) + files;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if let Ok(mut said) = self.said.lock()
            && said.elapsed() >= EVERY
        {
            *said = Instant::now();
            let (of_files, of_bytes) = (self.total_files, size(self.total_bytes));
            say(&format!("{} {files} of {of_files} files, {} of {of_bytes}", self.what, size(bytes)));
        }
    }
}

/// Writes one line.
pub fn say(line: &str) {
    let line = line.replace('\n', " ");
    // A log that nobody takes is no reason to lose data.
    let _ = writeln!(std::io::stderr(), "gpujob-transfer: {line}");
}

/// A size for people: `12 B`, `3.4 MiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `1 file`, `2 files`.
pub fn count(n: u64, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3.0 TiB")] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!((count(1, "file"), count(0, "file")), ("1 file".into(), "0 files".into()));
    }
}
