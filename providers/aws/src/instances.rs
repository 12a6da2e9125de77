//! What runs, and the end of it.

use crate::client::{Clients, call};
use aws_sdk_ec2::types::{Filter, Instance as Described, InstanceLifecycleType, InstanceStateName};
use gpujob_crds::{Market, names};
use gpujob_provider_core::{ErrorClass, Instance, InstanceState, Listing, ProviderError, Terminated};

/// All instances with the cluster's tag, page by page.
///
/// # Errors
/// When the first page cannot be read. A later one that fails makes the listing incomplete.
pub(crate) async fn list(clients: &Clients, cluster: &str) -> Result<Listing, ProviderError> {
    let ours = Filter::builder().name(format!("tag:{}", names::CLUSTER_TAG)).values(cluster).build();
    let mut listing = Listing::default();
    let (mut token, mut first) = (None, true);
    loop {
        let sent = clients.ec2.describe_instances().filters(ours.clone()).max_results(1000).set_next_token(token).send();
        let page = match call("DescribeInstances", sent).await {
            Ok(page) => page,
            Err(error) if first => return Err(error),
            Err(error) => {
                tracing::warn!(%error, read = listing.instances.len(), "the list of instances is incomplete");
                return Ok(listing);
            }
        };
        first = false;
        listing.instances.extend(page.reservations().iter().flat_map(|r| r.instances()).filter_map(read));
        token = page.next_token.filter(|token| !token.is_empty());
        if token.is_none() {
            listing.complete = true;
            return Ok(listing);
        }
    }
}

/// One instance by id; nothing when the cloud does not show it (yet).
pub(crate) async fn describe(clients: &Clients, id: &str) -> Result<Option<Instance>, ProviderError> {
    match call("DescribeInstances", clients.ec2.describe_instances().instance_ids(id).send()).await {
        Ok(page) => Ok(page.reservations().iter().flat_map(|r| r.instances()).find_map(read)),
        Err(error) if error.class == ErrorClass::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Ends one instance. One id a call: a bad id among several would spare them all.
pub(crate) async fn terminate(clients: &Clients, id: &str) -> Result<Terminated, ProviderError> {
    match call("TerminateInstances", clients.ec2.terminate_instances().instance_ids(id).send()).await {
        Ok(answer) => {
            let state = answer.terminating_instances().iter().find_map(|change| change.current_state()?.name());
            Ok(if state == Some(&InstanceStateName::Terminated) { Terminated::Gone } else { Terminated::InProgress })
        }
        Err(error) if error.class == ErrorClass::NotFound => Ok(Terminated::Gone),
        Err(error) => Err(error),
    }
}

fn read(found: &Described) -> Option<Instance> {
    let id = found.instance_id()?.to_owned();
    let zone = found.placement().and_then(|p| p.availability_zone()).unwrap_or_default().to_owned();
    let text = |text: Option<&str>| text.filter(|text| !text.is_empty()).map(str::to_owned);
    let reason = found.state_reason().and_then(|reason| text(reason.code()).or_else(|| text(reason.message())));
    Some(Instance {
        instance_type: found.instance_type().map(|t| t.as_str().to_owned()).unwrap_or_default(),
        market: match found.instance_lifecycle() {
            Some(InstanceLifecycleType::Spot) => Market::Spot,
            _ => Market::OnDemand,
        },
        state: state(found.state().and_then(|s| s.name())),
        failed: reason.as_deref().and_then(failed),
        state_reason: reason.or_else(|| text(found.state_transition_reason())),
        tags: found.tags().iter().filter_map(|t| Some((t.key()?.to_owned(), t.value().unwrap_or_default().to_owned()))).collect(),
        private_dns_name: text(found.private_dns_name()),
        private_ip: text(found.private_ip_address()),
        provider_id: format!("aws:///{zone}/{id}"),
        launch_time: found.launch_time().and_then(|time| jiff::Timestamp::new(time.secs(), time.subsec_nanos().cast_signed()).ok()),
        zone,
        id,
    })
}

/// What EC2 ended an instance for by itself. The codes: EC2 API reference, "StateReason".
fn failed(code: &str) -> Option<ErrorClass> {
    match code {
        // Taken back, stopped for maintenance, or ended by hand or from within.
        "Server.SpotInstanceTermination" | "Server.SpotInstanceShutdown" | "Server.ScheduledStop" => None,
        "Client.UserInitiatedShutdown"
        | "Client.UserInitiatedHibernate"
        | "Client.InstanceInitiatedShutdown"
        | "Client.InstanceTerminated" => None,
        code if code.starts_with("Server.") => Some(ErrorClass::Capacity),
        // A key that may not be used, a quota of volumes, a snapshot that is not there.
        code if code.starts_with("Client.") => Some(ErrorClass::Invalid),
        _ => None,
    }
}

/// A stopped instance is none that we made so: someone stopped it, and it keeps its volume. It is ended like a running one.
fn state(name: Option<&InstanceStateName>) -> InstanceState {
    match name {
        Some(InstanceStateName::Pending) => InstanceState::Pending,
        Some(InstanceStateName::ShuttingDown) => InstanceState::Terminating,
        Some(InstanceStateName::Terminated) => InstanceState::Terminated,
        _ => InstanceState::Running,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use aws_sdk_ec2::types as ec2;

    #[test]
    fn descriptions_are_read() {
        let described = Described::builder()
            .instance_id("i-1")
            .instance_type(ec2::InstanceType::from("g6.xlarge"))
            .instance_lifecycle(InstanceLifecycleType::Spot)
            .placement(ec2::Placement::builder().availability_zone("us-east-1a").build())
            .state(ec2::InstanceState::builder().name(InstanceStateName::ShuttingDown).build())
            .state_reason(ec2::StateReason::builder().code("Server.SpotInstanceTermination").build())
            .tags(ec2::Tag::builder().key("a").value("b").build())
            .private_dns_name("")
            .launch_time(aws_smithy_types::DateTime::from_secs(1_800_000_000))
            .build();
        let instance = read(&described).unwrap();
        assert_eq!(instance.provider_id, "aws:///us-east-1a/i-1");
        assert_eq!((instance.market, instance.state), (Market::Spot, InstanceState::Terminating));
        assert_eq!(instance.failed, None, "taken back");
        assert_eq!(instance.state_reason.as_deref(), Some("Server.SpotInstanceTermination"));
        assert_eq!(instance.private_dns_name, None);
        assert_eq!(instance.tags["a"], "b");
        assert_eq!(instance.launch_time.unwrap().as_second(), 1_800_000_000);
    }

    #[test]
    fn only_the_dead_are_dead() {
        assert_eq!(state(Some(&InstanceStateName::Stopped)), InstanceState::Running);
        assert_eq!(state(None), InstanceState::Running);
        assert_eq!(state(Some(&InstanceStateName::Terminated)), InstanceState::Terminated);
    }

    #[test]
    fn what_ec2_ended_for_itself_is_told_from_what_was_asked_to_end() {
        assert_eq!(failed("Server.InternalError"), Some(ErrorClass::Capacity));
        assert_eq!(failed("Server.InsufficientInstanceCapacity"), Some(ErrorClass::Capacity));
        assert_eq!(failed("Client.InternalError"), Some(ErrorClass::Invalid), "a disk's key");
        assert_eq!(failed("Client.VolumeLimitExceeded"), Some(ErrorClass::Invalid));
        assert_eq!(
            [failed("Client.UserInitiatedShutdown"), failed("Client.InstanceInitiatedShutdown"), failed("User initiated")],
            [None, None, None]
        );
    }
}
