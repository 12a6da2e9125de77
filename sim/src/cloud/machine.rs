//! One instance, from its purchase to its end, and what it costs: the truth, whatever the API shows of it.

use gpujob_crds::{Market, Price};
use gpujob_provider_core::{ErrorClass, Instance, InstanceState, Offer};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;

/// What EC2 says of an instance that it took back.
pub const RECLAIMED: &str = "Server.SpotInstanceTermination";
/// What EC2 says of one that powered itself off.
pub const POWERED_OFF: &str = "Client.InstanceInitiatedShutdown";
/// What EC2 says of one that a call ended.
pub const TERMINATED: &str = "Client.UserInitiatedShutdown";

/// What EC2 promises at best, and says in its warnings, whatever it then does.
pub(super) const ANNOUNCED: SignedDuration = SignedDuration::from_mins(2);

/// Every instance that was ever made is kept: together they are the bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Its id.
    pub id: String,
    /// What was bought, with the price when it was.
    pub offer: Offer,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
    /// The token of its launch; nothing for those that others made.
    pub token: Option<String>,
    /// The process that launched it.
    pub process: String,
    /// The launch template that it was made from.
    pub template: String,
    /// The image that its user data pulls while it boots.
    pub prefetch: Option<String>,
    /// The name that its kubelet joins with.
    pub private_dns_name: String,
    /// Its address.
    pub private_ip: String,
    /// When it was made.
    pub launched: Timestamp,
    /// When it had booted: billing starts.
    pub running: Option<Timestamp>,
    /// When it began to shut down: billing ends.
    pub ending: Option<Timestamp>,
    /// When it was gone.
    pub gone: Option<Timestamp>,
    /// Why it ended, in EC2's words.
    pub why: Option<String>,
    /// When its interruption was announced.
    pub noticed: Option<Timestamp>,
    /// When its kubelet joined.
    pub joined: Option<Timestamp>,
    /// How long it may live, by the timer in its user data. None: others made it, and it has no such timer.
    pub(super) max_lifetime: Option<SignedDuration>,
    /// Since when it has not reached the API server.
    pub(super) silent_since: Option<Timestamp>,
    /// From when on lists show it.
    pub(super) shown_from: Timestamp,
    /// From when on calls by id find it.
    pub(super) found_from: Timestamp,
    /// What it wrote to its console.
    pub(super) console: String,
    /// Whether its volume stays when it goes.
    pub(super) leaves_volume: bool,
}

impl Machine {
    /// What its Node's `spec.providerID` must be.
    #[must_use]
    pub fn provider_id(&self) -> String {
        format!("aws:///{}/{}", self.offer.zone, self.id)
    }

    /// Where it was in its life at a time.
    #[must_use]
    pub fn state(&self, at: Timestamp) -> InstanceState {
        let by = |time: Option<Timestamp>| time.is_some_and(|time| time <= at);
        if by(self.gone) {
            InstanceState::Terminated
        } else if by(self.ending) {
            InstanceState::Terminating
        } else if by(self.running) {
            InstanceState::Running
        } else {
            InstanceState::Pending
        }
    }

    /// Whether it may still be ended: it boots or runs.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.ending.is_none() && self.gone.is_none()
    }

    /// What it has cost by a time: per second from running to shutting down, a minute at least, and nothing when EC2 took it
    /// back within its first hour (docs "billing-for-interrupted-spot-instances").
    #[must_use]
    pub fn cost(&self, by: Timestamp) -> Price {
        let Some(running) = self.running.filter(|running| *running <= by) else { return Price::ZERO };
        let end = self.ending.or(self.gone).filter(|end| *end <= by).unwrap_or(by);
        let seconds = end.duration_since(running).as_secs();
        if self.why.as_deref() == Some(RECLAIMED) && self.ending.is_some_and(|end| end <= by) && seconds < 3600 {
            return Price::ZERO;
        }
        self.offer.price.for_seconds(seconds.max(60))
    }

    /// As the API describes what it was at a time.
    pub(super) fn describe(&self, at: Timestamp) -> Instance {
        let state = self.state(at);
        let connected = state < InstanceState::Terminated;
        Instance {
            id: self.id.clone(),
            instance_type: self.offer.instance_type.clone(),
            zone: self.offer.zone.clone(),
            market: self.offer.market,
            state,
            failed: self.why.as_deref().filter(|_| state >= InstanceState::Terminating).and_then(failed),
            state_reason: self.why.clone().filter(|_| state >= InstanceState::Terminating),
            tags: self.tags.clone(),
            private_dns_name: connected.then(|| self.private_dns_name.clone()),
            private_ip: connected.then(|| self.private_ip.clone()),
            provider_id: self.provider_id(),
            launch_time: Some(self.launched),
        }
    }

    /// Whether EC2 may take it back.
    pub(super) fn is_spot(&self) -> bool {
        self.offer.market == Market::Spot
    }
}

/// What the provider says of an end in these words of EC2's: see `providers/aws`.
fn failed(why: &str) -> Option<ErrorClass> {
    match why {
        RECLAIMED | TERMINATED | POWERED_OFF => None,
        why if why.starts_with("Server.") => Some(ErrorClass::Capacity),
        _ => Some(ErrorClass::Invalid),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::cloud::catalog;

    pub(in crate::cloud) fn machine() -> Machine {
        let launched = Timestamp::from_second(1_767_225_600).expect("a time");
        Machine {
            id: "i-1".into(),
            offer: Offer { price: Price::from_micros(360_000), ..catalog::table()[0].clone() },
            tags: BTreeMap::new(),
            token: None,
            process: String::new(),
            template: String::new(),
            prefetch: None,
            private_dns_name: "ip-10-77-0-1.ec2.internal".into(),
            private_ip: "10.77.0.1".into(),
            launched,
            running: None,
            ending: None,
            gone: None,
            why: None,
            noticed: None,
            joined: None,
            max_lifetime: None,
            silent_since: None,
            shown_from: launched,
            found_from: launched,
            console: String::new(),
            leaves_volume: false,
        }
    }

    fn after(seconds: i64) -> Timestamp {
        machine().launched + SignedDuration::from_secs(seconds)
    }

    #[test]
    fn it_was_what_it_was() {
        let machine = Machine { running: Some(after(20)), ending: Some(after(100)), gone: Some(after(130)), ..machine() };
        for (seconds, state) in [
            (0, InstanceState::Pending),
            (20, InstanceState::Running),
            (100, InstanceState::Terminating),
            (129, InstanceState::Terminating),
            (130, InstanceState::Terminated),
        ] {
            assert_eq!(machine.state(after(seconds)), state, "{seconds}");
        }
        assert!(machine.describe(after(130)).private_ip.is_none() && machine.describe(after(20)).private_ip.is_some());
    }

    #[test]
    fn seconds_cost() {
        let cost = |ending: i64, why: &str, by: i64| {
            let machine = Machine { running: Some(after(20)), ending: Some(after(20 + ending)), why: Some(why.into()), ..machine() };
            machine.cost(after(20 + by)).micros()
        };
        assert_eq!(cost(7200, TERMINATED, 100), 10_000, "so far");
        assert_eq!(cost(7200, TERMINATED, 9000), 720_000);
        assert_eq!(cost(5, TERMINATED, 9000), 6000, "a minute at least");
        assert_eq!(cost(3599, RECLAIMED, 9000), 0, "taken back in the first hour");
        assert_eq!(cost(3600, RECLAIMED, 9000), 360_000);
        assert_eq!(cost(3599, RECLAIMED, 3598), 359_800, "not yet taken");
        assert_eq!(machine().cost(after(9000)), Price::ZERO, "never ran");
    }
}
