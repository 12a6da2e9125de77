//! `run -- command`: all roles in one process, around a command that it starts, for places without sidecars.
//!
//! ```text
//! fetch ─> command ─────────────> exit 0:    stage ends ─> commit
//!          stage (child process)  otherwise: discard ─> stage ends ─> discard, for what it staged meanwhile
//! ```
//!
//! The command's exit code is this process's, unless the results of a command that succeeded could not be delivered.
//!
//! A process that is started again after its command has ended, with the state folder that it had, does not run it again: it goes on
//! with the delivery.

use std::ffi::OsString;
use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::Signals;

use crate::progress::say;
use crate::receipt::{EXIT_OK, Ended, Outcome, Receipt, Role, Verdict, reason};

use super::commit::Order;
use super::{Context, Fault, commit, discard, fetch};

/// What the command is told when this process is.
const FORWARDED: [(i32, Signal); 6] = [
    (SIGTERM, Signal::TERM),
    (SIGINT, Signal::INT),
    (SIGHUP, Signal::HUP),
    (SIGQUIT, Signal::QUIT),
    (SIGUSR1, Signal::USR1),
    (SIGUSR2, Signal::USR2),
];
/// The shell's words for a command that cannot be started, and for one that is not there.
const CANNOT_RUN: i32 = 126;
const NOT_FOUND: i32 = 127;
/// The shell's word for "ended by a signal" is this and its number.
const SIGNALLED: i32 = 128;
/// How long to wait for the seal, which is written when the stage has ended.
const SEAL: Duration = Duration::from_secs(30);

/// Fetches, runs, delivers. Returns the receipt of the last role, and the exit code.
pub fn run(context: &Context, command: &[OsString]) -> (Receipt, i32) {
    let mut signals = match listen() {
        Ok(signals) => signals,
        Err(fault) => return with_its_code(answer(context, Role::Fetch, Err(fault))),
    };
    // Until the command runs there is nothing to be told to but this process.
    let alone = signals.1;
    if let Some(code) = ended_before(context) {
        alone.store(false, Ordering::SeqCst);
        say(&format!("the command has ended before this process began: exit code {code}; it is not run again"));
        return deliver_again(context, code, &mut signals.0);
    }
    let fetched = answer(context, Role::Fetch, fetch::run(context));
    alone.store(false, Ordering::SeqCst);
    match fetched.outcome {
        Outcome::AlreadyCommitted => return (fetched, EXIT_OK),
        Outcome::Failed | Outcome::Revoked => return with_its_code(fetched),
        _ => {}
    }
    let stage = match Stage::start(context, false) {
        Ok(stage) => stage,
        Err(fault) => return with_its_code(answer(context, Role::Stage, Err(fault))),
    };
    let code = main(command, &mut signals.0);
    note_end(context, code);
    say(&format!("the command has ended: exit code {code}"));
    if code == 0 {
        return commit_sealed(context, stage.end(context, &mut signals.0));
    }
    // First: nothing of it can be delivered then, and the stage need not upload what is left.
    drop(answer(context, Role::Discard, discard::run(context, false, false)));
    stage.end(context, &mut signals.0);
    (answer(context, Role::Discard, discard::run(context, false, false)), code)
}

/// Commits the results of a command that succeeded.
fn succeeded(context: &Context, wait: Duration) -> Result<Receipt, Fault> {
    let verdict = Verdict { attempt: context.spec.attempt, outcome: Ended::Succeeded, exit_code: Some(0) };
    commit::run(context, &Order { verdict, log: None, wait })
}

/// The same, once the stage has sealed them; else the stage's own answer is this process's.
fn commit_sealed(context: &Context, staged: Receipt) -> (Receipt, i32) {
    let sealed = matches!(staged.outcome, Outcome::Sealed | Outcome::Done);
    with_its_code(if sealed { answer(context, Role::Commit, succeeded(context, SEAL)) } else { staged })
}

/// A role's receipt, told as the role itself would tell it.
fn answer(context: &Context, role: Role, result: Result<Receipt, Fault>) -> Receipt {
    context.finished(result.unwrap_or_else(|fault| fault.receipt(role)))
}

/// The delivery of a process that died in it.
fn deliver_again(context: &Context, code: i32, signals: &mut Signals) -> (Receipt, i32) {
    if code != 0 {
        return (answer(context, Role::Discard, discard::run(context, false, false)), code);
    }
    // It may have been sealed, or even begun to commit: then the stage has nothing more to say.
    match succeeded(context, Duration::ZERO) {
        Err(fault) if fault.reason == reason::NOT_SEALED => {}
        done => return with_its_code(answer(context, Role::Commit, done)),
    }
    match Stage::start(context, true) {
        Ok(stage) => commit_sealed(context, stage.wait(signals)),
        Err(fault) => with_its_code(answer(context, Role::Stage, Err(fault))),
    }
}

/// Where it is noted how the command of this very attempt ended.
fn end_file(context: &Context) -> PathBuf {
    context.state.join(format!("command-{}-{}.ended", context.spec.attempt, context.pod_uid))
}

/// A process that dies in the delivery need not run the command again; if this cannot be noted, it will.
fn note_end(context: &Context, code: i32) {
    let place = end_file(context);
    let whole = place.with_extension("new");
    let written = fs::write(&whole, code.to_string()).and_then(|()| fs::rename(&whole, &place));
    if let Err(e) = written {
        say(&format!("{}: {e}", place.display()));
    }
}

fn ended_before(context: &Context) -> Option<i32> {
    fs::read_to_string(end_file(context)).ok()?.parse().ok()
}

fn with_its_code(receipt: Receipt) -> (Receipt, i32) {
    let code = receipt.exit_code();
    (receipt, code)
}

/// Signals from now on, and whether SIGTERM and SIGINT still end this process.
fn listen() -> Result<(Signals, Arc<AtomicBool>), Fault> {
    let failed = |e: std::io::Error| Fault::passing(reason::INTERNAL, format!("signals: {e}"));
    let alone = Arc::new(AtomicBool::new(true));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register_conditional_shutdown(signal, SIGNALLED + signal, alone.clone()).map_err(failed)?;
    }
    let signals = Signals::new(FORWARDED.iter().map(|(number, _)| *number).chain([SIGCHLD])).map_err(failed)?;
    Ok((signals, alone))
}

/// Runs the command to its end.
fn main(command: &[OsString], signals: &mut Signals) -> i32 {
    let Some((program, arguments)) = command.split_first() else { return NOT_FOUND };
    // In a group of its own: what a terminal sends to ours reaches it once, from here.
    let mut child = match Command::new(program).args(arguments).process_group(0).spawn() {
        Ok(child) => child,
        Err(e) => {
            say(&format!("{}: {e}", program.to_string_lossy()));
            return if e.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
        }
    };
    match wait(&mut child, signals) {
        Ok(status) => status.code().unwrap_or_else(|| SIGNALLED + status.signal().unwrap_or(0)),
        Err(e) => {
            say(&format!("waiting for the command: {e}"));
            CANNOT_RUN
        }
    }
}

/// Waits for a child and passes signals on to it meanwhile.
fn wait(child: &mut Child, signals: &mut Signals) -> std::io::Result<ExitStatus> {
    loop {
        // Before waiting: it may have ended before its signal was looked for.
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        for number in signals.wait() {
            if let Some((_, signal)) = FORWARDED.iter().find(|(known, _)| *known == number) {
                // Not yet waited for, so its number is nobody else's.
                tell(child, *signal);
            }
        }
    }
}

fn tell(child: &Child, signal: Signal) {
    if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, signal);
    }
}

/// The sidecar, as a child.
struct Stage {
    child: Child,
    receipt: PathBuf,
}

impl Stage {
    fn start(context: &Context, ending: bool) -> Result<Stage, Fault> {
        let failed = |e: std::io::Error| Fault::passing(reason::INTERNAL, format!("starting the stage: {e}"));
        fs::create_dir_all(&context.state).map_err(|e| Fault::disk(&context.state.display().to_string(), &e))?;
        let receipt = context.state.join("stage.receipt");
        let _ = fs::remove_file(&receipt);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg("stage").arg("--termination-log").arg(&receipt).args(ending.then_some("--ending"));
        // What a terminal sends is for the command: the stage is told when that has ended.
        let child = command.stdout(std::process::Stdio::null()).process_group(0).spawn().map_err(failed)?;
        Ok(Stage { child, receipt })
    }

    /// Has it end, and answers with its receipt.
    fn end(mut self, context: &Context, signals: &mut Signals) -> Receipt {
        tell(&self.child, Signal::TERM);
        let ended = wait(&mut self.child, signals);
        // The command was over before the stage listened to signals.
        if ended.as_ref().is_ok_and(|status| status.signal() == Some(SIGTERM)) {
            return match Stage::start(context, true) {
                Ok(again) => again.wait(signals),
                Err(fault) => fault.receipt(Role::Stage),
            };
        }
        self.said(&ended)
    }

    /// Waits for one that ends by itself.
    fn wait(mut self, signals: &mut Signals) -> Receipt {
        let ended = wait(&mut self.child, signals);
        self.said(&ended)
    }

    fn said(&self, ended: &std::io::Result<ExitStatus>) -> Receipt {
        let said = fs::read_to_string(&self.receipt).ok().and_then(|text| Receipt::parse(&text).ok());
        said.unwrap_or_else(|| Fault::passing(reason::INTERNAL, format!("the stage left no receipt: {ended:?}")).receipt(Role::Stage))
    }
}
