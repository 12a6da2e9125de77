//! `gpujob-transfer`: see `--help`.

#![allow(clippy::disallowed_methods)] // transfers are timed and backed off in real time
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::{Parser, Subcommand, ValueEnum};
use gpujob_transfer::progress::say;
use gpujob_transfer::receipt::{Ended, Receipt, Role, Verdict};
use gpujob_transfer::role::{self, Context, Fault, check, commit, discard, fetch, resolve, stage, supervise, wrap};
use gpujob_transfer::spec::{CONTAINERS_ENV, TERMINATION_LOG};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Moves a GpuJob's data: inputs in before its program starts, results out after it has ended, committed exactly once.
///
/// What to do is read from the environment: GPUJOB_TRANSFER (JSON: job, attempt, inputs, results), GPUJOB_POD_UID, and
/// the SDKs' own names: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION, AWS_ENDPOINT_URL_S3.
/// The answer is one line of JSON, a receipt, on standard output and in the termination message.
///
/// Exit codes: 0 done; 93 the results were committed before; 2 a failure that another try cannot mend; 1 a failure that
/// may pass; 143 told to end.
#[derive(Parser)]
#[command(name = "gpujob-transfer", version)]
struct Arguments {
    /// Where the termination message goes.
    #[arg(long, global = true, env = "GPUJOB_TERMINATION_LOG", default_value = TERMINATION_LOG)]
    termination_log: PathBuf,
    #[command(subcommand)]
    role: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Look whether inputs, destination and store will do, before anything is bought; claims nothing, leaves nothing
    Check {
        /// Days that the job may take with its waiting: warn of bucket rules that abort uploads earlier
        #[arg(long, default_value_t = 7)]
        days: u32,
    },
    /// Claim the destination and download the inputs (init container)
    Fetch,
    /// Wait for SIGTERM, then upload the results out of sight and seal them (sidecar, PID 1)
    Stage {
        /// SIGTERM came before this process was started
        #[arg(long, hide = true)]
        ending: bool,
    },
    /// The worker that `stage` keeps alive
    #[command(hide = true)]
    StageWorker {
        /// SIGTERM came before this worker was started
        #[arg(long)]
        ending: bool,
    },
    /// Wait until the results are sealed, then make them visible, manifest last
    Commit {
        /// How the attempt's program ended
        #[arg(long)]
        outcome: Outcome,
        /// Main's exit code
        #[arg(long, allow_negative_numbers = true)]
        exit_code: Option<i32>,
        /// Main's log, to be kept as .gpujob/logs/<index>-<attempt>.log
        #[arg(long)]
        log: Option<PathBuf>,
        /// Seconds to wait for the seal
        #[arg(long, default_value_t = 3600)]
        wait: u64,
    },
    /// Throw the attempt's staged results away; it can never commit then
    Discard {
        /// Give up the destination as well, so that any job may claim it
        #[arg(long)]
        release: bool,
        /// Remove the job's checkpoints
        #[arg(long)]
        forget: bool,
    },
    /// Say what became of the job's results: committed, rolled forward, or free
    Resolve,
    /// All in one, for places without sidecars: fetch, run the command, then stage and commit if it exits with 0, else discard
    ///
    /// Signals are passed on to the command, and its exit code is kept; when its results cannot be delivered, the exit code says that.
    Run {
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
}

/// The shell's word for "ended by SIGTERM".
const EXIT_TOLD: i32 = 143;

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "PascalCase")]
enum Outcome {
    Succeeded,
    Failed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = &arguments.termination_log;
    if !matches!(arguments.role, Command::Stage { .. } | Command::StageWorker { .. } | Command::Run { .. }) {
        end_when_told();
    }
    let code = match &arguments.role {
        Command::Check { days } => answer(log, Role::Check, |context| check::run(context, *days)),
        Command::Fetch => answer(log, Role::Fetch, fetch::run),
        Command::Stage { ending } => match supervise::run(&["stage-worker".into(), "--termination-log".into(), path(log)], *ending) {
            // The worker has left its own receipt.
            Ok(code) => code,
            Err(fault) => write(log, supervise::ROLE, &fault.receipt(supervise::ROLE)),
        },
        Command::StageWorker { ending } => answer(log, Role::Stage, |context| stage::run(context, *ending)),
        Command::Commit { outcome, exit_code, log: kept, wait } => answer(log, Role::Commit, |context| {
            let outcome = match outcome {
                Outcome::Succeeded => Ended::Succeeded,
                Outcome::Failed => Ended::Failed,
            };
            let verdict = Verdict { attempt: context.spec.attempt, outcome, exit_code: *exit_code };
            commit::run(context, &commit::Order { verdict, log: kept.as_deref(), wait: Duration::from_secs(*wait) })
        }),
        Command::Discard { release, forget } => answer(log, Role::Discard, |context| discard::run(context, *release, *forget)),
        Command::Resolve => answer(log, Role::Resolve, resolve::run),
        Command::Run { command } => match Context::from_env() {
            Ok(context) => {
                let (receipt, code) = wrap::run(&context, command);
                leave(log, &receipt.encode(1));
                code
            }
            Err(fault) => write(log, Role::Fetch, &fault.receipt(Role::Fetch)),
        },
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

/// PID 1 ignores a signal without a handler: a deleted pod would stay for its whole grace period.
fn end_when_told() {
    for signal in [SIGTERM, SIGINT] {
        let always = Arc::new(AtomicBool::new(true));
        if let Err(e) = signal_hook::flag::register_conditional_shutdown(signal, EXIT_TOLD, always) {
            say(&format!("signals: {e}; SIGTERM is left as it is"));
        }
    }
}

fn path(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn answer(log: &Path, role: Role, run: impl FnOnce(&Context) -> Result<Receipt, Fault>) -> i32 {
    let receipt = match Context::from_env() {
        Ok(context) => role::receipt(role, &context, run),
        Err(fault) => fault.receipt(role),
    };
    write(log, role, &receipt)
}

/// Leaves the receipt where the kubelet looks for it, and on standard output for a reader of logs.
fn write(log: &Path, role: Role, receipt: &Receipt) -> i32 {
    // Init containers and sidecars share a pod with others; commit, discard and resolve are alone in theirs.
    let usual = if matches!(role, Role::Fetch | Role::Stage) { 4 } else { 1 };
    let containers = std::env::var(CONTAINERS_ENV).ok().and_then(|n| n.parse().ok()).unwrap_or(usual);
    let text = receipt.encode(containers);
    leave(log, &text);
    let _ = writeln!(std::io::stdout(), "{text}");
    receipt.exit_code()
}

fn leave(log: &Path, receipt: &str) {
    if let Err(e) = std::fs::write(log, receipt) {
        say(&format!("{}: {e}; the receipt is only in this log: {receipt}", log.display()));
    }
}
