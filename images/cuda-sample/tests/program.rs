//! The program as a job sees it: exit codes, lines, files, signals.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};

const DATA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data");

fn program(results: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cuda-sample"));
    command.args(["--input", DATA, "--device", "cpu"]).arg("--results").arg(results);
    command
}

fn text(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn without_a_gpu_it_says_so_and_trains_on_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(folder.path()).args(["--device", "auto", "--epochs", "2"]).output().unwrap();
    let (stdout, stderr) = text(&output);
    assert!(output.status.success(), "{stderr}");
    // A static build, as tests are, never asks the driver, so this holds on a machine with a GPU too.
    if cfg!(target_feature = "crt-static") {
        let line = "no CUDA device answered (this is a static build, which cannot load libcuda.so.1): training on the CPU";
        assert!(stdout.lines().any(|said| said == line), "{stdout}");
    }
    for name in ["model.bin", "metrics.json", "confusion-matrix.png"] {
        assert!(fs::metadata(folder.path().join(name)).unwrap().len() > 0, "{name}");
    }
}

#[test]
fn what_is_missing_is_named_and_the_exit_code_tells() {
    let folder = tempfile::tempdir().unwrap();
    let output = program(folder.path()).args(["--input", "/nowhere"]).output().unwrap();
    let (_, stderr) = text(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr.starts_with("error: no digits in /nowhere: expected digits.csv"), "{stderr}");

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let output = program(&file).args(["--epochs", "1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).1.starts_with("error: cannot write results to "), "{:?}", text(&output));

    let output = program(folder.path()).args(["--epochs", "none"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn sigterm_leaves_a_checkpoint_from_which_the_next_run_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let run = |results: &str, checkpoints: Option<&Path>, epochs: &str| {
        let mut command = program(&folder.path().join(results));
        command.args(["--epochs", epochs, "--checkpoint-every", "1000000"]);
        if let Some(checkpoints) = checkpoints {
            command.arg("--checkpoints").arg(checkpoints);
        }
        command.stdout(Stdio::piped());
        command
    };
    let checkpoints = folder.path().join("checkpoints");
    let mut child = run("stopped", Some(&checkpoints), "1000000").spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.starts_with("epoch   3/")).unwrap();
    // SAFETY: a signal to a child that has not been waited for.
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    let last = lines.last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(last.starts_with("stopped by signal 15 after epoch "), "{last}");
    assert!(!folder.path().join("stopped").exists());

    let done: u32 = last.split("epoch ").nth(1).unwrap().split(':').next().unwrap().parse().unwrap();
    let epochs = (done + 5).to_string();
    let resumed = run("resumed", Some(&checkpoints), &epochs).output().unwrap();
    assert!(text(&resumed).0.contains(&format!("resuming after epoch {done} from its checkpoint")));
    assert!(run("whole", None, &epochs).output().unwrap().status.success());
    let model = |results: &str| fs::read(folder.path().join(results).join("model.bin")).unwrap();
    assert_eq!(model("resumed"), model("whole"));
}
