//! Conditions: every type and reason in one place, and the one way to set them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;

/// Condition types of a GpuJob.
pub mod job {
    /// The bounded summary: True when delivered, False when it will never be, Unknown until then.
    pub const SUCCEEDED: &str = "Succeeded";
    /// Work is still going on (kstatus: abnormal-true).
    pub const RECONCILING: &str = "Reconciling";
    /// It cannot go on without a person (kstatus: abnormal-true).
    pub const STALLED: &str = "Stalled";
    /// A reservation is held; when False the reason and message say what is waited for. Written by the scheduler.
    pub const ASSIGNED: &str = "Assigned";
    /// The main container of the current attempt runs.
    pub const RUNNING: &str = "Running";
    /// The manifest of the winning attempt is committed.
    pub const RESULTS_STORED: &str = "ResultsStored";
    /// Inputs and destination can be reached with the job's own credentials. Unknown until somebody has tried.
    pub const STORAGE_READY: &str = "StorageReady";
    /// `spec.suspend` is obeyed.
    pub const SUSPENDED: &str = "Suspended";
}

/// Condition types of a GpuPool.
pub mod pool {
    /// The provider accepts the settings and there is something to buy.
    pub const READY: &str = "Ready";
    /// Settings are being checked (kstatus: abnormal-true).
    pub const RECONCILING: &str = "Reconciling";
    /// The settings are wrong: a person must change them (kstatus: abnormal-true).
    pub const STALLED: &str = "Stalled";
}

/// Condition types of a GpuNode, in the order of its life.
pub mod node {
    /// The cloud answered with an instance id.
    pub const LAUNCHED: &str = "Launched";
    /// The Node has joined and is proved to be this instance.
    pub const REGISTERED: &str = "Registered";
    /// The Node is Ready and offers the GPUs that were bought.
    pub const INITIALIZED: &str = "Initialized";
    /// What comes before it is of use, in this order.
    pub const STEPS: [&str; 3] = [LAUNCHED, REGISTERED, INITIALIZED];
    /// All of the above, and no end in sight: pods may run here.
    pub const READY: &str = "Ready";
    /// The cloud says that the instance is gone.
    pub const TERMINATED: &str = "Terminated";
}

/// The condition of this type, if it was ever set.
#[must_use]
pub fn find<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|c| c.type_ == type_)
}

/// Whether the condition of this type is True.
#[must_use]
pub fn is_true(conditions: &[Condition], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status == "True")
}

/// A condition as a plan wants it. [`set`] turns it into one with times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The type, from the modules above.
    pub type_: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: Status,
    /// One CamelCase word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
}

/// The three values of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It holds.
    True,
    /// It does not hold.
    False,
    /// Not known yet.
    Unknown,
}

impl Status {
    /// As the API writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Status::True => "True",
            Status::False => "False",
            Status::Unknown => "Unknown",
        }
    }
}

impl From<bool> for Status {
    fn from(value: bool) -> Self {
        if value { Status::True } else { Status::False }
    }
}

/// Sets `wanted` in `conditions`: the transition time moves only when the status does, so that deadlines measured from it
/// survive restarts and a settled object is never written again. Messages are cut at 4,096 bytes.
pub fn set(conditions: &mut Vec<Condition>, wanted: &Wanted, generation: i64, now: Timestamp) {
    let mut message = wanted.message.clone();
    if message.len() > 4096 {
        let mut end = 4093;
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push_str("...");
    }
    let fresh = Condition {
        type_: wanted.type_.to_owned(),
        status: wanted.status.as_str().to_owned(),
        reason: wanted.reason.clone(),
        message,
        observed_generation: Some(generation),
        last_transition_time: Time(now),
    };
    match conditions.iter_mut().find(|c| c.type_ == wanted.type_) {
        Some(old) if old.status == fresh.status => {
            *old = Condition { last_transition_time: old.last_transition_time.clone(), ..fresh };
        }
        Some(old) => *old = fresh,
        None => conditions.push(fresh),
    }
}

/// Shorthand for a [`Wanted`].
#[must_use]
pub fn want(type_: &'static str, status: impl Into<Status>, reason: &str, message: impl Into<String>) -> Wanted {
    Wanted { type_, status: status.into(), reason: reason.to_owned(), message: message.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_moves_with_the_status_only() {
        let (t0, t1) = (Timestamp::from_second(100).expect("time"), Timestamp::from_second(200).expect("time"));
        let mut conditions = vec![];
        set(&mut conditions, &want(job::SUCCEEDED, Status::Unknown, "Running", "first"), 1, t0);
        set(&mut conditions, &want(job::SUCCEEDED, Status::Unknown, "Delivering", "second"), 2, t1);
        assert_eq!((conditions[0].last_transition_time.0, conditions[0].message.as_str()), (t0, "second"));
        set(&mut conditions, &want(job::SUCCEEDED, true, "Delivered", "third"), 2, t1);
        assert_eq!(conditions[0].last_transition_time.0, t1);
        assert_eq!(conditions.len(), 1);
    }
}
