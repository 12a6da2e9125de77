//! Counts requests, calls and writes of all processes of a schedule, and says which of them go wrong.

use super::fault::{CallFault, Fault};
use crate::clock::SimClock;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What to do with a request before it is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// Answered with this HTTP status.
    pub refuse: Option<u16>,
    /// Obeyed before it is refused.
    pub landed: bool,
    /// Late on its way.
    pub there: Duration,
    /// The answer late on its way.
    pub back: Duration,
}

/// What to do with a write that has landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterWrite {
    /// Tell its author.
    Answer,
    /// Its author is dead, and comes back after so many seconds.
    Crash {
        /// Seconds.
        back_in_s: u64,
    },
    /// Its author is never told.
    Hang,
    /// Its author sees the connection break.
    Break,
}

#[derive(Debug)]
struct State {
    requests: u64,
    calls: u64,
    writes: u64,
    faults: Vec<Fault>,
    stalled_until: Duration,
    dropping_until: Duration,
    /// Raised when all watches must end.
    watch_epoch: u64,
    chance: ChaCha8Rng,
}

/// The one counter of a schedule. Clones share it.
#[derive(Clone, Debug)]
pub struct Director {
    clock: SimClock,
    state: Arc<Mutex<State>>,
}

impl Director {
    /// For these faults. `seed` decides what faults leave to chance, such as which of a partitioned process's requests arrive.
    #[must_use]
    pub fn new(clock: SimClock, faults: Vec<Fault>, seed: u64) -> Self {
        let state = State {
            requests: 0,
            calls: 0,
            writes: 0,
            faults,
            stalled_until: Duration::ZERO,
            dropping_until: Duration::ZERO,
            watch_epoch: 0,
            chance: ChaCha8Rng::seed_from_u64(seed),
        };
        Director { clock, state: Arc::new(Mutex::new(state)) }
    }

    /// Counts a request to the API server (Lease renewals are not asked about) and says what becomes of it.
    #[must_use]
    pub fn request(&self) -> Orders {
        let mut state = self.lock();
        state.requests += 1;
        let now = state.requests;
        let mut orders = Orders::default();
        for fault in &state.faults {
            match *fault {
                Fault::Refuse { request, times, code, landed } if (request..request + times).contains(&now) => {
                    (orders.refuse, orders.landed) = (Some(code), landed);
                }
                Fault::Delay { request, there_ms, back_ms } if request == now => {
                    (orders.there, orders.back) = (Duration::from_millis(there_ms), Duration::from_millis(back_ms));
                }
                _ => {}
            }
        }
        orders
    }

    /// Counts a call to a provider and says what becomes of it.
    #[must_use]
    pub fn call(&self) -> Option<CallFault> {
        let mut state = self.lock();
        state.calls += 1;
        let now = state.calls;
        state.faults.iter().find_map(|fault| match *fault {
            Fault::Provider { call, times, how } if (call..call + times).contains(&now) => Some(how),
            _ => None,
        })
    }

    /// Counts a write that has landed, and says whether its author learns of it. Returns its number too.
    #[must_use]
    pub fn write(&self) -> (u64, AfterWrite) {
        let mut state = self.lock();
        state.writes += 1;
        let now = state.writes;
        let after = state.faults.iter().find_map(|fault| match *fault {
            Fault::Crash { after_write, back_in_s } if after_write == now => Some(AfterWrite::Crash { back_in_s }),
            Fault::LoseAnswer { of_write, hang } if of_write == now => Some(if hang { AfterWrite::Hang } else { AfterWrite::Break }),
            _ => None,
        });
        (now, after.unwrap_or(AfterWrite::Answer))
    }

    /// Writes so far, of all processes.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.lock().writes
    }

    /// Requests so far, of all processes.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.lock().requests
    }

    /// Provider calls so far, of all processes.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.lock().calls
    }

    /// A coin.
    #[must_use]
    pub fn coin(&self) -> bool {
        self.lock().chance.random_bool(0.5)
    }

    /// From now on for so long watches deliver nothing; then all that was held back.
    pub fn stall_watches(&self, for_: Duration) {
        let until = self.clock.elapsed() + for_;
        self.lock().stalled_until = until;
    }

    /// From now on for so long watch events are lost.
    pub fn drop_events(&self, for_: Duration) {
        let until = self.clock.elapsed() + for_;
        self.lock().dropping_until = until;
    }

    /// Ends all watches that are open now.
    pub fn close_watches(&self) {
        self.lock().watch_epoch += 1;
    }

    /// How long watches still stall.
    #[must_use]
    pub(super) fn stalled_for(&self) -> Duration {
        self.lock().stalled_until.saturating_sub(self.clock.elapsed())
    }

    /// How long events are still lost.
    #[must_use]
    pub(super) fn dropping_for(&self) -> Duration {
        self.lock().dropping_until.saturating_sub(self.clock.elapsed())
    }

    /// Changes when all watches must end.
    #[must_use]
    pub(super) fn watch_epoch(&self) -> u64 {
        self.lock().watch_epoch
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("no panic holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_nth_goes_wrong_and_no_other() {
        let faults = vec![
            Fault::Crash { after_write: 2, back_in_s: 5 },
            Fault::Refuse { request: 2, times: 2, code: 429, landed: false },
            Fault::Provider { call: 1, times: 1, how: CallFault::Throttled },
        ];
        let director = Director::new(SimClock::new(), faults, 1);
        let codes: Vec<_> = (0..4).map(|_| director.request().refuse).collect();
        assert_eq!(codes, [None, Some(429), Some(429), None]);
        assert_eq!([director.call(), director.call()], [Some(CallFault::Throttled), None]);
        let after: Vec<_> = (0..3).map(|_| director.write()).collect();
        assert_eq!(after, [(1, AfterWrite::Answer), (2, AfterWrite::Crash { back_in_s: 5 }), (3, AfterWrite::Answer)]);
    }
}
