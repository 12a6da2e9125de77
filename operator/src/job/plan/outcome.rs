//! What the containers of an attempt's pod say. States are read, never the phase alone: a program that exits 0 on SIGTERM
//! looks successful, and the phase comes seconds later.

use crate::job::facts::{Container, End, NodeFact, PodFact};
use crate::job::next::NOTICED;
use gpujob_transfer::receipt::{EXIT_ALREADY_COMMITTED, EXIT_PERMANENT, Outcome, Receipt, reason};
use jiff::Timestamp;

/// What became of the program.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Seen {
    /// It has not started; what is going on.
    Starting(String),
    /// It waits for something that only a person can mend, such as an image that does not exist.
    Hung { reason: String, message: String },
    /// It runs since then.
    Running(Timestamp),
    /// All its containers have ended.
    Exited(Exit),
    /// The results were there before it started.
    AlreadyCommitted(Receipt),
    /// It can never run like this.
    Permanent { reason: String, message: String },
    /// The destination is another job's, says `fetch`.
    Refused(Receipt),
    /// It was taken away, or could not be started this time.
    Interrupted { reason: String, message: String },
}

/// How the program ended.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) container: String,
    pub(super) started: Option<Timestamp>,
    pub(super) at: Option<Timestamp>,
    pub(super) reason: String,
    pub(super) message: String,
    /// What had disturbed it before it ended.
    pub(super) disruption: Option<String>,
}

/// A disturbance, with the time that it began where that is known.
type Disruption = (String, String, Option<Timestamp>);

/// Reads the pod. `node`: its GpuNode; `None` when that is gone.
pub(super) fn look(pod: &PodFact, node: Option<&NodeFact>) -> Seen {
    let disruption = disruption(pod, node);
    if let Some(exit) = exit(pod) {
        if exit.reason == "ContainerStatusUnknown" {
            return interrupted("ContainerStatusUnknown", "The node lost track of the program.");
        }
        let before = disruption.filter(|(_, _, began)| disturbed(exit.at, *began)).map(|d| d.0);
        return Seen::Exited(Exit { disruption: before, ..exit });
    }
    if let Some(seen) = pod.fetch.as_ref().and_then(|c| fetched(c, disruption.is_some())) {
        return seen;
    }
    if let Some((reason, message, _)) = disruption {
        return Seen::Interrupted { reason, message };
    }
    if let Some((name, end)) = pod.inits.iter().filter(|c| c.failed()).find_map(|c| c.ended.as_ref().map(|e| (&c.name, e))) {
        return Seen::Exited(of(name, end));
    }
    if pod.phase == "Failed" || pod.phase == "Succeeded" {
        let reason = pod.reason.clone().unwrap_or_else(|| "PodFailed".into());
        return interrupted(&reason, &text_or(&pod.message, "The pod ended without its program having run."));
    }
    // Before the others' running: one container that cannot start keeps the program from ever being whole, and from ending.
    if let Some(hung) = hung(pod.mains.iter()) {
        return hung;
    }
    if let Some(since) = pod.mains.iter().filter_map(|c| c.running.or(c.ended.as_ref().and_then(|e| e.started))).min() {
        return Seen::Running(since);
    }
    waiting(pod)
}

/// Whether an end at `at` may have been caused by something that began at `began`. Kubelets write whole seconds, so within
/// one second the disturbance came first: running again is safe, a false success is not.
fn disturbed(at: Option<Timestamp>, began: Option<Timestamp>) -> bool {
    match (at, began) {
        (Some(at), Some(began)) => at.as_second() >= began.as_second(),
        _ => true,
    }
}

fn disruption(pod: &PodFact, node: Option<&NodeFact>) -> Option<Disruption> {
    let mut all: Vec<Disruption> = vec![];
    let mut add = |reason: &str, message: String, at| all.push((reason.to_owned(), message, at));
    match node {
        None => add("NodeLost", "Its GpuNode is gone.".into(), None),
        Some(n) => {
            if let Some(at) = n.interrupted {
                add(NOTICED, format!("The cloud takes {} back.", n.name), Some(at));
            }
            if let Some(at) = n.deleting {
                add("NodeDeleted", n.farewell(), Some(at));
            }
        }
    }
    if let Some((reason, at)) = &pod.disruption {
        add(reason, "Kubernetes disrupted the pod.".into(), Some(*at));
    }
    if let Some(at) = pod.deleting {
        add("PodDeleted", "Somebody deleted the pod.".into(), Some(at));
    }
    if let Some(reason) = pod.reason.as_deref().filter(|r| ["Evicted", "NodeLost", "Terminated", "Shutdown", "Preempting"].contains(r)) {
        add(reason, text_or(&pod.message, "The node gave the pod up."), None);
    }
    // The earliest decides; one without a time may be the earliest of all.
    all.into_iter().min_by_key(|d| d.2.unwrap_or(Timestamp::MIN))
}

fn exit(pod: &PodFact) -> Option<Exit> {
    let ended: Vec<(&String, &End)> = pod.mains.iter().filter_map(|c| c.ended.as_ref().map(|e| (&c.name, e))).collect();
    if ended.len() < pod.expected {
        return None;
    }
    // A container that could not be admitted is "terminated" without ever having started.
    let worst = ended.iter().find(|(_, e)| e.code != 0).or(ended.first())?;
    let mut exit = of(worst.0, worst.1);
    exit.at = ended.iter().map(|(_, e)| e.at).max().flatten();
    exit.started = ended.iter().filter_map(|(_, e)| e.started).min();
    Some(exit)
}

fn of(name: &str, end: &End) -> Exit {
    Exit {
        code: end.code,
        container: name.to_owned(),
        started: end.started,
        at: end.at,
        reason: end.reason.clone(),
        message: end.message.clone(),
        disruption: None,
    }
}

/// What `fetch` says, if that decides anything.
fn fetched(c: &Container, disrupted: bool) -> Option<Seen> {
    let end = c.ended.as_ref()?;
    let receipt = end.receipt();
    if let Some(r) = receipt.as_ref().filter(|r| end.code == EXIT_ALREADY_COMMITTED || is_committed(r)) {
        return Some(Seen::AlreadyCommitted(r.clone()));
    }
    if end.code == 0 {
        return None;
    }
    let (reason, message) = match &receipt {
        Some(r) => (r.reason.clone(), r.message.clone()),
        None => ("FetchFailed".into(), format!("Fetching the inputs ended with exit code {} ({}).", end.code, end.reason)),
    };
    // Revoked: an attempt of a higher number holds the claim, so this one is a zombie and no failure of the job.
    let revoked = receipt.as_ref().is_some_and(|r| r.outcome == Outcome::Revoked);
    let permanent = receipt.as_ref().map_or(end.code == EXIT_PERMANENT, |r| !r.retryable) && !revoked;
    if let Some(r) = receipt.filter(|r| permanent && r.reason == reason::DESTINATION_IN_USE) {
        return Some(Seen::Refused(r));
    }
    if permanent {
        return Some(Seen::Permanent { reason, message });
    }
    (!disrupted).then_some(Seen::Interrupted { reason, message })
}

/// Whether this receipt says that results of this job are at their destination.
pub(super) fn is_committed(r: &Receipt) -> bool {
    matches!(r.outcome, Outcome::Committed | Outcome::AlreadyCommitted | Outcome::RolledForward)
}

fn waiting(pod: &PodFact) -> Seen {
    if let Some(why) = &pod.unschedulable {
        return Seen::Starting(format!("Pod {} waits for room on its node: {why}", pod.name));
    }
    if let Some(hung) = hung(pod.fetch.iter().chain(&pod.stage).chain(&pod.inits)) {
        return hung;
    }
    if pod.fetch.as_ref().is_some_and(|c| c.running.is_some()) {
        return Seen::Starting("Fetching the inputs.".into());
    }
    Seen::Starting(format!("Pod {} is starting: its images are pulled.", pod.name))
}

/// The first of these that waits for an image or a setting.
fn hung<'a>(mut containers: impl Iterator<Item = &'a Container>) -> Option<Seen> {
    const HUNG: [&str; 6] =
        ["ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError", "CreateContainerError"];
    containers.find_map(|c| {
        let (reason, message) = c.waiting.as_ref().filter(|(reason, _)| HUNG.contains(&reason.as_str()))?;
        Some(Seen::Hung { reason: reason.clone(), message: format!("Container {}: {}", c.name, text_or(message, reason)) })
    })
}

fn interrupted(reason: &str, message: &str) -> Seen {
    Seen::Interrupted { reason: reason.into(), message: message.into() }
}

fn text_or(text: &str, otherwise: &str) -> String {
    if text.is_empty() { otherwise.to_owned() } else { text.to_owned() }
}

/// With a full stop at its end, so that another sentence may follow.
pub(super) fn sentence(text: &str) -> String {
    let text = text.trim();
    if text.is_empty() || text.ends_with(['.', '!', '?']) { text.to_owned() } else { format!("{text}.") }
}
