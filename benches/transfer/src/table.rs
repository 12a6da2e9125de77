//! The table: the middle of the rounds, and how much longer than we each other program takes.

use crate::shape::{Shape, Way};
use std::time::Duration;

/// What one run took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Used {
    pub(crate) wall: Duration,
    /// Of all its processes, in user and kernel mode.
    pub(crate) processor: Duration,
    /// Most memory, in KiB.
    pub(crate) memory: u64,
}

/// One program's runs.
pub(crate) struct Row {
    name: &'static str,
    runs: Vec<Used>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Row {
        Row { name, runs: vec![] }
    }

    pub(crate) fn add(&mut self, used: Used) {
        self.runs.push(used);
    }

    fn middle<T: Ord + Copy>(&self, of: impl Fn(&Used) -> T) -> Option<T> {
        let mut values: Vec<T> = self.runs.iter().map(of).collect();
        values.sort_unstable();
        values.get(values.len() / 2).copied()
    }
}

/// What else this machine does: its load averages.
pub(crate) fn load() -> String {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

pub(crate) fn head(tls: bool, delay: u64, load: &str) -> String {
    let wire = if tls { "TLS" } else { "plain HTTP" };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{wire}, {delay} ms added; {processors} processors, load {load}\n{:<22} {:<14} {:>8} {:>8} {:>9} {:>7}",
        "", "", "wall s", "CPU s", "MiB", "ratio"
    )
}

pub(crate) fn section(shape: &Shape, way: Way, rows: &[Row]) -> String {
    let title = format!("{} x {} KiB {}", shape.files, shape.size >> 10, way.name());
    let ours = rows.first().and_then(|row| row.middle(|u| u.wall)).unwrap_or_default().as_secs_f64();
    let mut text = String::new();
    for row in rows {
        let (Some(wall), Some(processor), Some(memory)) = (row.middle(|u| u.wall), row.middle(|u| u.processor), row.middle(|u| u.memory))
        else {
            continue;
        };
        let (wall, processor) = (wall.as_secs_f64(), processor.as_secs_f64());
        text.push_str(&format!(
            "{title:<22} {:<14} {wall:>8.2} {processor:>8.2} {:>9.1} {:>6.2}x\n",
            row.name,
            memory as f64 / 1024.0,
            wall / ours
        ));
    }
    text
}
