//! A few threads that work through a list; the first failure ends it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Runs `work` on every item with up to `threads` threads. Results come back in the items' order.
///
/// # Errors
/// The first failure; items not begun by then are left out.
pub fn run<I: Send, T: Send, E: Send>(threads: usize, items: Vec<I>, work: impl Fn(I) -> Result<T, E> + Sync) -> Result<Vec<T>, E> {
    let threads = threads.clamp(1, items.len().max(1));
    let queue = Mutex::new(items.into_iter().enumerate());
    let stop = AtomicBool::new(false);
    let one = || {
        let mut done = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Some((at, item)) = queue.lock().ok().and_then(|mut q| q.next()) else { break };
            match work(item) {
                Ok(result) => done.push((at, result)),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
        }
        Ok(done)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let crew: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        crew.into_iter().map(|t| t.join()).collect()
    });
    let mut all = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(part) => all.extend(part?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

/// How many threads to begin with where the smallest request takes `latency`: at least `least`, and as many again for every 10 ms, so that
/// threads that wait are made up for by others.
pub fn for_latency(least: usize, most: usize, latency: Duration) -> usize {
    let waits = usize::try_from(latency.as_millis() / 10).unwrap_or(most);
    least.saturating_mul(1 + waits).clamp(least, most)
}

/// How many threads a [`widening`] crew has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// At first.
    pub first: usize,
    /// At most.
    pub most: usize,
}

/// As [`run`], with more threads when they help: a crew that spends its time waiting for answers is doubled as long as its rate rises with
/// it. One that is bound by the processor or by the other side's rate stays as it is.
///
/// # Errors
/// As [`run`].
pub fn widening<I: Send, T: Send, E: Send>(limits: Limits, items: Vec<I>, work: impl Fn(I) -> Result<T, E> + Sync) -> Result<Vec<T>, E> {
    let total = items.len();
    let most = limits.most.clamp(1, total.max(1));
    let (queue, stop, done) = (Mutex::new(items.into_iter().enumerate()), AtomicBool::new(false), AtomicUsize::new(0));
    let one = || {
        let mut results = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let Some((at, item)) = queue.lock().ok().and_then(|mut q| q.next()) else { break };
            match work(item) {
                Ok(result) => results.push((at, result)),
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    return Err(e);
                }
            }
            done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(results)
    };
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let mut crew: Vec<_> = (0..limits.first.clamp(1, most)).map(|_| scope.spawn(one)).collect();
        let mut width = Width::default();
        let (mut since, mut before) = (Instant::now(), 0);
        while crew.len() < most && !crew.iter().all(|t| t.is_finished()) {
            std::thread::sleep(STEP);
            if since.elapsed() < WINDOW {
                continue;
            }
            let now = done.load(Ordering::Relaxed);
            let rate = (now - before) as f64 / since.elapsed().as_secs_f64();
            (since, before) = (Instant::now(), now);
            let more = width.next(crew.len(), rate, processor_share()).min(most) - crew.len();
            crew.extend((0..more).map(|_| scope.spawn(one)));
        }
        crew.into_iter().map(|t| t.join()).collect()
    });
    let mut all = Vec::with_capacity(total);
    for outcome in outcomes {
        match outcome {
            Ok(part) => all.extend(part?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
    all.sort_by_key(|(at, _)| *at);
    Ok(all.into_iter().map(|(_, result)| result).collect())
}

const STEP: Duration = Duration::from_millis(10);
/// How long a width is watched before it is judged.
const WINDOW: Duration = Duration::from_millis(150);

/// Decides how wide a crew is. Pure.
#[derive(Debug, Default)]
struct Width {
    best: f64,
    settled: bool,
}

impl Width {
    /// The next width, after `threads` made `rate` items a second and used `share` of the processors.
    fn next(&mut self, threads: usize, rate: f64, share: f64) -> usize {
        // Doubling that brings less than a quarter more has met another limit.
        self.settled |= share > 0.7 || (self.best > 0.0 && rate < self.best * 1.25);
        self.best = self.best.max(rate);
        if self.settled { threads } else { threads * 2 }
    }
}

/// How much of all processors this process has used since the last call, 0 to 1.
fn processor_share() -> f64 {
    static LAST: Mutex<Option<(Instant, Duration)>> = Mutex::new(None);
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let used = Duration::new(used.tv_sec.unsigned_abs(), used.tv_nsec.unsigned_abs() as u32);
    let now = (Instant::now(), used);
    let Ok(mut last) = LAST.lock() else { return 1.0 };
    let Some((then, before)) = last.replace(now) else { return 0.0 };
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let busy = used.saturating_sub(before).as_secs_f64();
    busy / (now.0.duration_since(then).as_secs_f64().max(0.001) * processors as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longer_begins_with_more() {
        let begun = |ms| for_latency(4, 10, Duration::from_millis(ms));
        assert_eq!([0, 9, 10, 30, 100_000].map(begun), [4, 4, 8, 10, 10]);
    }

    #[test]
    fn a_crew_grows_while_that_helps() {
        let mut width = Width::default();
        assert_eq!(width.next(8, 100.0, 0.1), 16);
        assert_eq!(width.next(16, 190.0, 0.2), 32);
        // The other side does not answer faster than that.
        assert_eq!(width.next(32, 200.0, 0.2), 32);
        assert_eq!(width.next(32, 400.0, 0.2), 32);
        assert_eq!(Width::default().next(8, 100.0, 0.9), 8, "bound by the processor");
    }

    #[test]
    fn a_widening_crew_keeps_the_order_and_stops_at_a_failure() {
        let limits = Limits { first: 2, most: 32 };
        let slow = |n: u64| {
            std::thread::sleep(Duration::from_millis(10));
            if n == 150 { Err(n) } else { Ok(n * 2) }
        };
        assert_eq!(widening(limits, (0..100).collect(), slow), Ok((0..100).map(|n| n * 2).collect()));
        assert_eq!(widening(limits, (0..200).collect(), slow), Err(150));
        assert_eq!(widening::<u8, u8, ()>(limits, vec![], Ok), Ok(vec![]));
    }

    #[test]
    fn keeps_the_order_and_stops_at_a_failure() {
        let squares: Result<Vec<u64>, ()> = run(4, (0..100u64).collect(), |n| Ok(n * n));
        assert_eq!(squares, Ok((0..100).map(|n| n * n).collect()));
        let begun = AtomicUsize::new(0);
        let failed: Result<Vec<()>, u64> = run(2, (0..1000u64).collect(), |n| {
            begun.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_micros(200));
            if n == 3 { Err(n) } else { Ok(()) }
        });
        assert_eq!(failed, Err(3));
        assert!(begun.load(Ordering::Relaxed) < 100);
        assert_eq!(run::<u8, u8, ()>(4, vec![], Ok), Ok(vec![]));
    }
}
