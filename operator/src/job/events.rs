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
        if a.start_time.is_some() && before.is_none_or(|b| b.start_time.is_none()) {
            events.push(started(a));
        }
        // That the job has succeeded says the same of its last attempt.
        let told = |outcome: &Outcome| *outcome == Outcome::Succeeded && new.completion_time.is_some();
        if let Some(outcome) = a.outcome.filter(|o| before.is_none_or(|b| b.outcome.is_none()) && !told(o)) {
            events.push(ended(a, outcome));
        }
    }
    if new.completion_time.is_some() && old.completion_time.is_none() {
        events.extend(find(&new.conditions, types::SUCCEEDED).map(|c| over(c.status == "True", &c.reason, &c.message)));
    }
    events
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

#[cfg(test)]
mod tests {
    use super::*;
    use gpujob_crds::conditions::{set, want};
    use jiff::Timestamp;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    #[test]
    fn a_job_that_succeeds_tells_that_it_started_and_that_it_succeeded() {
        let time = Some(Time(Timestamp::UNIX_EPOCH));
        let reasons = |old: &GpuJobStatus, new: &GpuJobStatus| transitions(old, new).into_iter().map(|e| e.reason).collect::<Vec<_>>();
        let mut story = vec![GpuJobStatus::default()];
        let mut next = |change: &dyn Fn(&mut GpuJobStatus)| {
            let mut status = story.last().cloned().unwrap_or_default();
            change(&mut status);
            story.push(status);
        };
        next(&|s| s.attempts.push(Attempt { number: 1, ..Attempt::default() }));
        next(&|s| s.attempts[0].start_time.clone_from(&time));
        next(&|s| {
            s.attempts[0].outcome = Some(Outcome::Succeeded);
            s.completion_time.clone_from(&time);
            set(&mut s.conditions, &want(types::SUCCEEDED, true, "Committed", ""), 1, Timestamp::UNIX_EPOCH);
        });
        let told: Vec<String> = story.windows(2).flat_map(|pair| reasons(&pair[0], &pair[1])).collect();
        assert_eq!(told, ["Started", "Succeeded"]);
    }
}
