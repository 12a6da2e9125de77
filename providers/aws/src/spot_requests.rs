//! Notices that are polled: what EC2 says of the requests behind spot instances. It costs one call however many run.

use crate::client::{Clients, call};
use aws_sdk_ec2::types::{Filter, SpotInstanceRequest};
use gpujob_provider_core::{Notice, NoticeKind, ProviderError};
use jiff::{SignedDuration, Timestamp};

/// The instance still runs and will not for long. `instance-terminated-no-capacity` belongs here: an instance that ends when
/// it is interrupted, as ours do, gets that code at once and runs on for its two minutes.
/// Source: EC2 user guide, "Get the status of a Spot Instance request", "Fulfilled-terminal" and its note †.
const TAKEN: [&str; 8] = [
    "marked-for-termination",
    "marked-for-stop",
    "instance-terminated-no-capacity",
    "instance-terminated-capacity-oversubscribed",
    "instance-terminated-by-price",
    "instance-stopped-no-capacity",
    "instance-stopped-capacity-oversubscribed",
    "instance-stopped-by-price",
];
/// How long the instance has from the change of its status. Best effort.
const WARNING: SignedDuration = SignedDuration::from_secs(120);
/// EC2 shows closed requests for hours. What is older than this says nothing that the list of instances does not.
const NEWS: SignedDuration = SignedDuration::from_mins(10);

/// The interruptions of this region that are news at `now`.
pub(crate) async fn poll(clients: &Clients, now: Timestamp) -> Result<Vec<Notice>, ProviderError> {
    let codes = Filter::builder().name("status-code").set_values(Some(TAKEN.map(str::to_owned).into())).build();
    // Not by state: a request of an instance that is being taken is `active` or already `closed`.
    let mut pages = clients.ec2.describe_spot_instance_requests().filters(codes).max_results(1000).into_paginator().send();
    let mut found = vec![];
    while let Some(page) = pages.next().await {
        let page = call("DescribeSpotInstanceRequests", async { page }).await?;
        found.extend(page.spot_instance_requests().iter().filter_map(|request| read(request, now)));
    }
    Ok(found)
}

fn read(request: &SpotInstanceRequest, now: Timestamp) -> Option<Notice> {
    let (instance, status) = (request.instance_id()?, request.status()?);
    let code = status.code().filter(|code| TAKEN.contains(code))?;
    let changed = status.update_time().and_then(|at| Timestamp::from_second(at.secs()).ok());
    if changed.is_some_and(|at| now.duration_since(at) > NEWS) {
        return None;
    }
    Some(Notice {
        instance: instance.to_owned(),
        kind: NoticeKind::Interruption,
        at: changed.and_then(|at| at.checked_add(WARNING).ok()),
        code: code.to_owned(),
        receipt: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_sdk_ec2::types::SpotInstanceStatus;
    use aws_smithy_types::DateTime;

    fn request(code: &str, changed: i64) -> SpotInstanceRequest {
        let status = SpotInstanceStatus::builder().code(code).update_time(DateTime::from_secs(changed)).build();
        SpotInstanceRequest::builder().instance_id("i-1").status(status).build()
    }

    #[test]
    fn instances_have_two_minutes_from_the_change() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        for code in ["marked-for-termination", "instance-terminated-no-capacity"] {
            let notice = read(&request(code, 1_799_999_990), now).unwrap();
            assert_eq!((notice.instance.as_str(), notice.kind, notice.code.as_str()), ("i-1", NoticeKind::Interruption, code));
            assert_eq!(notice.at.unwrap().as_second(), 1_800_000_110);
        }
    }

    #[test]
    fn what_the_user_ended_or_what_is_long_over_is_no_news() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(read(&request("instance-terminated-by-user", 1_799_999_990), now), None);
        assert_eq!(read(&request("fulfilled", 1_799_999_990), now), None);
        assert_eq!(read(&request("instance-terminated-no-capacity", 1_799_999_000), now), None);
        assert_eq!(read(&SpotInstanceRequest::builder().build(), now), None);
    }
}
