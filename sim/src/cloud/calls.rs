//! What becomes of a call on its way: latency, throttling, scripted failures, and the log of all of them.

use gpujob_provider_core::{ErrorClass, ProviderError, Rates};
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeMap;
use std::time::Duration;

/// What can be called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// `MachineProvider::prepare`.
    Prepare,
    /// `MachineProvider::release`.
    Release,
    /// `MachineProvider::offers`.
    Offers,
    /// `MachineProvider::launch`.
    Launch,
    /// `MachineProvider::list`.
    List,
    /// `MachineProvider::terminate`.
    Terminate,
    /// `MachineProvider::notices`.
    Notices,
    /// `MachineProvider::acknowledge`.
    Acknowledge,
    /// `MachineProvider::console`.
    Console,
    /// `MachineProvider::prefetch`.
    Prefetch,
    /// `MachineProvider::leftovers`.
    Leftovers,
    /// `MachineProvider::remove`.
    Remove,
}

/// Before the effect of a call, or after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing happens.
    Before,
    /// It has happened.
    After,
}

/// What goes wrong with a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It is answered with an error of this class, and nothing happens.
    Refused(ErrorClass),
    /// Its answer is lost: `Unknown`.
    Lost(When),
    /// Nobody ever answers.
    Hangs(When),
    /// It takes so much longer.
    Slow(Duration),
    /// Launch: the instance is made, useless.
    Useless,
    /// Terminate: the answer is yes, and nothing happens.
    Forgotten,
    /// List: only so many instances are read.
    Incomplete(usize),
    /// List: what was so long ago.
    Stale(Duration),
}

/// A failure, and the calls that it hits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    operation: Option<Operation>,
    process: Option<String>,
    failure: Failure,
    skip: u32,
    times: u32,
}

impl Fault {
    /// Hits the next call of this operation.
    #[must_use]
    pub fn next(operation: Operation, failure: Failure) -> Self {
        Fault { operation: Some(operation), process: None, failure, skip: 0, times: 1 }
    }

    /// Hits every call from now on.
    #[must_use]
    pub fn every_call(failure: Failure) -> Self {
        Fault { operation: None, process: None, failure, skip: 0, times: u32::MAX }
    }

    /// Hits so many calls.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Fault { times, ..self }
    }

    /// Lets so many calls pass first.
    #[must_use]
    pub fn after(self, skip: u32) -> Self {
        Fault { skip, ..self }
    }

    /// Hits the calls of one process only.
    #[must_use]
    pub fn of(self, process: &str) -> Self {
        Fault { process: Some(process.to_owned()), ..self }
    }
}

/// One call, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it came in.
    pub at: Timestamp,
    /// Which process called.
    pub process: String,
    /// What.
    pub operation: Operation,
    /// Of what: a token, an id, a pool.
    pub subject: String,
    /// `ok`, the reason of an error, `hangs`; `-` until it is known.
    pub outcome: String,
}

/// How often an operation may be called: so many at once, and one more each `every`.
#[derive(Clone, Debug)]
struct Bucket {
    every: SignedDuration,
    burst: u32,
    tokens: u32,
    filled: Timestamp,
}

impl Bucket {
    fn take(&mut self, now: Timestamp) -> bool {
        while self.tokens < self.burst && now.duration_since(self.filled) >= self.every {
            self.tokens += 1;
            self.filled += self.every;
        }
        if self.tokens == self.burst {
            self.filled = now;
        }
        let taken = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        taken
    }
}

/// All that calls meet.
#[derive(Clone, Debug, Default)]
pub(super) struct Traffic {
    pub(super) log: Vec<Call>,
    pub(super) faults: Vec<Fault>,
    pub(super) latency: BTreeMap<Operation, Duration>,
    /// How often the operator believes that it may call.
    pub(super) rates: Rates,
    buckets: BTreeMap<Operation, Bucket>,
}

/// How a call will go.
pub(super) struct Fate {
    /// Its place in the log.
    pub(super) number: usize,
    /// From the call to its effect, and again from the effect to the answer.
    pub(super) half: Duration,
    /// Throttled or failing by script.
    pub(super) failure: Option<Failure>,
}

impl Traffic {
    pub(super) fn limit(&mut self, now: Timestamp, operation: Operation, every: SignedDuration, burst: u32) {
        self.buckets.insert(operation, Bucket { every, burst, tokens: burst, filled: now });
    }

    pub(super) fn unlimit(&mut self) {
        self.buckets.clear();
    }

    /// Writes the call down and says how it will go.
    pub(super) fn meet(&mut self, now: Timestamp, process: &str, operation: Operation, subject: &str) -> Fate {
        let call = Call { at: now, process: process.to_owned(), operation, subject: subject.to_owned(), outcome: "-".to_owned() };
        self.log.push(call);
        let mut fate =
            Fate { number: self.log.len() - 1, half: self.latency.get(&operation).copied().unwrap_or_default() / 2, failure: None };
        if self.buckets.get_mut(&operation).is_some_and(|bucket| !bucket.take(now)) {
            fate.failure = Some(Failure::Refused(ErrorClass::Throttled));
            return fate;
        }
        let hits = |f: &Fault| f.operation.is_none_or(|o| o == operation) && f.process.as_deref().is_none_or(|p| p == process);
        if let Some(fault) = self.faults.iter_mut().find(|f| f.times > 0 && hits(f)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else {
                fault.times = fault.times.saturating_sub(u32::from(fault.times != u32::MAX));
                fate.failure = Some(fault.failure.clone());
            }
        }
        self.faults.retain(|f| f.times > 0);
        if let Some(Failure::Slow(by)) = fate.failure {
            fate.half += by / 2;
        }
        fate
    }

    pub(super) fn end(&mut self, number: usize, outcome: &str) {
        if let Some(call) = self.log.get_mut(number) {
            outcome.clone_into(&mut call.outcome);
        }
    }
}

/// An error that a script asked for.
pub(super) fn scripted(class: &ErrorClass) -> ProviderError {
    let code = match class {
        ErrorClass::Throttled => "RequestLimitExceeded",
        ErrorClass::Unauthorized => "UnauthorizedOperation",
        ErrorClass::Invalid => "InvalidParameterValue",
        ErrorClass::NotFound => "InvalidLaunchTemplateName.NotFoundException",
        ErrorClass::Mismatch => "IdempotentParameterMismatch",
        ErrorClass::Capacity => "InsufficientInstanceCapacity",
        ErrorClass::Price => "SpotMaxPriceTooLow",
        ErrorClass::Quota => "VcpuLimitExceeded",
        ErrorClass::Addresses => "InsufficientFreeAddressesInSubnet",
        ErrorClass::Unknown | ErrorClass::CreatedButFailed { .. } => "InternalError",
    };
    ProviderError::new(class.clone(), format!("{code}: the script says so"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_767_225_600_000 + ms).expect("a time")
    }

    fn throttled(traffic: &mut Traffic, ms: i64) -> bool {
        traffic.meet(at(ms), "p", Operation::Launch, "x").failure == Some(Failure::Refused(ErrorClass::Throttled))
    }

    #[test]
    fn a_bucket_lets_a_burst_pass_and_then_its_rate() {
        let mut traffic = Traffic::default();
        traffic.limit(at(0), Operation::Launch, SignedDuration::from_millis(500), 2);
        let answers: Vec<bool> =
            [0, 0, 0, 499, 500, 501, 999, 1000, 9000, 9000, 9000].iter().map(|ms| throttled(&mut traffic, *ms)).collect();
        assert_eq!(answers, [false, false, true, true, false, true, true, false, false, false, true]);
        assert!(traffic.meet(at(0), "p", Operation::List, "x").failure.is_none(), "others are free");
    }

    #[test]
    fn faults_hit_whom_they_name() {
        let mut traffic = Traffic::default();
        traffic.faults.push(Fault::next(Operation::List, Failure::Incomplete(1)).after(1).times(2).of("a"));
        let mut hit = |process: &str, operation| traffic.meet(at(0), process, operation, "").failure.is_some();
        assert_eq!([hit("a", Operation::List), hit("a", Operation::List)], [false, true], "one passes first");
        assert!(!hit("b", Operation::List) && !hit("a", Operation::Launch));
        assert_eq!([hit("a", Operation::List), hit("a", Operation::List)], [true, false], "twice");
    }
}
