//! `check`: would this job's data move? Asked by a short pod with the job's own credentials while its instance is being bought, so
//! that a doomed job is told in seconds.
//!
//! It answers with the reasons that the roles themselves would fail with later. It claims nothing, and removes what it writes; what it
//! leaves when it is killed has a name that [`super::sweep`] knows.

use crate::checkpoint;
use crate::epoch::{Decision, claim};
use crate::plan::CONTROL;
use crate::progress::{count, say, size};
use crate::receipt::{Outcome, Receipt, Role, reason};
use crate::spec::Integrity;
use crate::store::conditional::{Conditional, again};
use crate::store::{Class, Condition, ObjectStore, PROBES, probe_key, read};

use super::commit::committed;
use super::destination::{Destination, SMALL};
use super::globs::Globs;
use super::sweep::Journal;
use super::{Context, Fault, inputs};

/// What was found.
#[derive(Default)]
struct Found {
    /// Objects and bytes of the inputs.
    files: u64,
    bytes: u64,
    warnings: Vec<String>,
    /// See [`Receipt::published_under`].
    under: Option<String>,
    /// Nothing has to run: these results are there.
    done: Option<Receipt>,
}

/// Looks at inputs, destination and checkpoints, at the same time. `days`: how long the job may take, with its waiting.
///
/// # Errors
/// What `fetch`, `stage` or `commit` would fail with; one that no other try mends before one that may pass.
pub fn run(context: &Context, days: u32) -> Result<Receipt, Fault> {
    let answers = std::thread::scope(|scope| {
        let parts = [scope.spawn(|| destination(context, days)), scope.spawn(|| inputs(context)), scope.spawn(|| checkpoints(context))];
        parts.map(|part| part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let mut all = Found::default();
    let mut faults = vec![];
    for answer in answers {
        match answer {
            Ok(found) => {
                all.files += found.files;
                all.bytes += found.bytes;
                all.warnings.extend(found.warnings);
                all.under = all.under.or(found.under);
                all.done = all.done.or(found.done);
            }
            Err(fault) => faults.push(fault),
        }
    }
    // Results that are there need no input.
    if let Some(done) = all.done {
        return Ok(done);
    }
    faults.sort_by_key(|fault| fault.retryable);
    if !faults.is_empty() {
        let first = faults.remove(0);
        faults.iter().for_each(|other| say(&format!("{other}")));
        return Err(first);
    }
    for warning in &all.warnings {
        say(&format!("warning: {warning}"));
    }
    let what = if context.spec.inputs.is_empty() {
        "no inputs".to_string()
    } else {
        format!("{} ({}) to fetch", count(all.files, "file"), size(all.bytes))
    };
    let to = context.spec.results.as_ref().map_or("no results are kept".into(), |results| format!("{} is free", results.to));
    let mut receipt = Receipt::new(Role::Check, Outcome::Done, format!("{what}; {to}"));
    (receipt.files, receipt.bytes, receipt.warnings) = (all.files, all.bytes, all.warnings);
    receipt.published_under = all.under;
    Ok(receipt)
}

fn inputs(context: &Context) -> Result<Found, Fault> {
    let mut found = Found::default();
    for input in inputs::listed(context)? {
        // A listing may be allowed where reading is not, or where the key that decrypts is not given.
        let first = input.iter().find(|wanted| wanted.size > 0).or(input.first());
        let said = first.map(|wanted| Ok::<_, Fault>((wanted.begin()?, wanted.size))).transpose()?;
        // A URL's size is not listed, but said with its first bytes.
        found.bytes += said.map_or(0, |(said, listed)| said.saturating_sub(listed));
        found.files += input.len() as u64;
        found.bytes += input.iter().map(|wanted| wanted.size).sum::<u64>();
    }
    Ok(found)
}

fn destination(context: &Context, days: u32) -> Result<Found, Fault> {
    let mut found = Found::default();
    let Some(to) = context.destination()? else { return Ok(found) };
    globs(context)?;
    // As `fetch` will, but nothing is written: the decision is all that counts.
    let policy = to.policy(&context.spec)?;
    let held = to.epoch()?.map(|(epoch, _)| epoch);
    let mut me = context.actor();
    if let Some(epoch) = &held
        && (&epoch.job.uid, epoch.index, epoch.attempt) == (&me.job.uid, me.index, me.attempt)
    {
        // The instance was quicker than this pod, whose uid is not the attempt's.
        me.pod_uid.clone_from(&epoch.pod_uid);
    }
    match claim(&me, held.as_ref(), policy) {
        // What had begun to commit is finished by `fetch`, and decided then.
        Decision::Write(_) | Decision::RollForward(_) | Decision::Holds => {}
        Decision::Committed(_) => {
            found.done = Some(committed(&to, Role::Check, Outcome::AlreadyCommitted)?);
            return Ok(found);
        }
        Decision::Reused(_) => {
            let stored = committed(&to, Role::Check, Outcome::AlreadyCommitted)?;
            found.done = Some(Receipt { reason: reason::RESULTS_REUSED.into(), ..stored });
            return Ok(found);
        }
        Decision::Refuse(refusal) => return Err(to.refusal(refusal)),
        Decision::Revoked(to_whom) => return Err(Fault::revoked(to_whom)),
        Decision::Wait(why) => return Err(Fault::passing(reason::STORE_UNAVAILABLE, why)),
    }
    let folder = to.name();
    if to.store.integrity()? == "none" && context.spec.integrity != Some(Integrity::None) {
        found.warnings.push(format!("the store of {folder} checks no checksums: sizes are compared after uploads"));
    }
    if writable(&to, &mut found.warnings)? != Conditional::Honoured {
        let below = format!("attempt-{}/", context.spec.attempt);
        found.warnings.push(format!("the store does no conditional writes: results go below {folder}{below}"));
        found.under = Some(below);
    }
    uploadable(&to, &mut found.warnings)?;
    match to.store.abort_days(&to.key(""))? {
        Some(rule) if rule < days => found.warnings.push(format!(
            "the bucket aborts uploads after {rule} days, this job may take {days}: its large results would be lost; use {days} days or more"
        )),
        _ => {}
    }
    Ok(found)
}

/// The patterns of the results: what is wrong with them is not to be found out after hours.
pub(super) fn globs(context: &Context) -> Result<(), Fault> {
    context.spec.results.as_ref().map_or(Ok(()), |results| Globs::new(&results.include, &results.exclude).map(drop))
}

fn checkpoints(context: &Context) -> Result<Found, Fault> {
    let mut found = Found::default();
    if let Some((store, folder)) = checkpoint::place(context)? {
        let to = Destination::new(store, folder);
        // Reading first: some stores make a bucket that is not there of the first write to it.
        to.store.list(&to.key(&format!("{CONTROL}checkpoints/{}", context.spec.job.uid)), None)?;
        if writable(&to, &mut found.warnings)? != Conditional::Honoured {
            found.warnings.push(format!("the store of {} does no conditional writes: no checkpoints are saved there", to.name()));
        }
    }
    Ok(found)
}

/// Writes, writes again on conditions that do not hold, reads and removes an object of its own.
fn writable(to: &Destination, warnings: &mut Vec<String>) -> Result<Conditional, Fault> {
    let store = &*to.store;
    let key = probe_key(&to.key(""));
    let asked = conditions(store, &key);
    // Whatever came of it: nothing may stay.
    let removed = store.delete(&key);
    let asked = asked?;
    match removed {
        Err(e) if e.class == Class::AccessDenied => {
            warnings.push(format!("nothing can be removed from {}: allow s3:DeleteObject, or what is staged stays there", to.name()));
        }
        other => other?,
    }
    Ok(asked)
}

fn conditions(store: &dyn ObjectStore, key: &str) -> Result<Conditional, Fault> {
    const FIRST: &[u8] = b"gpujob-transfer asks whether it may write here";
    match store.put_if(key, FIRST, Condition::Absent) {
        Ok(_) => {}
        Err(e) if e.class == Class::NotImplemented => {
            store.put(key, FIRST)?;
            readable(store, key, FIRST)?;
            return Ok(Conditional::Refused);
        }
        // The first try's answer was lost, and the second one met its object: nobody else has this key.
        Err(e) if matches!(e.class, Class::PreconditionFailed | Class::Conflict) => {}
        Err(e) => return Err(e.into()),
    }
    readable(store, key, FIRST)?;
    Ok(again(store, key, FIRST)?)
}

fn readable(store: &dyn ObjectStore, key: &str, want: &[u8]) -> Result<(), Fault> {
    match read(store, key, SMALL)? {
        Some((bytes, _)) if bytes == want => Ok(()),
        Some(_) => Err(Fault::passing(reason::CHECKSUM_MISMATCH, format!("{} came back with other bytes", store.name(key)))),
        None => Err(Fault::passing(reason::STORE_UNAVAILABLE, format!("{} was written and is not there", store.name(key)))),
    }
}

/// Begins an upload of parts, sends one, and aborts it. Its id is written down first, as a staged one's is: a check that is killed
/// leaves nothing that a sweep cannot find.
fn uploadable(to: &Destination, warnings: &mut Vec<String>) -> Result<(), Fault> {
    let store = &*to.store;
    let key = probe_key("");
    debug_assert!(key.starts_with(PROBES));
    let upload_id = store.create_upload(&to.key(&key))?;
    let note = to.key(&format!("{key}/u/upload.json"));
    let entry = Journal { key: key.clone(), upload_id: upload_id.clone() };
    let sent = store
        .put(&note, &serde_json::to_vec(&entry).expect("a journal entry has only string keys"))
        .and_then(|_| store.upload_part(&to.key(&key), &upload_id, 1, b"a part"));
    let listed = store.list_parts(&to.key(&key), &upload_id);
    let aborted = store.abort_upload(&to.key(&key), &upload_id);
    let removed = store.delete(&note);
    sent?;
    match listed {
        Err(e) if e.class == Class::AccessDenied => warnings.push(format!(
            "parts cannot be listed at {}: allow s3:ListMultipartUploadParts, or large results are sent again at the end",
            to.name()
        )),
        other => drop(other?),
    }
    match (aborted, removed) {
        // Said already, of the first object.
        (Ok(()), Err(e)) if e.class == Class::AccessDenied => Ok(()),
        (aborted, removed) => Ok(aborted.and(removed)?),
    }
}
