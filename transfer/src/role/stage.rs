//! `stage`, the worker: waits while main runs, and after it stages every result, writes the plan and seals it.
//!
//! It never commits: it cannot know how main ended.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::checkpoint::Saver;
use crate::epoch::{Actor, Decision, State, seal, standing};
use crate::plan::{LIMIT, Plan, staging};
use crate::progress::{Meter, count, say, size};
use crate::receipt::{Outcome, Receipt, Role, reason};
use crate::spec::Results;

use super::destination::{Changed, Destination};
use super::globs::Globs;
use super::ledger::Ledger;
use super::upload::Stager;
use super::{Context, Fault, keep, stream, upload, walk};

/// How often a running attempt looks whether it still stands.
const LOOK: Duration = Duration::from_secs(30);
/// How often a file that changes after main's end is begun with anew; each time takes some seconds.
const CHANGES: usize = 2;
/// Largest `results.summary`.
const SUMMARY_LIMIT: u64 = 2 << 10;

/// Waits for SIGTERM (unless `ending`: it came before a restart), then stages and seals.
///
/// # Errors
/// `Revoked`, files that cannot be delivered, and the store's.
pub fn run(context: &Context, ending: bool) -> Result<Receipt, Fault> {
    let (told, end) = channel();
    listen(told)?;
    let mut saver = Saver::begin(context, ending)?;
    let Some(results) = &context.spec.results else {
        say("the job keeps no results; waiting for its end");
        let _ = ending || end.recv().is_ok();
        let left = saver.map(|saver| saver.finish(|| false)).unwrap_or_default();
        let saved = left.newest.map(|what| format!("; its last checkpoint is {what}")).unwrap_or_default();
        let receipt = Receipt::new(Role::Stage, Outcome::Done, format!("the job keeps no results{saved}"));
        return Ok(Receipt { warnings: left.unsaved.into_iter().collect(), ..receipt });
    };
    let to = context.destination()?.ok_or_else(|| Fault::invalid("results without a destination".into()))?;
    let me = context.actor();
    prepare(Path::new(&results.path));
    Globs::new(&results.include, &results.exclude)?;
    let base = base(context, &me);
    let staging = staging(me.attempt, &me.pod_uid);
    if !ending {
        let ledger = Ledger::open(&context.state, &staging);
        let ready = format!("results in {} will be staged for {} when main has ended", results.path, to.name());
        if let Err(revoked) = streaming(context, results, &to, &base, &ledger, || wait(&to, &me, &end, ready)) {
            // Who may save checkpoints is not decided here.
            saver.map(|saver| saver.finish(|| false));
            return Err(revoked);
        }
        say("main has ended: staging its results");
    }
    // A node that goes away ended the attempt: its checkpoint is what counts, and there may be time for one of both only.
    let mut unsaved = None;
    if saver.as_ref().is_some_and(Saver::node_goes_away) {
        unsaved = saver.take().and_then(|saver| saver.finish(|| false).unsaved);
    }
    let limit = Duration::from_secs(results.keep_on_failure_seconds);
    let sealed = keep::until_mended(limit, &end, || {
        // Opened anew: with the credentials as they are now.
        let to = context.destination()?.ok_or_else(|| Fault::invalid("results without a destination".into()))?;
        let receipt = settled(|| deliver(context, results, &to, &me, &base, &Ledger::last(&context.state, &staging)));
        if let Some(saver) = saver.take() {
            unsaved = saver.finish(|| past_return(&to, &me)).unsaved;
        }
        receipt
    })?;
    Ok(Receipt { warnings: sealed.warnings.into_iter().chain(unsaved).collect(), ..sealed })
}

/// This process's folder in the attempt's staging.
fn base(context: &Context, me: &Actor) -> String {
    format!("{}{}/", staging(me.attempt, &me.pod_uid), context.nonce)
}

/// Stages what has come to rest while `wait` lasts.
fn streaming<T>(context: &Context, results: &Results, to: &Destination, base: &str, ledger: &Ledger, wait: impl FnOnce() -> T) -> T {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| stream::run(context, results, to, base, ledger, &stop));
        let outcome = wait();
        stop.store(true, Ordering::Relaxed);
        outcome
    })
}

/// Whether the folder is in memory: a write through a memory map does not change a file's times there.
fn in_memory(folder: &Path) -> bool {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    // What is not known is read again.
    rustix::fs::statfs(folder).map_or(true, |about| about.f_type == TMPFS_MAGIC)
}

/// Whether this attempt's results are on their way to be visible: its checkpoints are not needed then.
fn past_return(to: &Destination, me: &Actor) -> bool {
    matches!(to.epoch(), Ok(Some((epoch, _))) if me.owns(&epoch) && matches!(epoch.state, State::Committing | State::Committed))
}

/// The first SIGTERM begins the end; a later one is only said.
fn listen(told: Sender<()>) -> Result<(), Fault> {
    let failed = |e: std::io::Error| Fault::passing(reason::INTERNAL, format!("signals: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(failed)?;
    std::thread::spawn(move || {
        for (n, _) in signals.forever().enumerate() {
            if n > 0 {
                say("asked to end again: still staging");
            }
            let _ = told.send(());
        }
    });
    Ok(())
}

/// Main writes here as whatever user it runs as.
pub(crate) fn prepare(folder: &Path) {
    let made = fs::create_dir_all(folder).and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o777)));
    if let Err(e) = made {
        // An emptyDir is 0777 already; another owner's is not ours to change.
        say(&format!("{}: {e}; left as it is", folder.display()));
    }
}

/// Until SIGTERM, looks now and then whether the attempt still stands. One that does not waits too, or the kubelet
/// would start this container again and again.
fn wait(to: &Destination, me: &Actor, end: &Receiver<()>, ready: String) -> Result<(), Fault> {
    let mut ready = Some(ready);
    loop {
        match stands(to, me) {
            Ok(()) => {}
            Err(fault) if fault.reason == reason::REVOKED => {
                say(&format!("revoked: {}; nothing of this attempt will be delivered", fault.message));
                let _ = end.recv();
                return Err(fault);
            }
            Err(fault) => say(&format!("cannot look at the epoch now, main goes on: {fault}")),
        }
        // After the first look, so that who reads this knows that there was one.
        if let Some(ready) = ready.take() {
            say(&ready);
        }
        match end.recv_timeout(LOOK) {
            Err(RecvTimeoutError::Timeout) => {}
            _ => return Ok(()),
        }
    }
}

fn stands(to: &Destination, me: &Actor) -> Result<(), Fault> {
    match standing(me, to.epoch()?.as_ref().map(|e| &e.0)) {
        Decision::Revoked(to_whom) => Err(Fault::revoked(to_whom)),
        _ => Ok(()),
    }
}

/// Does `deliver` until no file changes any more. Main has ended, so one that goes on changing is written by somebody who does not end
/// with it: that is not waited for until the delivery's deadline.
fn settled(mut deliver: impl FnMut() -> Result<Receipt, Fault>) -> Result<Receipt, Fault> {
    for _ in 0..CHANGES {
        match deliver() {
            Err(fault) if fault.reason == reason::FILE_CHANGING => say(&fault.message),
            other => return other,
        }
    }
    deliver().map_err(|fault| if fault.reason == reason::FILE_CHANGING { Fault::permanent(fault.reason, fault.message) } else { fault })
}

/// Stages and seals. A worker that was started again may find that the commit of what it sealed before has begun:
/// nothing is lost then, and nothing is left to do.
fn deliver(context: &Context, results: &Results, to: &Destination, me: &Actor, base: &str, ledger: &Ledger) -> Result<Receipt, Fault> {
    match staged(context, results, to, me, base, ledger) {
        Err(fault) if fault.reason == reason::REVOKED => match to.epoch()? {
            Some((epoch, _)) if me.owns(&epoch) && matches!(epoch.state, State::Committing | State::Committed) => {
                let message = format!("sealed before for {}; the commit has begun", to.name());
                say(&message);
                Ok(Receipt::new(Role::Stage, Outcome::Sealed, message))
            }
            _ => Err(fault),
        },
        other => other,
    }
}

fn staged(context: &Context, results: &Results, to: &Destination, me: &Actor, base: &str, ledger: &Ledger) -> Result<Receipt, Fault> {
    stands(to, me)?;
    let globs = Globs::new(&results.include, &results.exclude)?;
    let mut found = walk::tree(Path::new(&results.path), to.room(), &globs)?;
    for skipped in &found.skipped {
        say(&format!("not delivered: {:?}: {}", skipped.path, skipped.why));
    }
    let (files, bytes) = (found.files.len() as u64, found.files.iter().map(|f| f.size).sum());
    // Before hours of sending them; what else the plan holds is known at its end.
    listable(Plan::least(found.files.iter().map(|f| f.name.as_str())), files)?;
    say(&format!("staging {} ({}) for {}", count(files, "file"), size(bytes), to.name()));
    let stop = AtomicBool::new(false);
    let meter = Meter::new("staged", files, bytes);
    let recheck = in_memory(Path::new(&results.path));
    let state = &context.state;
    let threads = upload::threads(to);
    let stager = Stager { to, base: base.into(), stop: &stop, meter, state, ledger, recheck, main_runs: false, threads };
    let done = guarded(to, me, &stop, || stager.all(found.files))?;
    found.skipped.extend(done.gone);
    found.skipped.sort_by(|a, b| a.path.cmp(&b.path));
    let mut plan = Plan::new(me, done.items, found.skipped);
    let files = plan.items.len() as u64;
    if let Some(name) = &results.summary {
        plan.summary = fs::canonicalize(&results.path).ok().and_then(|root| summary(&root, name));
        plan.summary_omitted = plan.summary.is_none();
    }
    let (text, reference) = plan.encode(format!("{base}plan.json"));
    listable(text.len(), files)?;
    to.store.put(&to.key(&reference.key), &text)?;
    match to.change(|epoch| seal(me, epoch, &reference))? {
        Changed::Written(_) | Changed::Decided(Decision::Holds) => {}
        Changed::Decided(Decision::Revoked(to_whom)) => return Err(Fault::revoked(to_whom)),
        Changed::Decided(other) => {
            return Err(Fault::permanent(reason::INTERNAL, format!("unexpected decision {other:?}")));
        }
    }
    let seconds = context.started.elapsed().as_secs_f64();
    let message = format!("sealed {} ({}) for {}", count(files, "file"), size(plan.bytes()), to.name());
    say(&format!("{message}; this process ran {seconds:.1} s"));
    let mut receipt = Receipt::new(Role::Stage, Outcome::Sealed, message);
    (receipt.files, receipt.bytes) = (files, plan.bytes());
    Ok(receipt)
}

/// Whether a commit can read a plan of so many bytes: one that it cannot must not be sealed.
fn listable(bytes: usize, files: u64) -> Result<(), Fault> {
    if bytes <= LIMIT {
        return Ok(());
    }
    let advice = "put many into one (tar), or leave some out by results.exclude";
    let message =
        format!("{}: their list has {} or more, {} at most: {advice}", count(files, "file"), size(bytes as u64), size(LIMIT as u64));
    Err(Fault::permanent(reason::TOO_MANY_FILES, message))
}

/// Does `work` while a second thread looks whether the attempt still stands, and sets `stop` when it does not.
fn guarded<T>(to: &Destination, me: &Actor, stop: &AtomicBool, work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    let (finished, done) = channel::<()>();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            // The sender is dropped when the work is done, however it ends.
            while let Err(RecvTimeoutError::Timeout) = done.recv_timeout(LOOK) {
                if stands(to, me).is_err_and(|fault| fault.reason == reason::REVOKED) {
                    stop.store(true, Ordering::Relaxed);
                    return;
                }
            }
        });
        let outcome = work();
        drop(finished);
        outcome
    })
}

/// The summary's JSON, if it is there, small enough, and JSON.
fn summary(root: &Path, name: &str) -> Option<serde_json::Value> {
    let path = &root.join(name);
    let omitted = |why: String| {
        say(&format!("summary {} is left out: {why}", path.display()));
        None
    };
    // As of every result: no link leads out of the folder, and what is no file may never end.
    let target = match walk::inside(path, root) {
        Ok(target) => target,
        Err(why) => return omitted(why.into()),
    };
    let mut bytes = vec![];
    let file = match upload::regular(&target) {
        Ok(Some(file)) => file,
        Ok(None) => return omitted("it was replaced by something that is no file".into()),
        Err(e) => return omitted(e.to_string()),
    };
    match file.take(SUMMARY_LIMIT + 1).read_to_end(&mut bytes) {
        Ok(read) if read as u64 > SUMMARY_LIMIT => omitted(format!("more than {SUMMARY_LIMIT} bytes")),
        Ok(_) => serde_json::from_slice(&bytes).or_else(|e| omitted(e.to_string()).ok_or(())).ok(),
        Err(e) => omitted(e.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_no_commit_reads_is_told_with_what_to_do() {
        assert!(listable(LIMIT, 3_000_000).is_ok());
        let fault = listable(LIMIT + 1, 4_000_000).expect_err("it is too long");
        assert_eq!((fault.reason, fault.retryable), (reason::TOO_MANY_FILES, false));
        assert!(fault.message.contains("4000000 files") && fault.message.contains("results.exclude"), "{fault}");
        assert!(!reason::mendable(fault.reason), "nobody can add to the results any more");
    }
}
