//! What one container does, from its start to its exit code.

use super::super::script::{OnSigterm, PROGRAMS, Program};
use super::super::store::checkpoints::Checkpoints;
use super::super::store::role::Process;
use super::life::{Life, Orders};
use crate::signal::Receiver;
use gpujob_crds::names;
use gpujob_operator::job::facts::{FETCH, STAGE};
use gpujob_operator::job::pod::storage::CONTAINER as STORAGE;
use gpujob_transfer::receipt::{Ended, Receipt, Role, Verdict};
use gpujob_transfer::spec::{CONTAINERS_ENV, POD_UID_ENV, SPEC_ENV, TransferSpec};
use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The shell's word for "ended by SIGTERM".
const TOLD: i32 = 143;
/// How long a commit waits for the seal when nothing else is said.
const WAIT: u64 = 3600;

/// Files that a pod's containers share: the results folder.
pub(super) type Volume = Arc<Mutex<BTreeMap<String, Vec<u8>>>>;

/// A container's exit: code and termination message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exit {
    pub(super) code: i32,
    pub(super) message: String,
}

/// What runs in a container.
pub(super) enum Work {
    /// The user's program; what it signs its results with.
    Program { program: Program, signature: String, volume: Volume, checkpoints: Option<Checkpoints>, orders: Receiver<Orders> },
    /// A sidecar of the user's: waits for its end.
    Sidecar,
    /// An init container of the user's: ends at once.
    Init,
    /// gpujob-transfer. The number of containers bounds its message.
    Transfer { process: Box<Process>, task: Task, containers: usize, volume: Volume },
    /// gpujob-transfer with a specification that cannot be read.
    Unreadable(Role),
}

/// What gpujob-transfer is asked to do.
pub(super) enum Task {
    Check(Duration),
    Fetch(Duration),
    Stage(Duration),
    Commit(Verdict, Duration),
    /// Whether the destination is given back too.
    Discard(bool),
    Resolve,
}

impl Work {
    /// What this container of this pod does.
    pub(super) fn of(life: &Life, container: &Container, init: bool) -> Self {
        let (world, pod, volume) = (&life.world, &life.pod, &life.volume);
        let args: Vec<&str> = container.args.iter().flatten().map(String::as_str).collect();
        let role = match container.name.as_str() {
            FETCH => Role::Fetch,
            STAGE => Role::Stage,
            STORAGE if args.first() == Some(&"check") => Role::Check,
            STORAGE if args.first() == Some(&"commit") => Role::Commit,
            STORAGE if args.first() == Some(&"discard") => Role::Discard,
            STORAGE => Role::Resolve,
            _ if init && container.restart_policy.as_deref() == Some("Always") => return Work::Sidecar,
            _ if init => return Work::Init,
            _ => return program(life),
        };
        let env = |name: &str| container.env.iter().flatten().find(|e| e.name == name);
        let spec = env(SPEC_ENV).and_then(|e| e.value.as_deref()).and_then(|text| serde_json::from_str::<TransferSpec>(text).ok());
        let Some(spec) = spec else { return Work::Unreadable(role) };
        let own = pod.uid().unwrap_or_default();
        let usual = if matches!(role, Role::Fetch | Role::Stage) { 4 } else { 1 };
        let attempt = spec.attempt;
        let task = match role {
            Role::Check => Task::Check(world.script.check),
            Role::Fetch => Task::Fetch(world.script.fetch),
            Role::Stage => Task::Stage(world.script.stage),
            Role::Commit => commit(&args, attempt),
            Role::Discard => Task::Discard(args.contains(&"--release")),
            Role::Resolve => Task::Resolve,
        };
        Work::Transfer {
            process: Box::new(Process {
                spec,
                pod_uid: env(POD_UID_ENV).and_then(|e| e.value.clone()).unwrap_or_else(|| own.clone()),
                nonce: format!("{own}-{}", container.name),
                publish: world.script.publish,
                store: world.store.clone(),
            }),
            task,
            containers: env(CONTAINERS_ENV).and_then(|e| e.value.as_deref()).and_then(|n| n.parse().ok()).unwrap_or(usual),
            volume: volume.clone(),
        }
    }

    /// Runs to its exit; `term` is SIGTERM.
    pub(super) async fn run(self, term: CancellationToken) -> Exit {
        match self {
            Work::Program { program, signature, volume, checkpoints, orders } => {
                let code = match checkpoints {
                    Some(checkpoints) => checkpoints.around(program, &term, orders).await,
                    None => run_program(program, &term).await,
                };
                let text = format!("{signature} exit {code}\n");
                volume.lock().expect("no panic holds this lock").insert("result.txt".into(), text.into_bytes());
                Exit { code, message: if code == 0 { String::new() } else { format!("the program says {code}\n") } }
            }
            Work::Sidecar => {
                term.cancelled().await;
                Exit { code: 0, message: String::new() }
            }
            Work::Init => Exit { code: 0, message: String::new() },
            Work::Unreadable(role) => {
                let receipt = Receipt::new(role, gpujob_transfer::receipt::Outcome::Failed, "GPUJOB_TRANSFER cannot be read");
                Exit { code: receipt.exit_code(), message: receipt.encode(1) }
            }
            Work::Transfer { process, task, containers, volume } => transfer(*process, task, containers, &volume, &term).await,
        }
    }
}

pub(in crate::world) async fn run_program(program: Program, term: &CancellationToken) -> i32 {
    let natural = tokio::time::sleep(Duration::from_secs(program.runs_for));
    tokio::pin!(natural);
    tokio::select! {
        biased;
        () = &mut natural => return program.exit_code,
        () = term.cancelled() => {}
    }
    let code = match program.on_sigterm {
        OnSigterm::Ignore => {
            natural.await;
            return program.exit_code;
        }
        OnSigterm::ExitZero => 0,
        OnSigterm::ExitCode(code) => code,
    };
    tokio::select! {
        biased;
        () = natural => program.exit_code,
        () = tokio::time::sleep(Duration::from_secs(1)) => code,
    }
}

async fn transfer(process: Process, task: Task, containers: usize, volume: &Volume, term: &CancellationToken) -> Exit {
    let receipt = match task {
        Task::Stage(takes) => {
            term.cancelled().await;
            let files = volume.lock().expect("no panic holds this lock").clone();
            process.stage(files, takes).await
        }
        other => {
            let answer = async move {
                match other {
                    Task::Check(takes) => process.check(takes).await,
                    Task::Fetch(inputs) => process.fetch(inputs).await,
                    Task::Commit(verdict, wait) => process.commit(verdict, wait).await,
                    Task::Discard(release) => process.discard(release).await,
                    Task::Resolve | Task::Stage(_) => process.resolve().await,
                }
            };
            tokio::select! {
                biased;
                receipt = answer => receipt,
                () = term.cancelled() => return Exit { code: TOLD, message: String::new() },
            }
        }
    };
    Exit { code: receipt.exit_code(), message: receipt.encode(containers) }
}

/// `commit --outcome Succeeded --exit-code=0 --wait=3600 --log ...`
fn commit(args: &[&str], attempt: u32) -> Task {
    let value = |name: &str| {
        let inline = args.iter().find_map(|a| a.strip_prefix(name).and_then(|rest| rest.strip_prefix('=')));
        inline.or_else(|| args.iter().position(|a| *a == name).and_then(|i| args.get(i + 1).copied()))
    };
    let outcome = if value("--outcome") == Some("Succeeded") { Ended::Succeeded } else { Ended::Failed };
    let exit_code = value("--exit-code").and_then(|c| c.parse().ok());
    let wait = value("--wait").and_then(|w| w.parse().ok()).unwrap_or(WAIT);
    Task::Commit(Verdict { attempt, outcome, exit_code }, Duration::from_secs(wait))
}

fn program(life: &Life) -> Work {
    let (world, pod) = (&life.world, &life.pod);
    let label = |name: &str| pod.labels().get(name).cloned().unwrap_or_default();
    let (job, attempt) = (label(names::JOB), label(names::ATTEMPT));
    let written: Option<Vec<Program>> = pod.annotations().get(PROGRAMS).and_then(|text| serde_json::from_str(text).ok());
    let programs = written.or_else(|| world.script.programs.get(&job).cloned()).unwrap_or_default();
    let nth = attempt.parse::<usize>().unwrap_or(1).saturating_sub(1);
    let program = programs.get(nth).or(programs.last()).copied().unwrap_or(Program::ok(30));
    let uid = pod.uid().unwrap_or_default();
    let signature = format!("job {} attempt {attempt} pod {uid}", label(names::JOB_UID));
    let checkpoints = asked(pod).and_then(|spec| Checkpoints::of(&world.store, &spec, &uid));
    Work::Program { program, signature, volume: life.volume.clone(), checkpoints, orders: life.orders.clone() }
}

/// What the pod's own sidecar is asked to do.
fn asked(pod: &Pod) -> Option<TransferSpec> {
    let stage = pod.spec.as_ref()?.init_containers.iter().flatten().find(|c| c.name == STAGE)?;
    let text = stage.env.iter().flatten().find(|e| e.name == SPEC_ENV)?.value.as_deref()?;
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commits_order_is_read_as_clap_reads_it() {
        let args = ["commit", "--outcome", "Failed", "--exit-code=-7", "--wait=90", "--log", "/gpujob/log/main.log"];
        let Task::Commit(verdict, wait) = commit(&args, 3) else { panic!("a commit") };
        assert_eq!((verdict.attempt, verdict.outcome, verdict.exit_code), (3, Ended::Failed, Some(-7)));
        assert_eq!(wait, Duration::from_secs(90));
    }

    #[tokio::test(start_paused = true)]
    async fn sigterm_is_answered_as_the_script_says() {
        for (on_sigterm, code, after) in [(OnSigterm::ExitZero, 0, 11), (OnSigterm::ExitCode(9), 9, 11), (OnSigterm::Ignore, 5, 60)] {
            let start = tokio::time::Instant::now();
            let term = CancellationToken::new();
            let told = term.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_secs(10)).await;
                told.cancel();
            });
            assert_eq!(run_program(Program { runs_for: 60, exit_code: 5, on_sigterm }, &term).await, code);
            assert_eq!(start.elapsed().as_secs(), after, "{on_sigterm:?}");
        }
    }
}
