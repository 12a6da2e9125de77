//! Checkpoints: a folder of main's is saved while main runs, and restored before the next attempt's main starts.
//!
//! # What a program must do
//!
//! Write a checkpoint under a name that ends in `.partial` or `.tmp` (those are never saved) and rename it when it is whole, or
//! write files that are never touched again. A set is everything in the folder at one moment: names, bytes, modes, owners, times,
//! links and empty folders. It is taken only if nothing in it changed while it was looked at and nothing was written within the last
//! second; the files are held open, so that a rename over one of them, or its removal, harms nothing. A program that writes in place is
//! caught when size, time or inode changed before all was read, and the set is tried again; one that pauses in the middle of a
//! file for longer than that is not. Nothing is saved of a folder without files.
//!
//! # What lies in the store
//!
//! ```text
//! <to>.gpujob/checkpoints/<job uid>-<index>/
//!     head                                    who may write, and which checkpoints are complete
//!     m/<attempt>-<number>-<process>.json     one checkpoint: every file, its pieces and their checksums
//!     o/<attempt>-<process>/<n>               a piece of a file; never written twice
//! ```
//!
//! # Why a zombie is harmless
//!
//! `head` ([`head::Head`]) is changed by conditional puts only. A process claims it before it does anything else; only a higher attempt,
//! or the same pod again, may take it from another. Publishing a checkpoint is a put on the version that this process wrote itself, so:
//!
//! 1. *After a claim nothing older is published.* The claim changed the version. A put that was under way arrives too late, however
//!    late.
//! 2. *A checkpoint in the head is whole.* Objects first, then its manifest, then the head, which carries the manifest's SHA-256.
//! 3. *What the head names is never deleted.* A process deletes only what the head, as it last wrote it itself, does not name: not objects of a
//!    higher attempt, and nothing that it listed before its claim. Whoever claims later takes over exactly what that head names, and
//!    names beside it only objects with its own process in their keys. A key is never used twice, so a delete that arrives
//!    days later still means an object that nobody names.
//!
//! `model.rs` checks these for every interleaving of two attempts with lost answers and late requests; `transfer/tests/store/` races
//! processes for them.
//!
//! A store without conditional writes, or that ignores conditions, gives none of this. There each attempt has a folder of its own
//! (`apart/<attempt>/`), with a head that nobody else writes, and names nothing outside it. The next attempt restores the newest of all
//! folders, and removes lower ones once it has enough of its own. A zombie then saves for nobody; what it removes meanwhile makes
//! a restore fall back to what is newer or older, never to a half.

pub mod budget;
mod collect;
mod folder;
pub mod head;
#[cfg(test)]
mod model;
mod notice;
mod repository;
mod restore;
mod save;
mod saver;
pub mod set;
mod state;
mod time;
mod upload;

pub use collect::remove;
pub(crate) use repository::place;
pub use restore::restore;
pub use saver::{Left, Saver};

/// A checkpoint's name for people: `checkpoint 7 of attempt 2`.
pub(crate) fn called(number: u64, attempt: u32) -> String {
    format!("checkpoint {number} of attempt {attempt}")
}
