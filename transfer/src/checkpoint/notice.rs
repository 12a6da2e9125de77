//! What a sidecar is told while it runs: by signals, and by the annotations of its pod that the downward API shows as files.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::budget::Budget;
use super::time;
use crate::progress::say;

/// What the kubelet leaves between a second SIGTERM and SIGKILL, in seconds.
const LAST: f64 = 2.0;

/// Signals so far, and the pod's folder.
pub(super) struct Notice {
    signals: AtomicUsize,
    /// When the second came, in milliseconds since 1970; 0: it has not.
    second: AtomicU64,
    pod_dir: PathBuf,
}

impl Notice {
    /// `ending`: SIGTERM came before this process was started.
    pub(super) fn new(pod_dir: &Path, ending: bool) -> Notice {
        Notice { signals: AtomicUsize::new(usize::from(ending)), second: AtomicU64::new(0), pod_dir: pod_dir.into() }
    }

    /// A signal to end came.
    pub(super) fn signalled(&self) {
        if self.signals.fetch_add(1, Ordering::SeqCst) == 1 {
            self.second.store((time::now() * 1000.0) as u64, Ordering::SeqCst);
        }
    }

    /// The last request for a checkpoint, as it was written.
    pub(super) fn asked(&self) -> Option<String> {
        let text = fs::read_to_string(self.pod_dir.join("checkpoint")).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_string())
    }

    /// When the node goes away, in seconds since 1970.
    pub(super) fn taken_at(&self) -> Option<f64> {
        let text = fs::read_to_string(self.pod_dir.join("taken-at")).ok()?;
        if text.trim().is_empty() {
            return None;
        }
        let at = time::parse(&text);
        if at.is_none() {
            say(&format!("taken-at is {text:?}, which is no time: it is not heeded"));
        }
        at
    }

    /// The time that is left, with what is known of the rate.
    pub(super) fn budget(&self, rate: Option<f64>) -> Budget {
        let second = self.second.load(Ordering::SeqCst);
        let killed = (second > 0).then_some(second as f64 / 1000.0 + LAST);
        Budget { until: self.taken_at(), rate }.and_until(killed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_pods_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let notice = Notice::new(folder.path(), false);
        assert_eq!((notice.asked(), notice.taken_at()), (None, None));
        fs::write(folder.path().join("checkpoint"), "\n").unwrap();
        assert_eq!(notice.asked(), None);
        fs::write(folder.path().join("checkpoint"), "2026-01-01T00:00:00Z\n").unwrap();
        assert_eq!(notice.asked().as_deref(), Some("2026-01-01T00:00:00Z"));
        for (text, want) in [("", None), ("soon", None), ("1970-01-01T00:01:00Z\n", Some(60.0))] {
            fs::write(folder.path().join("taken-at"), text).unwrap();
            assert_eq!(notice.taken_at(), want, "{text:?}");
        }
        assert_eq!(notice.budget(Some(3.0)), Budget { until: Some(60.0), rate: Some(3.0) });
    }

    #[test]
    fn the_second_signal_leaves_two_seconds_from_when_it_came() {
        let folder = tempfile::tempdir().unwrap();
        for (ending, signals) in [(false, 2), (true, 1)] {
            let notice = Notice::new(folder.path(), ending);
            for _ in 1..signals {
                notice.signalled();
            }
            assert_eq!(notice.budget(None).until, None);
            notice.signalled();
            let until = notice.budget(None).until.unwrap();
            notice.signalled();
            assert_eq!(notice.budget(None).until, Some(until));
            assert!((until - time::now()).abs() <= LAST);
        }
    }
}
