//! A launch: the request as a GpuNode records it, and EC2's decision about it. As CreateFleet `instant` decides: one try,
//! offer by offer in the order of the strategy; what was refused on the way is told beside what was bought.

use super::account::{Account, Boot, Due, Volume};
use super::events::What;
use super::machine::Machine;
use super::market::{Place, Stall};
use super::token::Remembered;
use gpujob_crds::pool::AllocationStrategy;
use gpujob_crds::{Market, Price, names};
use gpujob_provider_core::{ErrorClass, LaunchCall, Launched, ProviderError, Refusal, Rendering};
use kube::ResourceExt;
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::BTreeMap;

const FORMAT: u32 = 1;

/// One CreateFleet call, but for what is not known before the GpuNode exists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    v: u32,
    market: Market,
    template: TemplateRef,
    overrides: Vec<Override>,
    allocation_strategy: AllocationStrategy,
    max_total_price: Price,
    tags: BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct TemplateRef {
    name: String,
    version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Override {
    instance_type: String,
    zone: String,
}

/// Renders the request.
pub(super) fn render(rendering: &Rendering<'_>) -> Result<Request, ProviderError> {
    let template = serde_json::from_value(rendering.prepared.0["template"].clone());
    let template = template.map_err(|_| ProviderError::new(ErrorClass::Invalid, "status.prepared is not of the fake cloud"))?;
    let offers = rendering.offers.iter().filter(|o| o.market == rendering.market);
    let overrides: Vec<_> = offers.map(|o| Override { instance_type: o.instance_type.clone(), zone: o.zone.clone() }).collect();
    if overrides.is_empty() {
        return Err(ProviderError::new(ErrorClass::Invalid, format!("no {} offer to launch", rendering.market)));
    }
    let tags = [
        (names::CLUSTER_TAG, rendering.cluster.to_owned()),
        (names::NODE_TAG, rendering.node.to_owned()),
        (names::POOL_TAG, rendering.pool.name_any()),
    ];
    Ok(Request {
        v: FORMAT,
        market: rendering.market,
        template,
        overrides,
        allocation_strategy: rendering.pool.spec.allocation_strategy.unwrap_or_default(),
        max_total_price: rendering.max_price,
        tags: tags.map(|(key, value)| (key.to_owned(), value)).into(),
    })
}

impl Account {
    /// Answers a launch. Also the id of the instance, if one was made now.
    pub(super) fn launch(&mut self, call: &LaunchCall, process: &str) -> (Result<Launched, ProviderError>, Option<String>) {
        let token = call.token();
        // What is sent beside the recorded request is part of what the token stands for.
        let sent = format!("{} {} {} {}", call.request, call.cluster, call.node_uid, call.ordinal);
        if let Some(known) = self.tokens.get(&token) {
            if known.request != sent {
                let message = "IdempotentParameterMismatch: the token was used with other parameters";
                return (Err(ProviderError::new(ErrorClass::Mismatch, message)), None);
            }
            return (known.answer.clone().map(|launched| self.described(launched)), None);
        }
        let answer = self.decide(call, process);
        let made = answer.as_ref().ok().map(|launched| launched.id.clone());
        let lasting = answer.is_ok() || (self.manners.remembers_refusals && answer.as_ref().is_err_and(|e| !e.refusals.is_empty()));
        if lasting {
            self.tokens.insert(token, Remembered { request: sent, answer: answer.clone() });
        }
        (answer.map(|launched| self.described(launched)), made)
    }

    /// With what a look at the instance shows now: an original that has died since is seen to be dead.
    fn described(&self, launched: Launched) -> Launched {
        let instance = self.find(&launched.id).filter(|m| m.shown_from <= self.now).map(|m| m.describe(self.now));
        Launched { instance, ..launched }
    }

    fn decide(&mut self, call: &LaunchCall, process: &str) -> Result<Launched, ProviderError> {
        let request: Request = serde_json::from_value(call.request.clone())
            .map_err(|error| ProviderError::new(ErrorClass::Invalid, format!("the recorded request is not of the fake cloud: {error}")))?;
        if !self.templates.get(&request.template.name).is_some_and(|t| t.shown_from <= self.now) {
            let message = format!("InvalidLaunchTemplateName.NotFoundException: there is no template {}", request.template.name);
            return Err(ProviderError::new(ErrorClass::NotFound, message));
        }
        let mut refusals = vec![];
        for place in self.order(&request) {
            match self.bazaar.refusal(&place, Some(request.max_total_price)) {
                None => {
                    let id = self.buy(&place, &request, call, process);
                    let Place { instance_type, zone, market } = place;
                    return Ok(Launched { id, instance_type, zone, market, instance: None, refusals });
                }
                Some(code) => {
                    let class = class(&code);
                    refusals.push(Refusal { instance_type: place.instance_type, zone: place.zone, market: place.market, code, class });
                }
            }
        }
        let Some(worst) = refusals.iter().rev().max_by_key(|refusal| rank(&refusal.class)) else {
            return Err(ProviderError::new(ErrorClass::Invalid, "the request names no offer"));
        };
        let message = format!("CreateFleet: {} [{} {} {}]", worst.code, worst.market, worst.instance_type, worst.zone);
        Err(ProviderError { class: worst.class.clone(), message, refusals: refusals.clone() })
    }

    /// The offers of a request in the order in which they are tried.
    fn order(&self, request: &Request) -> Vec<Place> {
        let place = |o: &Override| Place { instance_type: o.instance_type.clone(), zone: o.zone.clone(), market: request.market };
        let mut places: Vec<Place> = request.overrides.iter().map(place).collect();
        let stall = |place: &Place| self.bazaar.stalls.get(place);
        let price = |place: &Place| stall(place).map_or(Price::from_micros(i64::MAX), |s| s.offer.price);
        match (request.market, request.allocation_strategy) {
            (Market::OnDemand, _) | (_, AllocationStrategy::LowestPrice) => places.sort_by_key(price),
            // What is full is passed over in silence as long as anything else is there.
            (_, AllocationStrategy::PriceCapacityOptimized) => {
                places.sort_by_key(|p| (!stall(p).is_some_and(Stall::has_room), price(p)));
            }
            (_, AllocationStrategy::CapacityOptimized) => places.sort_by_key(|p| (Reverse(stall(p).map_or(0, Stall::room)), price(p))),
        }
        places
    }

    fn buy(&mut self, place: &Place, request: &Request, call: &LaunchCall, process: &str) -> String {
        let mut tags = request.tags.clone();
        tags.insert(names::NODE_UID_TAG.to_owned(), call.node_uid.clone());
        tags.insert(names::LAUNCH_TAG.to_owned(), call.ordinal.to_string());
        let id = self.make_machine(place, tags, &request.template.name, process);
        if let Some(machine) = self.machines.get_mut(&id) {
            machine.token = Some(call.token());
        }
        id
    }

    /// Makes an instance, whatever limits say: its id.
    pub(super) fn make_machine(&mut self, place: &Place, tags: BTreeMap<String, String>, template: &str, process: &str) -> String {
        let stall = self.bazaar.stalls.get_mut(place).expect("only what is in the table is made");
        stall.used += 1;
        let offer = stall.offer.clone();
        let number = self.number();
        let id = format!("i-{number:017x}");
        let (third, fourth) = (number / 250 % 250, number % 250 + 1);
        let named = self.templates.get(template);
        let machine = Machine {
            id: id.clone(),
            offer,
            tags: tags.clone(),
            token: None,
            process: process.to_owned(),
            template: template.to_owned(),
            prefetch: named.and_then(|t| t.prefetch.clone()),
            private_dns_name: format!("ip-10-77-{third}-{fourth}.ec2.internal"),
            private_ip: format!("10.77.{third}.{fourth}"),
            launched: self.now,
            running: None,
            ending: None,
            gone: None,
            why: None,
            noticed: None,
            joined: None,
            max_lifetime: named.map(|t| t.max_lifetime),
            silent_since: None,
            shown_from: self.now + self.manners.lag,
            found_from: self.now + self.manners.id_lag,
            console: String::new(),
            leaves_volume: false,
        };
        self.machines.insert(id.clone(), machine);
        let volume = Volume { id: format!("vol-{number:017x}"), tags, created: self.now, instance: Some(id.clone()) };
        self.volumes.insert(volume.id.clone(), volume);
        self.tell(&id, What::Launched);
        match self.boot(place) {
            Boot::After(delay) => self.plan(self.now + delay, Due::Runs(id.clone())),
            Boot::Never => {}
            Boot::Dies(delay, why) => self.plan(self.now + delay, Due::Dies(id.clone(), why)),
        }
        id
    }
}

/// The class of a code about one offer.
fn class(code: &str) -> ErrorClass {
    match code {
        "SpotMaxPriceTooLow" => ErrorClass::Price,
        "MaxSpotInstanceCountExceeded" | "VcpuLimitExceeded" => ErrorClass::Quota,
        "InsufficientFreeAddressesInSubnet" => ErrorClass::Addresses,
        "UnauthorizedOperation" => ErrorClass::Unauthorized,
        "InvalidParameterValue" => ErrorClass::Invalid,
        _ => ErrorClass::Capacity,
    }
}

/// What only a person can change is said first.
fn rank(class: &ErrorClass) -> u8 {
    match class {
        ErrorClass::Unauthorized => 5,
        ErrorClass::Invalid => 4,
        ErrorClass::Quota => 3,
        ErrorClass::Capacity | ErrorClass::Addresses => 2,
        ErrorClass::Price => 1,
        _ => 0,
    }
}

#[cfg(test)]
#[path = "fleet_tests.rs"]
mod tests;
