//! What a message of the queue says: an event of EC2, as EventBridge wraps it.
//!
//! Told by version, source and detail-type. The ARN is passed over: in the two spot events it holds the zone where the
//! region belongs, and no account.

use gpujob_provider_core::{Notice, NoticeKind};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// How long an interrupted instance has from its warning. Best effort; none at all to hibernate.
const WARNING: SignedDuration = SignedDuration::from_secs(120);

/// What to do with a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// It warns of something.
    Notice(Notice),
    /// An event that nobody here needs. Let it go.
    Other,
    /// No event at all, for this reason. Let it go, and say so: whatever sends it is not what was set up.
    Malformed(String),
}

#[derive(Deserialize)]
struct Envelope {
    version: String,
    source: String,
    #[serde(rename = "detail-type")]
    detail_type: String,
    time: Option<Timestamp>,
    #[serde(default)]
    detail: serde_json::Value,
}

/// Reads one body. `receipt` is what deletes its message.
pub(crate) fn read(body: &str, receipt: &str) -> Message {
    let event: Envelope = match serde_json::from_str(body) {
        Ok(event) => event,
        Err(error) => return Message::Malformed(error.to_string()),
    };
    let said = |name: &str| event.detail[name].as_str().map(str::to_owned);
    let (kind, code, at) = match (event.version.as_str(), event.source.as_str(), event.detail_type.as_str()) {
        ("0", "aws.ec2", "EC2 Spot Instance Interruption Warning") => {
            let action = said("instance-action").unwrap_or_else(|| "terminate".to_owned());
            let left = if action == "hibernate" { SignedDuration::ZERO } else { WARNING };
            (NoticeKind::Interruption, action, event.time.and_then(|at| at.checked_add(left).ok()))
        }
        ("0", "aws.ec2", "EC2 Instance Rebalance Recommendation") => (NoticeKind::Rebalance, "rebalance-recommendation".to_owned(), None),
        ("0", "aws.ec2", "EC2 Instance State-change Notification") => match said("state") {
            Some(state) if ["shutting-down", "terminated", "stopping", "stopped"].contains(&state.as_str()) => {
                (NoticeKind::Interruption, state, event.time)
            }
            _ => return Message::Other,
        },
        _ => return Message::Other,
    };
    match said("instance-id") {
        Some(instance) => Message::Notice(Notice { instance, kind, at, code, receipt: Some(receipt.to_owned()) }),
        None => Message::Malformed(format!("{} without detail.instance-id", event.detail_type)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    /// As AWS documents them: the zone in place of the region, no account.
    fn event(detail_type: &str, detail: serde_json::Value) -> serde_json::Value {
        json!({"version": "0", "id": "5d5555d5-dd55-5555-5555-5555dd55d55d", "detail-type": detail_type, "source": "aws.ec2",
               "account": "123456789012", "time": "2026-11-22T01:00:00Z", "region": "us-east-2",
               "resources": ["arn:aws:ec2:us-east-2a:instance/i-1234567890abcdef0"], "detail": detail})
    }

    fn notice(event: &serde_json::Value) -> Notice {
        match read(&event.to_string(), "handle") {
            Message::Notice(notice) => notice,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn warnings_are_read() {
        let id = "i-1234567890abcdef0";
        let found = notice(&event("EC2 Spot Instance Interruption Warning", json!({"instance-id": id, "instance-action": "terminate"})));
        assert_eq!((found.instance.as_str(), found.kind, found.code.as_str()), (id, NoticeKind::Interruption, "terminate"));
        assert_eq!(found.at.unwrap().to_string(), "2026-11-22T01:02:00Z");
        assert_eq!(found.receipt.as_deref(), Some("handle"));
        let found = notice(&event("EC2 Spot Instance Interruption Warning", json!({"instance-id": id, "instance-action": "hibernate"})));
        assert_eq!(found.at.unwrap().to_string(), "2026-11-22T01:00:00Z", "it begins at once");
        let found = notice(&event("EC2 Instance Rebalance Recommendation", json!({"instance-id": id})));
        assert_eq!((found.kind, found.at), (NoticeKind::Rebalance, None));
        let found = notice(&event("EC2 Instance State-change Notification", json!({"instance-id": id, "state": "shutting-down"})));
        assert_eq!((found.kind, found.code.as_str()), (NoticeKind::Interruption, "shutting-down"));
    }

    #[test]
    fn the_rest_is_let_go() {
        let running = event("EC2 Instance State-change Notification", json!({"instance-id": "i-1", "state": "running"}));
        let mut foreign = event("EC2 Spot Instance Interruption Warning", json!({"instance-id": "i-1"}));
        foreign["source"] = json!("aws.evil");
        let mut later = event("EC2 Spot Instance Interruption Warning", json!({"instance-id": "i-1"}));
        later["version"] = json!("1");
        let health = event("AWS Health Event", json!({}));
        for other in [running, foreign, later, health] {
            assert_eq!(read(&other.to_string(), "h"), Message::Other, "{other}");
        }
        for body in ["", "null", "{\"version\": 0}", "hello", "[]"] {
            assert!(matches!(read(body, "h"), Message::Malformed(_)), "{body}");
        }
        let anonymous = event("EC2 Spot Instance Interruption Warning", json!({}));
        assert!(matches!(read(&anonymous.to_string(), "h"), Message::Malformed(_)));
    }
}
