//! A few threads that work through a list; the first failure ends it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

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
