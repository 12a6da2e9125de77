//! Many schedules on a few threads: each with a runtime of its own, results in the order of the schedules.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maps `work` over `items` on `threads` threads. `done` is told of each result as it comes, with its place, from those threads.
pub fn over<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync, done: impl Fn(usize, &R) + Sync) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { return };
                    let result = work(item);
                    done(n, &result);
                    results.lock().expect("no panic holds this lock").push((n, result));
                }
            });
        }
    });
    let mut results = results.into_inner().expect("no panic holds this lock");
    results.sort_by_key(|(n, _)| *n);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_order() {
        let items: Vec<u64> = (0..100).collect();
        let slow_first = |n: &u64| {
            std::thread::sleep(std::time::Duration::from_micros(100 - n));
            n * 2
        };
        assert_eq!(super::over(&items, 2, slow_first, |_, _| {}), items.iter().map(|n| n * 2).collect::<Vec<_>>());
    }
}
