//! What a load test prints: rows for people, then one line of JSON for whoever compares runs.

use serde_json::{Map, Value};

/// Figures as they are found, each printed at once: a run takes minutes.
#[derive(Debug, Default)]
pub(super) struct Report(Map<String, Value>);

impl Report {
    /// A figure with its unit in its name, such as `last launch (s)`.
    pub(super) fn figure(&mut self, name: &str, value: f64) {
        let rounded = (value * 100.0).round() / 100.0;
        println!("  {name:<44} {rounded:>12}");
        self.0.insert(name.to_owned(), rounded.into());
    }

    /// The summary line.
    pub(super) fn finish(mut self, what: &str) {
        self.0.insert("test".into(), what.into());
        println!("{}", Value::Object(self.0));
    }
}
