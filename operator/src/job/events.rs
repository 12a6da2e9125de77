//! Events of a job: one for each transition that a person would want to hear of, never for a repetition.

use gpujob_crds::GpuJobStatus;
use gpujob_crds::conditions::{find, job as types};
use gpujob_crds::job_status::{Attempt, Outcome};
use kube::runtime::events::{Event, EventType};

/// What has changed from `old` to `new`.
#[must_use]
pub fn transitions(old: &GpuJobStatus, new: &GpuJobStatus) -> Vec<Event> {
    let mut events = vec![];
    for a in &new.attempts {
        let before = old.attempts.iter().find(|b| b.number == a.number);
        if before.is_none() {
            events.push(assigned(a));
        }
        if a.start_time.is_some() && before.is_none_or(|b| b.start_time.is_none()) {
            events.push(started(a));
        }
        if let Some(outcome) = a.outcome.filter(|_| before.is_none_or(|b| b.outcome.is_none())) {
            events.push(ended(a, outcome));
        }
    }
    if new.completion_time.is_some() && old.completion_time.is_none() {
        events.extend(find(&new.conditions, types::SUCCEEDED).map(|c| over(c.status == "True", &c.reason, &c.message)));
    }
    events
}

fn assigned(a: &Attempt) -> Event {
    event(
        EventType::Normal,
        "Assigned",
        "Assign",
        &format!("Attempt {} has a place on {}.", a.number, a.node.as_deref().unwrap_or("a node")),
    )
}

fn started(a: &Attempt) -> Event {
    event(EventType::Normal, "Started", "Run", &format!("Attempt {} runs.", a.number))
}

fn ended(a: &Attempt, outcome: Outcome) -> Event {
    let reason = a.reason.as_deref().unwrap_or("Ended");
    let note = format!("Attempt {}: {reason}. {}", a.number, a.message.as_deref().unwrap_or_default());
    match outcome {
        Outcome::Succeeded => event(EventType::Normal, "AttemptSucceeded", "Deliver", &note),
        Outcome::Failed => event(EventType::Warning, "AttemptFailed", "Run", &note),
        Outcome::Interrupted => event(EventType::Warning, "AttemptInterrupted", "Run", &note),
    }
}

fn over(succeeded: bool, reason: &str, message: &str) -> Event {
    let (type_, word) = if succeeded { (EventType::Normal, "Succeeded") } else { (EventType::Warning, "Failed") };
    event(type_, word, "End", &format!("{reason}: {message}"))
}

fn event(type_: EventType, reason: &str, action: &str, note: &str) -> Event {
    let note = crate::events::cut(note);
    Event { type_, reason: reason.into(), action: action.into(), note: Some(note), secondary: None }
}
