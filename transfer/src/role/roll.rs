//! Rolling a begun commit forward: whoever finds `committing` does the same things, and doing them twice is harmless.
//!
//! Order matters: a look whether all is there, files, log, manifest, receipt, `committed`, and only then staging goes.

use std::ops::ControlFlow;

use crate::checksum::{Check, Stored};
use crate::crew;
use crate::epoch::{Decision, Epoch, State, finish, lose};
use crate::manifest::Manifest;
use crate::plan::{self, Item, Landing, MANIFEST_KEY, Plan, RECEIPT_KEY, STAGING, Staged, landing};
use crate::progress::{count, say, size};
use crate::receipt::{ManifestRef, Outcome, Receipt, Role, Verdict, reason};
use crate::store::{Class, Condition, read};

use super::destination::{Changed, Destination};
use super::{Fault, pack, staged, sweep};

/// Most requests at a time: each may hold 256 KiB of a pack.
const THREADS: usize = 40;

/// How it ended.
pub(super) enum Rolled {
    /// The subject is committed; its receipt.
    Committed(Box<Receipt>),
    /// A staged file is gone for good: the attempt is lost and its epoch revoked.
    Lost(String),
}

/// Completes the commit of `subject`, an epoch in `committing`.
///
/// # Errors
/// The store's; everything may be repeated.
pub(super) fn forward(to: &Destination, subject: &Epoch, nonce: &str, log: Option<&[u8]>) -> Result<Rolled, Fault> {
    let plan = match sealed_plan(to, subject)? {
        Ok(plan) => plan,
        Err(why) => return lost(to, subject, nonce, why),
    };
    let verdict = subject.verdict.ok_or_else(|| broken("an epoch in committing has no verdict"))?;
    say(&format!("publishing {} ({}) at {}", count(plan.items.len() as u64, "file"), size(plan.bytes()), to.name()));
    let first = crew::for_latency(8, THREADS / 2, to.latency());
    // Before the first of them is visible: what is lost by now must leave nothing of the attempt behind.
    let left = match staged::look(to, &plan, first)? {
        Ok(left) => left,
        Err(path) => return lost(to, subject, nonce, nowhere(&path)),
    };
    let (packed, single): (Vec<&Item>, Vec<&Item>) = left.into_iter().partition(|item| matches!(item.staged, Staged::Pack { .. }));
    let runs = pack::runs(packed).into_iter().chain(single.into_iter().map(|item| vec![item])).collect();
    let landed = crew::widening(crew::Limits { first, most: THREADS }, runs, |run: Vec<&Item>| {
        let gone = match run[..] {
            [item] if !matches!(item.staged, Staged::Pack { .. }) => land(to, item).map(|there| (!there).then(|| item.file.path.clone())),
            _ => pack::land(to, subject, &run),
        };
        match gone {
            Ok(None) => Ok(()),
            Ok(Some(path)) => Err(Ok(path)),
            Err(fault) => Err(Err(fault)),
        }
    });
    match landed {
        Ok(_) => {}
        Err(Ok(path)) => return lost(to, subject, nonce, nowhere(&path)),
        Err(Err(fault)) => return Err(fault),
    }
    if let Some(log) = log {
        to.store.put(&to.key(&format!(".gpujob/logs/{}-{}.log", plan.index, plan.attempt)), log)?;
    }
    let receipt = publish(to, subject, &plan, verdict)?;
    // Listed while nobody else can claim the destination, so that a successor's staging is never among them.
    let garbage = to.keys(STAGING)?;
    match to.change(|found| finish(nonce, found, subject))? {
        Changed::Written(_) | Changed::Decided(Decision::Holds) => {}
        // The only ways out of `committing` are `committed`, which another job may have overwritten since, and lost.
        Changed::Decided(other) => say(&format!("finished by another process meanwhile ({other:?})")),
    }
    sweep::staging(to, garbage, Some(&plan));
    sweep::probes(to);
    Ok(Rolled::Committed(Box::new(receipt)))
}

fn nowhere(path: &str) -> String {
    format!("{path:?} is neither staged nor at its destination")
}

/// The plan that was sealed, or why there is none any more: only its absence is loss.
fn sealed_plan(to: &Destination, subject: &Epoch) -> Result<Result<Plan, String>, Fault> {
    let reference = subject.plan.as_ref().ok_or_else(|| broken("an epoch in committing has no plan"))?;
    let mut wrong = String::new();
    for _ in 0..3 {
        let Some((bytes, _)) = read(&*to.store, &to.key(&reference.key), plan::LIMIT)? else {
            return Ok(Err(format!("the plan {} is gone", reference.key)));
        };
        match Plan::decode(&bytes, reference) {
            Ok(plan) => return Ok(Ok(plan)),
            Err(why) => wrong = why,
        }
    }
    // Damaged on its way, or written by another version: no proof that anything is lost, and loss is for good.
    Err(Fault::passing(reason::CHECKSUM_MISMATCH, format!("{wrong}, 3 times")))
}

/// Makes one file visible. `Ok(false)`: it is neither staged nor at its key.
fn land(to: &Destination, item: &Item) -> Result<bool, Fault> {
    let key = to.key(&item.file.path);
    for _ in 0..3 {
        let moved = match &item.staged {
            Staged::Pack { .. } => return Err(broken("an item of a pack is landed alone")),
            Staged::Object { key: staged } => to.store.copy(&to.key(staged), &key),
            Staged::Upload { upload_id, parts } => to.store.complete_upload(&key, upload_id, parts, &item.file.crc64nvme),
        };
        let gone = match moved {
            Ok(()) => false,
            Err(e) if matches!(e.class, Class::NotFound | Class::NoSuchUpload) => true,
            Err(e) => return Err(e.into()),
        };
        match landing(&item.file, gone, to.store.head(&key)?.as_ref()) {
            Landing::Landed => return Ok(true),
            Landing::Lost => return Ok(false),
            // The store keeps no checksum, but it has just said that it moved what it took, and the size is right.
            Landing::Unproven if !gone => return Ok(true),
            Landing::Unproven => return read_back(to, item, &key),
            Landing::Again => {}
        }
    }
    Err(Fault::passing(reason::CHECKSUM_MISMATCH, format!("{} is not what was staged, after 3 tries", to.store.name(&key))))
}

/// A store that keeps no checksum: reads the object and compares. Bytes may be damaged on their way, and a loss is for good: only what is
/// wrong three times is another file.
pub(super) fn read_back(to: &Destination, item: &Item, key: &str) -> Result<bool, Fault> {
    for _ in 0..3 {
        if reads_as(to, item, key)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn reads_as(to: &Destination, item: &Item, key: &str) -> Result<bool, Fault> {
    let want = Stored { crc64nvme: Some(item.file.crc64nvme.clone()), ..Stored::default() };
    let mut check = Check::against(&want).ok_or_else(|| broken("a plan has no checksum"))?;
    match to.store.get(key, &mut |piece| {
        check.update(piece);
        ControlFlow::Continue(())
    }) {
        Ok(_) => Ok(check.finish().is_ok()),
        Err(e) if e.class == Class::NotFound => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Manifest, then receipt.
fn publish(to: &Destination, subject: &Epoch, plan: &Plan, verdict: Verdict) -> Result<Receipt, Fault> {
    let manifest = Manifest::of(plan, verdict);
    let bytes = manifest.encode();
    guarded(to, subject, MANIFEST_KEY, &bytes)?;
    let totals = manifest.totals;
    let message = format!("{}, {} at {}", count(totals.files, "file"), size(totals.bytes), to.name());
    let mut receipt = Receipt::new(Role::Commit, Outcome::Committed, message);
    receipt.files = totals.files;
    receipt.bytes = totals.bytes;
    receipt.manifest =
        Some(ManifestRef { key: format!("{}{MANIFEST_KEY}", to.under().unwrap_or_default()), sha256: crate::checksum::sha256_hex(&bytes) });
    receipt.published_under = to.under();
    receipt.committed = Some(verdict);
    receipt.summary = plan.summary.clone();
    receipt.summary_omitted = plan.summary_omitted.then_some(true);
    let text = serde_json::to_vec(&receipt).expect("a receipt has only string keys");
    guarded(to, subject, RECEIPT_KEY, &text)?;
    Ok(receipt)
}

/// Writes a control object only while the destination is still the subject's: a process that slept since `committing`
/// must not write over what a later job has committed. The version is read before the epoch is, so nothing written
/// after that look can be overwritten.
fn guarded(to: &Destination, subject: &Epoch, below: &str, bytes: &[u8]) -> Result<(), Fault> {
    let key = to.key(below);
    for _ in 0..20 {
        let seen = to.store.head(&key)?;
        match to.epoch()? {
            Some((epoch, _)) if epoch.same_attempt(subject) && epoch.state == State::Committing => {}
            // Finished by another process: its manifest is there, or a later job's.
            _ => return Ok(()),
        }
        let condition = seen.as_ref().map_or(Condition::Absent, |info| Condition::Version(&info.version));
        match to.put_if(&key, bytes, condition) {
            Ok(_) => return Ok(()),
            // Another roller was quicker: it has written the same.
            Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("{} keeps changing", to.store.name(&key))))
}

fn lost(to: &Destination, subject: &Epoch, nonce: &str, why: String) -> Result<Rolled, Fault> {
    match to.change(|found| lose(nonce, found, subject))? {
        Changed::Written(_) => Ok(Rolled::Lost(why)),
        // Not lost: another process finished, and its staging went because of that.
        Changed::Decided(Decision::Committed(_)) => match to.stored_receipt()? {
            Some(receipt) => Ok(Rolled::Committed(Box::new(receipt))),
            None => Err(broken("committed without a receipt")),
        },
        Changed::Decided(other) => Err(Fault::revoked(format!("superseded while it was rolled forward: {other:?}"))),
    }
}

pub(super) fn broken(what: &str) -> Fault {
    Fault::permanent(reason::INTERNAL, what.into())
}
