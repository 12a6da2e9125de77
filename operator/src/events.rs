//! Events: how something that a person would want to hear of is told. Best effort, and never for long.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder};
use std::time::Duration;

/// The longest note that the API server takes, in bytes.
pub const LONGEST_NOTE: usize = 1024;
/// Telling must not hold up what it tells of.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Tells of one thing. A failure is logged and forgotten.
pub async fn tell(recorder: &Recorder, about: &ObjectReference, type_: EventType, reason: &str, action: &str, note: &str) {
    let event = Event { type_, reason: reason.into(), action: action.into(), note: Some(cut(note)), secondary: None };
    match tokio::time::timeout(TIMEOUT, recorder.publish(&event, about)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => tracing::debug!(reason, %error, "event not published"),
        Err(_) => tracing::debug!(reason, "event not published in time"),
    }
}

/// The start of a note, as much as the API server takes.
#[must_use]
pub fn cut(note: &str) -> String {
    let mut end = note.len().min(LONGEST_NOTE);
    while !note.is_char_boundary(end) {
        end -= 1;
    }
    note[..end].to_owned()
}
