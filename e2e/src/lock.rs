//! One `up` or `down` at a time on a machine.

use anyhow::{Context, Result};
use std::fs::File;

/// Held while the lab changes as a whole; gone with its holder, whatever ends it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until nobody else holds it.
    pub(crate) fn take() -> Result<Self> {
        let place = "/run/gpujob-lab.lock";
        let file = File::create(place).with_context(|| place.to_owned())?;
        if file.try_lock().is_err() {
            eprintln!("  …  another `cargo lab` is at work; waiting for it");
            file.lock()?;
        }
        Ok(Self { _file: file })
    }
}
