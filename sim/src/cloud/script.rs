//! How a test sets the scene. What is set here stays until it is set otherwise.

use super::FakeCloud;
use super::account::{Due, Volume};
use super::calls::{Fault, Operation};
use super::events::What;
use super::machine::{ANNOUNCED, Machine};
use super::manners::Boot;
use super::market::{Place, Places};
use super::trace::{Move, Trace};
use gpujob_crds::{Market, Price};
use gpujob_provider_core::{NoticeKind, Rates};
use jiff::SignedDuration;
use std::collections::BTreeMap;
use std::time::Duration;

/// The market.
impl FakeCloud {
    /// Sets how many instances there can be at once at each of these places, those that run included. None: no limit.
    pub fn set_capacity(&self, places: &Places, capacity: Option<u32>) {
        self.with(|account| account.bazaar.change(places, |stall| stall.capacity = capacity));
    }

    /// Sets a price per hour.
    pub fn set_price(&self, places: &Places, price: Price) {
        self.with(|account| account.bazaar.reprice(places, price));
    }

    /// Refuses offers with this code of EC2's, such as `Unsupported` or `InsufficientFreeAddressesInSubnet`. None: no more.
    pub fn refuse(&self, places: &Places, code: Option<&str>) {
        self.with(|account| account.bazaar.change(places, |stall| stall.closed = code.map(str::to_owned)));
    }

    /// Sets how many vCPUs of a family (its letter: `g`, `p`) may run in a market. None: no limit.
    pub fn set_quota(&self, family: char, market: Market, vcpus: Option<i32>) {
        self.with(|account| match vcpus {
            Some(vcpus) => drop(account.bazaar.quotas.insert((family, market), vcpus)),
            None => drop(account.bazaar.quotas.remove(&(family, market))),
        });
    }

    /// Has the market move as `trace` says, beginning now.
    pub fn follow(&self, trace: &Trace) {
        self.with(|account| {
            for step in &trace.0 {
                let step: Move = step.clone();
                account.plan(account.now + step.at, Due::Market(step));
            }
        });
    }
}

/// Calls.
impl FakeCloud {
    /// Has a call go wrong. The first fault that fits counts.
    pub fn fault(&self, fault: Fault) {
        self.with(|account| account.traffic.faults.push(fault));
    }

    /// Forgets all faults and limits of rate.
    pub fn calm(&self) {
        self.with(|account| {
            account.traffic.faults.clear();
            account.traffic.unlimit();
        });
    }

    /// Lets an operation through `burst` times at once, and once more each `every`.
    pub fn limit(&self, operation: Operation, every: Duration, burst: u32) {
        let every = SignedDuration::try_from(every).unwrap_or(SignedDuration::MAX);
        self.with(|account| account.traffic.limit(account.now, operation, every, burst));
    }

    /// How often the operator shall believe that it may call. Without this, as often as EC2 lets it.
    pub fn set_rates(&self, rates: Rates) {
        self.with(|account| account.traffic.rates = rates);
    }

    /// How long a call takes; its effect comes half way. Without this, no time.
    pub fn set_latency(&self, operation: Operation, latency: Duration) {
        self.with(|account| account.traffic.latency.insert(operation, latency));
    }
}

/// What is shown, and when.
impl FakeCloud {
    /// How long lists do not show instances that are made from now on.
    pub fn set_lag(&self, lag: Duration) {
        self.with(|account| account.manners.lag = span(lag));
    }

    /// How long calls by id do not find instances that are made from now on: `NotFound`, and so `Gone`, while they run.
    pub fn set_id_lag(&self, lag: Duration) {
        self.with(|account| account.manners.id_lag = span(lag));
    }

    /// How long templates for prefetching cannot be named by launches.
    pub fn set_template_lag(&self, lag: Duration) {
        self.with(|account| account.manners.template_lag = span(lag));
    }

    /// Whether images are prefetched at all.
    pub fn set_prefetch(&self, offered: bool) {
        self.with(|account| account.manners.prefetches = offered);
    }

    /// Whether the queue is told of every instance that ends, as EventBridge does when its rule asks for state changes. It is,
    /// until told otherwise.
    pub fn set_tells_ends(&self, tells: bool) {
        self.with(|account| account.manners.tells_ends = tells);
    }

    /// Whether a token is answered with the refusal that it got before. EC2's own rule is not known; without this, it is not.
    pub fn set_remembers_refusals(&self, remembers: bool) {
        self.with(|account| account.manners.remembers_refusals = remembers);
    }
}

/// The life of instances.
impl FakeCloud {
    /// How instances boot that are made from now on. The last word about a place counts.
    pub fn set_boot(&self, places: &Places, boot: Boot) {
        self.with(|account| account.manners.boot.push((places.clone(), boot)));
    }

    /// How long instances shut down.
    pub fn set_shutdown(&self, takes: Duration) {
        self.with(|account| account.manners.shutdown = takes);
    }

    /// Whether instances end themselves when nobody is home.
    pub fn set_timers(&self, work: bool) {
        self.with(|account| account.manners.timers = work);
    }

    /// Takes a spot instance back after `notice`: with a warning at once, which speaks of two minutes whatever comes. No
    /// notice: no warning either. False when there is no such spot instance alive.
    pub fn interrupt(&self, id: &str, notice: Duration) -> bool {
        self.with(|account| {
            let now = account.now;
            let Some(machine) = account.machines.get_mut(id).filter(|m| m.is_alive() && m.is_spot()) else { return false };
            if !notice.is_zero() {
                machine.noticed = Some(now);
                account.warn(id, NoticeKind::Interruption, "terminate", Some(now + ANNOUNCED));
                account.tell(id, What::Noticed(now + ANNOUNCED));
            }
            account.plan(now + notice, Due::Reclaimed(id.to_owned()));
            account.settle(now);
            true
        })
    }

    /// Says through the queue that a spot instance is likely to be taken. False when there is no such spot instance alive.
    pub fn rebalance(&self, id: &str) -> bool {
        self.with(|account| {
            if !account.machines.get(id).is_some_and(|m| m.is_alive() && m.is_spot()) {
                return false;
            }
            account.warn(id, NoticeKind::Rebalance, "rebalance-recommendation", None);
            account.tell(id, What::Rebalance);
            true
        })
    }

    /// Ends an instance by itself: `Server.InternalError`, say.
    pub fn kill(&self, id: &str, why: &str) {
        self.with(|account| account.end(id, why));
    }

    /// Its kubelet has joined.
    pub fn joined(&self, id: &str) {
        self.with(|account| {
            let now = account.now;
            if let Some(machine) = account.machines.get_mut(id) {
                machine.joined.get_or_insert(now);
            }
        });
    }

    /// It reaches the API server, or does no longer. Until told, it does.
    pub fn sees_api(&self, id: &str, answers: bool) {
        self.with(|account| account.hears(id, answers));
    }

    /// It writes to its console.
    pub fn say(&self, id: &str, text: &str) {
        self.with(|account| {
            if let Some(machine) = account.machines.get_mut(id) {
                machine.console += text;
            }
        });
    }

    /// Its volume stays when it goes.
    pub fn leave_volume(&self, id: &str) {
        self.with(|account| {
            if let Some(machine) = account.machines.get_mut(id) {
                machine.leaves_volume = true;
            }
        });
    }
}

/// What others do in the account.
impl FakeCloud {
    /// Somebody launches an instance with these tags: its id.
    ///
    /// # Panics
    /// When that is not sold there.
    #[must_use]
    pub fn plant(&self, place: &Place, tags: BTreeMap<String, String>) -> String {
        self.with(|account| account.make_machine(place, tags, "", "somebody"))
    }

    /// A disk without an instance, with these tags: its id.
    #[must_use]
    pub fn plant_volume(&self, tags: BTreeMap<String, String>) -> String {
        self.with(|account| {
            let id = format!("vol-{:017x}", account.number());
            let volume = Volume { id: id.clone(), tags, created: account.now, instance: None };
            account.volumes.insert(id.clone(), volume);
            id
        })
    }

    /// Somebody ends an instance.
    pub fn end(&self, id: &str) {
        self.with(|account| account.end(id, super::TERMINATED));
    }

    /// Somebody removes a launch template. False when there is none of this name.
    pub fn drop_template(&self, name: &str) -> bool {
        self.with(|account| account.templates.remove(name).is_some())
    }

    /// All templates are gone, and what pools ask for from now on has other names: their image or network resolves to something else.
    pub fn renew_templates(&self) {
        self.with(|account| {
            account.templates.clear();
            account.manners.renewed += 1;
        });
    }

    /// The instances that are alive with this tag.
    #[must_use]
    pub fn alive(&self, tag: &str, value: &str) -> Vec<Machine> {
        self.instances().into_iter().filter(|m| m.is_alive() && m.tags.get(tag).is_some_and(|v| v == value)).collect()
    }
}

fn span(duration: Duration) -> SignedDuration {
    SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX)
}
