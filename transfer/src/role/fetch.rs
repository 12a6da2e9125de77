//! `fetch`: claims the destination, then downloads every input, before main starts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint;
use crate::crew;
use crate::epoch::{Actor, Decision, claim};
use crate::plan::{STAGING, staging};
use crate::progress::{Meter, count, say, size};
use crate::receipt::{Outcome, Receipt, Role, reason};
use crate::store::ObjectStore;
use crate::store::location::{Location, Scheme};

use super::commit::committed;
use super::destination::{Changed, Destination};
use super::roll::{Rolled, forward};
use super::{Context, Fault, download, open, stage, sweep, unconditional};

/// Downloads at a time.
const THREADS: usize = 8;

/// Claims and downloads.
///
/// # Errors
/// A refused or lost claim, a missing input, a full disk, and the stores'.
pub fn run(context: &Context) -> Result<Receipt, Fault> {
    let mut under = None;
    if let Some(to) = context.destination()? {
        let taken = match take(context, &to) {
            Err(fault) if unconditional::because(context, &to, &fault)? => {
                say(&format!("{fault}"));
                unconditional::take(context, &to)?
            }
            other => other?,
        };
        if let Some(done) = taken {
            return Ok(done);
        }
        say(&format!("attempt {} has claimed {}", context.spec.attempt, to.name()));
        under = to.under();
    }
    if let Some(results) = &context.spec.results
        && Path::new(&results.path).is_dir()
    {
        stage::prepare(Path::new(&results.path));
    }
    let restored = checkpoint::restore(context)?;
    let mut receipt = inputs(context)?;
    if let Some(restored) = restored {
        receipt.message = format!("{}; {}", receipt.message, restored.said());
    }
    Ok(Receipt { published_under: under, ..receipt })
}

/// Claims the destination; a receipt when there is nothing left to run.
fn take(context: &Context, to: &Destination) -> Result<Option<Receipt>, Fault> {
    let me = context.actor();
    loop {
        // Listed before the claim: a job that is refused must leave no epoch in somebody's folder.
        let policy = to.policy(&context.spec)?;
        match to.change(|found| claim(&me, found, policy))? {
            Changed::Written(epoch) => {
                unconditional::prove(to, &epoch)?;
                if epoch.seq > 1 {
                    sweep_others(to, &me)?;
                }
                return Ok(None);
            }
            Changed::Decided(Decision::Committed(_)) => {
                say("this job's results are committed already");
                return committed(to, Role::Fetch, Outcome::AlreadyCommitted).map(Some);
            }
            Changed::Decided(Decision::Reused(_)) => {
                say("an equal job's results are there and are reused");
                let stored = committed(to, Role::Fetch, Outcome::AlreadyCommitted)?;
                return Ok(Some(Receipt { reason: reason::RESULTS_REUSED.into(), ..stored }));
            }
            Changed::Decided(Decision::RollForward(epoch)) => {
                say(&format!("attempt {} of job uid {} had begun to commit", epoch.attempt, epoch.job.uid));
                if let Rolled::Lost(why) = forward(to, &epoch, &me.nonce, None)? {
                    say(&format!("that attempt is lost: {why}"));
                }
            }
            Changed::Decided(Decision::Refuse(refusal)) => return Err(to.refusal(refusal)),
            Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
            Changed::Decided(other) => {
                return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
            }
        }
    }
}

/// Removes what earlier holders of the destination left staged: after this claim none of it can be committed any more. It must be
/// gone before this attempt commits: a commit pod of theirs that slept since before their own commit was finished would still
/// copy it, over this attempt's files (found by the model in `epoch/model.rs`).
fn sweep_others(to: &Destination, me: &Actor) -> Result<(), Fault> {
    let own = staging(me.attempt, &me.pod_uid);
    let others: Vec<String> = to.keys(STAGING)?.into_iter().filter(|key| !key.starts_with(&own)).collect();
    sweep::staging(to, others, None);
    Ok(())
}

fn inputs(context: &Context) -> Result<Receipt, Fault> {
    let mut buckets: HashMap<(Scheme, String), Arc<dyn ObjectStore>> = HashMap::new();
    let mut wanted = vec![];
    for input in &context.spec.inputs {
        let place = Location::parse(&input.from).map_err(|e| Fault::invalid(e.to_string()))?;
        let bucket = (place.scheme, place.bucket.clone());
        let store = match buckets.get(&bucket) {
            Some(store) => store.clone(),
            None => {
                let store: Arc<dyn ObjectStore> = Arc::from(open(&place, None)?);
                buckets.insert(bucket, store.clone());
                store
            }
        };
        stage::prepare(Path::new(&input.path));
        let found = download::list(input, store, &place)?;
        let bytes = found.iter().map(|w| w.size).sum();
        say(&format!("{}: {}, {} to {}", input.from, count(found.len() as u64, "object"), size(bytes), input.path));
        wanted.extend(found);
    }
    let (files, bytes) = (wanted.len() as u64, wanted.iter().map(|w| w.size).sum());
    let meter = Meter::new("fetched", files, bytes);
    let done = crew::run(THREADS, wanted, |one| one.fetch(&meter));
    for input in &context.spec.inputs {
        download::tidy(Path::new(&input.path));
    }
    let bytes = done?.into_iter().sum();
    let seconds = context.started.elapsed().as_secs_f64();
    let message = format!("fetched {}, {} in {seconds:.1} s", count(files, "file"), size(bytes));
    say(&message);
    let mut receipt = Receipt::new(Role::Fetch, Outcome::Done, message);
    (receipt.files, receipt.bytes) = (files, bytes);
    Ok(receipt)
}
