//! Readers of what comes over the network, fed with what nobody meant to send.
//!
//! Each target has seeds in `fuzz/corpus/<target>/`, real answers and inputs that once failed. They are read as they are, and then
//! with changes that [bolero](https://docs.rs/bolero) draws: some thousand in `cargo test`, and as many as
//! `BOLERO_RANDOM_ITERATIONS` says. A failure is shrunk, and names the `BOLERO_RANDOM_SEED` that brings it again; an input that failed is
//! then kept beside the seeds. `cargo bolero test` lets a fuzzer that sees coverage draw the changes instead.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

mod mutate;
mod targets;

pub(crate) use mutate::Changed;

/// Changed inputs a target in `cargo test`.
pub(crate) const SHORT: usize = 4000;

/// Runs a target (`|input|`, bytes; it panics when a promise is broken) on the seeds of a name, and on changes of them. A macro, because
/// bolero finds a target by the function that it is in.
macro_rules! fuzz {
    ($name:literal, |$input:ident| $body:expr) => {{
        let target = |$input: &[u8]| $body;
        let seeds = $crate::fuzz::seeds($name);
        $crate::fuzz::as_they_are(&seeds, &target);
        let seeds: Vec<Vec<u8>> = seeds.into_iter().map(|(_, bytes)| bytes).collect();
        bolero::check!()
            .with_iterations($crate::fuzz::SHORT)
            .with_type::<$crate::fuzz::Changed>()
            .for_each(|changed| target(&changed.of(&seeds)));
    }};
}
pub(crate) use fuzz;

pub(crate) fn as_they_are(seeds: &[(PathBuf, Vec<u8>)], target: &impl Fn(&[u8])) {
    for (path, seed) in seeds {
        catch_unwind(AssertUnwindSafe(|| target(seed))).unwrap_or_else(|_| panic!("{} fails", path.display()));
    }
}

pub(crate) fn seeds(name: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let entries = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{} has no seeds", folder.display());
    paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a readable seed"))).collect()
}
