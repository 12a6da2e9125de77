//! What can go wrong in a schedule. A list of these, a scenario and a seed are all that a replay needs.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One thing that goes wrong. Writes are counted from 1 over all processes, Kubernetes and cloud together, Lease renewals
/// left out; requests and calls are counted from 1 over all processes, each for itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Fault {
    /// The write lands, its answer never comes, and the process is dead. It is started again after some seconds.
    Crash {
        /// The write that it is not told of.
        after_write: u64,
        /// Seconds until it is started again.
        back_in_s: u64,
    },
    /// The write lands and its answer is lost: the connection hangs until the caller gives up, or breaks at once.
    LoseAnswer {
        /// The write.
        of_write: u64,
        /// Whether the caller has to find out by its own timeout.
        hang: bool,
    },
    /// Requests from this one on are answered with an error; `landed`: though they were obeyed.
    Refuse {
        /// The first request.
        request: u64,
        /// How many.
        times: u64,
        /// The HTTP status.
        code: u16,
        /// Whether the server obeyed before it said no.
        landed: bool,
    },
    /// A request is late on its way there, or its answer on the way back.
    Delay {
        /// The request.
        request: u64,
        /// Milliseconds on the way there. The request arrives even if its sender has given up by then.
        there_ms: u64,
        /// Milliseconds on the way back.
        back_ms: u64,
    },
    /// Calls to the provider from this one on go wrong.
    Provider {
        /// The first call.
        call: u64,
        /// How many.
        times: u64,
        /// What happens to them.
        how: CallFault,
    },
    /// Something happens at a time, to whoever leads then.
    At {
        /// Seconds since the beginning.
        second: u64,
        /// What.
        what: Happening,
    },
}

/// How a call to a provider goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CallFault {
    /// Too many calls; nothing happened.
    Throttled,
    /// It was obeyed, and the answer is lost.
    AnswerLost,
    /// It never arrived, and nobody can tell.
    NeverArrived,
    /// It takes half a minute, and is then given up by the provider's own limit. It was obeyed.
    Hangs,
    /// The credentials do not allow it for now.
    Unauthorized,
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Happening {
    /// kill -9 of the leader. It comes back under its own name, as a container does, or under another, as a pod does.
    Kill {
        /// Seconds until it is started again.
        back_in_s: u64,
        /// Whether it then has another name.
        new_name: bool,
    },
    /// The leader is told to stop, and ends cleanly.
    Stop {
        /// Seconds until it is started again.
        back_in_s: u64,
    },
    /// The leader is cut off: its requests hang, its watches stall. Half of what it sent arrives late.
    Partition {
        /// Seconds that this goes on.
        for_s: u64,
    },
    /// Every watch stalls while reads and writes work: caches are old.
    StallWatches {
        /// Seconds that this goes on.
        for_s: u64,
    },
    /// Watch events are lost; then the server says 410 and the caches are read anew.
    DropEvents {
        /// Seconds that this goes on.
        for_s: u64,
    },
    /// Every watch ends, as when an API server is restarted.
    CloseWatches,
    /// The leader's wall clock jumps.
    StepClock {
        /// Seconds, negative for backwards.
        by_s: i64,
    },
    /// The cloud takes back a running instance, with or without notice.
    Reclaim {
        /// Seconds between the notice and the end; 0: no notice.
        notice_s: u64,
    },
    /// Nothing can be bought in the spot market.
    NoCapacity {
        /// Seconds that this goes on.
        for_s: u64,
    },
    /// All prices are multiplied by this many percent from now on.
    Prices {
        /// 100 changes nothing.
        percent: u32,
    },
    /// New instances are missing from listings for so long.
    HideInstances {
        /// Seconds that a new instance is missing.
        lag_s: u64,
        /// Seconds that this goes on.
        for_s: u64,
    },
    /// Prices and capacity move as this trace says.
    Market(Moves),
    /// The cloud's next listings say what was true so long ago.
    OldListings {
        /// How many.
        times: u32,
        /// Seconds.
        by_s: u64,
    },
    /// The cloud's next listings break off after so many instances.
    ShortListings {
        /// How many listings.
        times: u32,
        /// How many instances.
        after: usize,
    },
}

/// A trace of a market.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Moves {
    /// [`Trace::DROUGHT`](crate::cloud::Trace::DROUGHT).
    Drought,
    /// [`Trace::FLICKER`](crate::cloud::Trace::FLICKER).
    Flicker,
    /// [`Trace::SURGE`](crate::cloud::Trace::SURGE).
    Surge,
}

impl Moves {
    /// The trace, and the seconds after which the market is at peace again.
    pub(crate) fn trace(self) -> (crate::cloud::Trace, u64) {
        let (text, seconds) = match self {
            Moves::Drought => (crate::cloud::Trace::DROUGHT, 1200),
            Moves::Flicker => (crate::cloud::Trace::FLICKER, 900),
            Moves::Surge => (crate::cloud::Trace::SURGE, 3600),
        };
        (text.parse().expect("a test reads each of them"), seconds)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash { after_write, back_in_s } => write!(f, "crash after write {after_write}, back in {back_in_s} s"),
            Fault::LoseAnswer { of_write, hang: true } => write!(f, "the answer to write {of_write} never comes"),
            Fault::LoseAnswer { of_write, hang: false } => write!(f, "the connection breaks under write {of_write}, which has landed"),
            Fault::Refuse { request, times, code, landed } => {
                write!(f, "{times} requests from request {request} on are answered {code}{}", if *landed { " though obeyed" } else { "" })
            }
            Fault::Delay { request, there_ms, back_ms } => {
                write!(f, "request {request} arrives {there_ms} ms late, its answer {back_ms} ms")
            }
            Fault::Provider { call, times, how } => write!(f, "{times} provider calls from call {call} on: {how:?}"),
            Fault::At { second, what } => write!(f, "at {second} s: {what:?}"),
        }
    }
}
