//! Many schedules on a few threads: each with a runtime of its own, results in the order of the schedules.

use std::ops::ControlFlow::{self, Break, Continue};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Maps `work` over `items` on `threads` threads. `done` is told of each result as it comes, with its place, from those threads.
pub fn over<T: Sync, R: Send>(items: &[T], threads: usize, work: impl Fn(&T) -> R + Sync, done: impl Fn(usize, &R) + Sync) -> Vec<R> {
    until(items, threads, work, |n, result| {
        done(n, result);
        Continue(())
    })
}

/// The same until `done` has had enough: the results of what was begun by then.
pub fn until<T: Sync, R: Send>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> R + Sync,
    done: impl Fn(usize, &R) -> ControlFlow<()> + Sync,
) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(n) else { return };
                    let result = work(item);
                    if done(n, &result) == Break(()) {
                        next.store(items.len(), Ordering::Relaxed);
                    }
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
    use super::*;

    #[test]
    fn enough_is_enough() {
        let items: Vec<u64> = (0..100).collect();
        let done = super::until(&items, 1, |n| *n, |_, n| if *n == 7 { Break(()) } else { Continue(()) });
        assert_eq!(done, (0..=7).collect::<Vec<_>>());
    }

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
