//! The story of one job, told from what is seen. Pure: sights go in, rows come out. What each sight adds: [`telling`].

mod telling;

use super::sight::Sight;
use gpujob_crds::conditions::{find, job as job_condition};
use gpujob_crds::{GpuJob, GpuNode};
use std::collections::BTreeMap;
use telling::Rows;

/// The steps, in the order in which they usually come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Apply,
    Offer,
    Launch,
    Boot,
    Join,
    Gpu,
    Fetch,
    Run,
    Exit,
    Delivery,
    Idle,
    Terminate,
    Zero,
}

impl Step {
    /// As the timeline names it.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Step::Apply => "apply",
            Step::Offer => "offer",
            Step::Launch => "launch",
            Step::Boot => "boot",
            Step::Join => "join",
            Step::Gpu => "GPU ready",
            Step::Fetch => "pull, fetch",
            Step::Run => "run",
            Step::Exit => "exit",
            Step::Delivery => "delivery",
            Step::Idle => "idle",
            Step::Terminate => "terminated",
            Step::Zero => "zero",
        }
    }
}

/// One line of the story.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    /// Unix seconds.
    pub(super) at: f64,
    /// Dollars so far, as EC2 bills.
    pub(super) dollars: f64,
    /// First column.
    pub(super) word: &'static str,
    /// What happened.
    pub(super) what: String,
}

/// All that is known so far.
#[derive(Debug, Default)]
pub(super) struct Timeline {
    /// When each step was reached, Unix seconds.
    pub(super) moments: BTreeMap<Step, f64>,
    /// The job as last seen.
    pub(super) job: Option<GpuJob>,
    /// The GpuNode that was launched for it.
    pub(super) node: Option<GpuNode>,
    /// Dollars so far.
    pub(super) dollars: f64,
    /// The bill's row of our instance, as last read.
    pub(super) bill: Option<serde_json::Value>,
    /// The GpuNode object is gone.
    pub(super) released: bool,
    /// When the operator asked EC2 to end the instance, Unix seconds.
    pub(super) terminate_call: Option<f64>,
    launch_call: Option<f64>,
    /// Time of the last row.
    told: f64,
    waiting: Option<String>,
}

impl Timeline {
    /// Takes in what was seen and tells what is new.
    pub(super) fn see(&mut self, at: f64, sight: &Sight) -> Vec<Row> {
        let mut rows = Rows { line: self, at, rows: vec![] };
        match sight {
            Sight::Job(job) => rows.job(job),
            Sight::Intent(node) => rows.intent(node),
            Sight::IntentGone(name) => rows.intent_gone(name),
            Sight::Pod(pod) => rows.pod(pod),
            Sight::Node(node) => rows.node(node),
            Sight::Books(books) => rows.books(books),
            Sight::Tick => {}
        }
        rows.rows
    }

    /// Whether the job has ended, and how.
    pub(super) fn verdict(&self) -> Option<bool> {
        let status = self.job.as_ref()?.status.as_ref()?;
        match find(&status.conditions, job_condition::SUCCEEDED)?.status.as_str() {
            "True" => Some(true),
            "False" => Some(false),
            _ => None,
        }
    }

    /// What the job waits for, for the line that moves.
    pub(super) fn doing(&self) -> String {
        let conditions =
            self.job.as_ref().and_then(|job| job.status.as_ref()).map(|status| status.conditions.as_slice()).unwrap_or_default();
        if self.verdict().is_some() {
            let idle = self.node.is_some() && !self.moments.contains_key(&Step::Terminate);
            return if idle { "the node waits out its idle window".into() } else { "the last traces go".into() };
        }
        find(conditions, job_condition::SUCCEEDED).map(|condition| condition.message.clone()).unwrap_or_default()
    }

    fn instance(&self) -> Option<&str> {
        self.node.as_ref()?.status.as_ref()?.instance.as_ref().map(|instance| instance.id.as_str())
    }
}

/// `1 file`, `2 files`.
pub(super) fn count(number: i64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// Bytes as people read them.
#[allow(clippy::cast_precision_loss)]
pub(super) fn bytes(number: i64) -> String {
    match number {
        0..1_000 => format!("{number} B"),
        1_000..1_000_000 => format!("{:.1} kB", number as f64 / 1e3),
        _ => format!("{:.1} MB", number as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests;
