//! What the API server says when it says no: a `Status`, in its own words, as clients match on them.

use super::resource::Resource;
use serde_json::{Value, json};

/// One thing that is wrong with an object, as in `details.causes`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    pub reason: &'static str,
    /// The message without the field.
    pub message: String,
    /// Such as `spec.gpus.count`.
    pub field: String,
}

impl Cause {
    /// A value that is not allowed, with the words that say so.
    #[must_use]
    pub fn invalid(field: &str, value: &str, why: &str) -> Self {
        Cause { reason: "FieldValueInvalid", message: format!("Invalid value: {value}: {why}"), field: field.to_owned() }
    }

    /// A change that is not allowed.
    #[must_use]
    pub fn forbidden(field: &str, why: &str) -> Self {
        Cause { reason: "FieldValueForbidden", message: format!("Forbidden: {why}"), field: field.to_owned() }
    }

    /// A value that must be there.
    #[must_use]
    pub fn required(field: &str, why: &str) -> Self {
        let more = if why.is_empty() { String::new() } else { format!(": {why}") };
        Cause { reason: "FieldValueRequired", message: format!("Required value{more}"), field: field.to_owned() }
    }
}

/// An answer that is not the one that was asked for.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Refusal {
    /// The HTTP status.
    pub code: u16,
    /// One CamelCase word.
    pub reason: &'static str,
    /// A sentence.
    pub message: String,
    /// Of what, and why: the `details` of a `Status`.
    pub details: Value,
}

impl Refusal {
    pub(crate) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Refusal { code, reason, message: message.into(), details: Value::Null }
    }

    fn of(mut self, resource: &Resource, name: &str) -> Self {
        self.details = details(name, &resource.group, &resource.plural);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Refusal::new(400, "BadRequest", message)
    }

    pub(crate) fn not_found(resource: &Resource, name: &str) -> Self {
        Refusal::new(404, "NotFound", format!("{} {name:?} not found", resource.qualified())).of(resource, name)
    }

    /// No such path at all.
    pub(crate) fn no_route() -> Self {
        Refusal { details: json!({}), ..Refusal::new(404, "NotFound", "the server could not find the requested resource") }
    }

    pub(crate) fn method(verb: &str) -> Self {
        Refusal {
            details: json!({}),
            ..Refusal::new(405, "MethodNotAllowed", format!("the server does not allow this method on the requested resource: {verb}"))
        }
    }

    pub(crate) fn already_exists(resource: &Resource, name: &str) -> Self {
        Refusal::new(409, "AlreadyExists", format!("{} {name:?} already exists", resource.qualified())).of(resource, name)
    }

    pub(crate) fn conflict(resource: &Resource, name: &str, why: &str) -> Self {
        Refusal::new(409, "Conflict", format!("Operation cannot be fulfilled on {} {name:?}: {why}", resource.qualified()))
            .of(resource, name)
    }

    /// A conflict that names the kind in place of the resource.
    pub(crate) fn conflict_of_kind(resource: &Resource, name: &str, why: &str) -> Self {
        let kind = if resource.group.is_empty() { resource.kind.clone() } else { format!("{}.{}", resource.kind, resource.group) };
        let message = format!("Operation cannot be fulfilled on {kind} {name:?}: {why}");
        Refusal { details: details(name, &resource.group, &resource.kind), ..Refusal::new(409, "Conflict", message) }
    }

    /// Somebody else has written since.
    pub(crate) fn modified(resource: &Resource, name: &str) -> Self {
        Refusal::conflict(resource, name, "the object has been modified; please apply your changes to the latest version and try again")
    }

    pub(crate) fn forbidden(resource: &Resource, name: &str, why: &str) -> Self {
        Refusal::new(403, "Forbidden", format!("{} {name:?} is forbidden: {why}", resource.qualified())).of(resource, name)
    }

    /// 422, with its causes.
    pub(crate) fn invalid(resource: &Resource, name: &str, causes: &[Cause]) -> Self {
        let told: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
        let told = if told.len() == 1 { told.concat() } else { format!("[{}]", told.join(", ")) };
        let kind = if resource.group.is_empty() { resource.kind.clone() } else { format!("{}.{}", resource.kind, resource.group) };
        let mut details = details(name, &resource.group, &resource.kind);
        details["causes"] = causes.iter().map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field})).collect();
        Refusal { details, ..Refusal::new(422, "Invalid", format!("{kind} {name:?} is invalid: {told}")) }
    }

    /// History before this is gone.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Refusal::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    /// As a `Status` object.
    #[must_use]
    pub fn status(&self) -> Value {
        let mut status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message});
        if !self.reason.is_empty() {
            status["reason"] = Value::from(self.reason);
        }
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status["code"] = Value::from(self.code);
        status
    }
}

pub(crate) fn details(name: &str, group: &str, kind: &str) -> Value {
    let mut details = json!({});
    for (field, value) in [("name", name), ("group", group), ("kind", kind)] {
        if !value.is_empty() {
            details[field] = Value::from(value);
        }
    }
    details
}
