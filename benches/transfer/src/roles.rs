//! Our own roles, as a pod runs them: `fetch` for downloads, `stage` and `commit` for uploads.

use crate::peers::{Place, measured};
use crate::shape::Way;
use crate::table::Used;
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

fn program() -> Result<PathBuf> {
    let beside = std::env::current_exe()?.with_file_name("gpujob-transfer");
    if !beside.exists() {
        bail!("{} is missing: run `cargo build -p gpujob-transfer` first", beside.display());
    }
    Ok(beside)
}

/// Moves the shape once. For uploads also what the commit took.
pub(crate) fn run(place: &Place, way: Way, source: &Path, round: usize) -> Result<(Used, Option<Used>)> {
    let down = place.folder.join("down");
    let inputs = if way == Way::Down { json!([{"from": "s3://bench/in/", "path": down}]) } else { json!([]) };
    let results = if way == Way::Up { json!({"path": source, "to": "s3://bench/out/", "onExisting": "Overwrite"}) } else { json!(null) };
    let spec = json!({"job": {"uid": "bench", "namespace": "n", "name": "bench"}, "attempt": 1, "inputs": inputs, "results": results});
    let state = place.folder.join(format!("state{round}"));
    let command = |arguments: &[&str]| -> Result<Command> {
        let mut command = Command::new(program()?);
        place.environment(&mut command);
        command.args(arguments).env("GPUJOB_TRANSFER", spec.to_string()).env("GPUJOB_POD_UID", format!("pod-{round}"));
        command.env("GPUJOB_STATE_DIR", &state).env("GPUJOB_POD_DIR", &state).env("GPUJOB_REST_MS", "0");
        command.env("GPUJOB_TERMINATION_LOG", place.folder.join("termination")).stdout(Stdio::null());
        command.stderr(File::create(place.log())?);
        Ok(command)
    };
    let done = if way == Way::Down {
        (measured(command(&["fetch"])?, &place.log())?, None)
    } else {
        measured(command(&["fetch"])?, &place.log())?;
        let staged = stage(command(&["stage"])?, place)?;
        let commit = measured(command(&["commit", "--outcome", "Succeeded", "--exit-code", "0"])?, &place.log())?;
        (staged, Some(commit))
    };
    let _ = fs::remove_dir_all(&down);
    let _ = fs::remove_dir_all(&state);
    Ok(done)
}

/// The sidecar, from the SIGTERM that tells it that main has ended.
fn stage(mut command: Command, place: &Place) -> Result<Used> {
    let mut child = command.spawn()?;
    let since = Instant::now();
    while !fs::read_to_string(place.log()).unwrap_or_default().contains("will be staged") {
        if since.elapsed() > Duration::from_secs(20) || child.try_wait()?.is_some() {
            bail!("the sidecar did not start: {}", fs::read_to_string(place.log())?);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    kill_process(Pid::from_child(&child), Signal::TERM).context("SIGTERM")?;
    crate::peers::wait(child, &place.log())
}
