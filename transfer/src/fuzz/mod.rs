//! Readers of what comes over the network, fed with what nobody meant to send.
//!
//! Each target has seeds in `fuzz/corpus/<target>/`, real answers and inputs that once failed. They are read as they are, and then
//! changed again and again. `cargo test` does a fixed number of the same changes each time; `GPUJOB_FUZZ_SECONDS=300` spends
//! that long on new ones, and keeps an input that fails beside the seeds.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

mod mutate;
mod targets;

use mutate::Mutator;

/// Changed inputs a target in the short form.
const SHORT: usize = 4000;

/// Runs `target` on the seeds of `name` and on changes of them. It panics when a promise is broken.
pub(crate) fn fuzz(name: &str, target: impl Fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let seeds = seeds(&folder);
    for (path, seed) in &seeds {
        attempt(&target, seed).unwrap_or_else(|()| panic!("{name}: {} fails", path.display()));
    }
    let seeds: Vec<_> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
    let long = std::env::var("GPUJOB_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).map(Duration::from_secs);
    let start = if long.is_some() { u64::from_str_radix(&crate::checksum::nonce(), 16).unwrap_or(1) } else { 1 };
    let mut mutator = Mutator::new(start);
    let began = Instant::now();
    let mut done = 0;
    while long.map_or(done < SHORT, |long| began.elapsed() < long) {
        let input = mutator.change(&seeds);
        if attempt(&target, &input).is_err() {
            let path = folder.join(format!("failed-{}", &crate::checksum::sha256_hex(&input)[..12]));
            if long.is_some() {
                let _ = fs::write(&path, &input);
            }
            panic!("{name} fails on {:?} (kept as {} in the long form)", String::from_utf8_lossy(&input), path.display());
        }
        done += 1;
    }
    crate::progress::say(&format!("fuzz {name}: {done} inputs in {:.1} s", began.elapsed().as_secs_f64()));
}

fn attempt(target: &impl Fn(&[u8]), input: &[u8]) -> Result<(), ()> {
    catch_unwind(AssertUnwindSafe(|| target(input))).map_err(drop)
}

fn seeds(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a readable seed"))).collect()
}
