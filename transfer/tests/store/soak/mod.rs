//! kill -9 at random bytes, attempts that race, nodes that are cut off and return: stories drawn by a seed.
//!
//! The short form is part of `cargo test`. The long one: `GPUJOB_SOAK_RUNS=240 cargo test -p gpujob-transfer --test store soak:: -- --nocapture`;
//! `GPUJOB_SOAK_SEED=n` with one run tells one story again.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::weed::weed;

mod oracle;
mod saves;
mod stories;

pub(crate) use oracle::processes;

/// xorshift64*: a seed draws the same story again; what the scheduler does in it may differ.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// 0 to `sides` - 1.
    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % sides
    }
}

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text:?} is no number")))
}

#[test]
fn the_destination_is_untouched_or_exactly_the_winners() {
    let runs = number("GPUJOB_SOAK_RUNS", stories::STORIES.len() as u64 * 2);
    let first = number("GPUJOB_SOAK_SEED", 0);
    let bucket = weed().bucket("soak");
    let (began, next) = (Instant::now(), AtomicU64::new(first));
    let told: Mutex<BTreeMap<&str, u64>> = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        let teller = || {
            loop {
                let seed = next.fetch_add(1, Ordering::SeqCst);
                if seed >= first + runs {
                    return;
                }
                let (name, story) = stories::STORIES[(seed % stories::STORIES.len() as u64) as usize];
                let at = Instant::now();
                println!("seed {seed}: {name}");
                let said = story(&bucket, seed);
                println!("seed {seed}: {said} ({:.1} s)", at.elapsed().as_secs_f64());
                *told.lock().unwrap().entry(name).or_default() += 1;
            }
        };
        // A panic in one of them is this test's.
        for teller in [scope.spawn(teller), scope.spawn(teller)] {
            teller.join().unwrap();
        }
    });
    println!("soak transfer: {runs} runs in {:.0} s, none failed: {:?}", began.elapsed().as_secs_f64(), told.lock().unwrap());
}
