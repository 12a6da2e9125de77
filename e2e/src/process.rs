//! Processes that outlive the command that started them, and that are ended only if they are surely ours.
//!
//! A pid alone proves nothing after a crash: the kernel gives it to somebody else. So a pid file also holds the
//! process's start time, and everything we start carries a mark in its environment that `down` can look for.

use crate::host::Paths;
use anyhow::{Context, Result};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The variable that marks every process of the lab. It is never part of `cargo lab env`.
pub const MARK: &str = "GPUJOB_LAB_PROCESS";

/// What a killed process may take to be gone. Its memory is given back first, 0.2 s for 3 GB, and all that time it is in /proc
/// without an environment: alive, but known by its pid alone.
const DYING: Duration = Duration::from_secs(10);

/// A process that should run has ended.
#[derive(Debug, thiserror::Error)]
#[error("{name} has ended:\n{last_words}")]
pub struct Ended {
    name: String,
    last_words: String,
}

/// A process started earlier, perhaps by another command.
#[derive(Debug, Clone)]
pub struct Daemon {
    pid_file: PathBuf,
    log: PathBuf,
}

impl Daemon {
    /// A server of the lab, by name.
    pub fn server(paths: &Paths, name: &str) -> Self {
        let (run, log) = (paths.state.join("run"), paths.state.join("log"));
        Self { pid_file: run.join(format!("{name}.pid")), log: log.join(format!("{name}.log")) }
    }

    /// A process with its pid file and log in a folder of its own.
    pub fn within(folder: &Path, name: &str) -> Self {
        Self { pid_file: folder.join(format!("{name}.pid")), log: folder.join(format!("log/{name}.log")) }
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Starts it in a session of its own, so that no Ctrl-C and no hang-up of ours reaches it.
    ///
    /// # Errors
    /// A file could not be made or the program could not be started.
    pub fn start(&self, command: &Command) -> Result<u32> {
        for file in [&self.pid_file, &self.log] {
            fs::create_dir_all(file.parent().unwrap_or(Path::new("/")))?;
        }
        let log = File::options().create(true).append(true).open(&self.log)?;
        // `setsid` replaces itself by the program here (a child is no group leader), so its pid is the program's.
        let mut detached = Command::new("setsid");
        detached.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => detached.env(name, value),
                None => detached.env_remove(name),
            };
        }
        if let Some(folder) = command.get_current_dir() {
            detached.current_dir(folder);
        }
        detached.env(MARK, "1").stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let shown = command.get_program().to_string_lossy().into_owned();
        let child = detached.spawn().with_context(|| format!("could not start {shown}"))?;
        self.record(child.id())?;
        Ok(child.id())
    }

    /// Notes a process that was started otherwise.
    ///
    /// # Errors
    /// The pid file cannot be written.
    pub fn record(&self, pid: u32) -> Result<()> {
        let started = Stat::of(pid).map_or(0, |stat| stat.started);
        fs::write(&self.pid_file, format!("{pid} {started}\n")).with_context(|| format!("{}", self.pid_file.display()))
    }

    /// Its pid, if that very process still runs.
    pub fn pid(&self) -> Option<u32> {
        let text = fs::read_to_string(&self.pid_file).ok()?;
        let (pid, started) = text.trim().split_once(' ')?;
        let (pid, started): (u32, u64) = (pid.parse().ok()?, started.parse().ok()?);
        let stat = Stat::of(pid)?;
        (stat.alive && stat.started == started).then_some(pid)
    }

    /// Whether it was started, nobody stopped it, and it is gone: it crashed, or the machine did.
    pub(crate) fn was_lost(&self) -> bool {
        self.pid_file.exists() && self.pid().is_none()
    }

    /// Asks it and its group to end, waits for `grace`, then kills them. Does nothing when it is gone already.
    pub async fn stop(&self, grace: Duration) {
        if let Some(pid) = self.pid() {
            signal_group(pid, libc::SIGTERM);
            let asked = Instant::now();
            while self.pid().is_some() && asked.elapsed() < grace {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            if self.pid().is_some() {
                signal_group(pid, libc::SIGKILL);
                // Until it is gone it has its ports and files still: whoever starts the next one would be refused.
                let killed = Instant::now();
                while self.pid().is_some() && killed.elapsed() < DYING {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        }
        let _ = fs::remove_file(&self.pid_file);
    }

    /// Whether it still runs.
    ///
    /// # Errors
    /// [`Ended`], with the end of its log: waiting longer makes no sense.
    pub fn living(&self) -> Result<(), Ended> {
        if self.pid().is_some() {
            return Ok(());
        }
        let log = fs::read(&self.log).unwrap_or_default();
        let name = self.log.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Err(Ended { name, last_words: crate::command::tail(&String::from_utf8_lossy(&log), 15) })
    }
}

/// Sends a signal to a process group; whoever is gone is no error.
fn signal_group(leader: u32, signal: i32) {
    if let Ok(leader) = i32::try_from(leader) {
        // SAFETY: kill has no memory effects; the leader was checked to be ours by its start time.
        unsafe { libc::kill(-leader, signal) };
    }
}

/// Kills one process at once.
pub fn kill(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        // SAFETY: kill has no memory effects; callers checked whose process it is.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
}

/// Kills every process of [`marked`], and returns when all of them are gone: a kill returns before.
pub async fn kill_marked() {
    let started = Instant::now();
    let mut killed: Vec<(u32, u64)> = vec![];
    while started.elapsed() < DYING {
        let rest = marked();
        killed.extend(rest.iter().filter_map(|pid| Some((*pid, Stat::of(*pid)?.started))));
        rest.iter().copied().for_each(kill);
        // Not by the mark: it is the first that a dying process loses.
        killed.retain(|(pid, started)| Stat::of(*pid).is_some_and(|stat| stat.alive && stat.started == *started));
        if rest.is_empty() && killed.is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Every living process that carries the lab's mark, but for this one and those it descends from.
pub fn marked() -> Vec<u32> {
    let mut ancestors = vec![];
    let mut next = Some(std::process::id());
    while let Some(pid) = next {
        ancestors.push(pid);
        next = Stat::of(pid).map(|stat| stat.parent).filter(|parent| *parent > 1);
    }
    let mark = format!("{MARK}=1");
    let Ok(entries) = fs::read_dir("/proc") else { return vec![] };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| !ancestors.contains(pid))
        .filter(|pid| Stat::of(*pid).is_some_and(|stat| stat.alive))
        .filter(|pid| environment(*pid).split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes()))
        .collect()
}

/// What /proc shows of a process's environment. In the midst of an exec that is nothing for a moment: looked at again, or a
/// process of ours could be missed. Kernel threads never have one, nor an executable.
fn environment(pid: u32) -> Vec<u8> {
    for _ in 0..20 {
        let found = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        if !found.is_empty() || fs::read_link(format!("/proc/{pid}/exe")).is_err() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    vec![]
}

/// What /proc says of a process.
struct Stat {
    alive: bool,
    parent: u32,
    started: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The program's name may hold spaces and brackets, so fields are counted from the last bracket.
    fn parse(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.rsplit_once(") ")?.1.split_whitespace().collect();
        Some(Self {
            alive: !matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_daemon_is_known_again_and_ended() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::within(folder.path(), "sleeper");
        let mut command = Command::new("sleep");
        command.arg("60");
        let pid = daemon.start(&command)?;
        let again = Daemon::within(folder.path(), "sleeper");
        assert_eq!(again.pid(), Some(pid));
        assert!(marked().contains(&pid));
        again.stop(Duration::from_secs(5)).await;
        assert_eq!(again.pid(), None);
        Ok(())
    }

    #[tokio::test]
    async fn a_stopped_daemon_is_gone_with_its_memory() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::within(folder.path(), "large");
        // It ignores the asking, and its 200 MB take tens of milliseconds to give back.
        let mut command = Command::new("sh");
        command.args(["-c", "trap '' TERM; data=$(head -c 200000000 /dev/zero | tr '\\0' x); echo held > held; sleep 60"]);
        command.current_dir(folder.path());
        let pid = daemon.start(&command)?;
        crate::progress::until("its memory", Duration::from_secs(60), || async {
            anyhow::ensure!(folder.path().join("held").exists(), "not yet");
            Ok(())
        })
        .await?;
        daemon.stop(Duration::ZERO).await;
        assert!(Stat::of(pid).is_none_or(|stat| !stat.alive));
        Ok(())
    }

    #[test]
    fn another_process_with_the_same_pid_is_not_ours() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let daemon = Daemon::within(folder.path(), "other");
        fs::write(folder.path().join("other.pid"), format!("{} 1\n", std::process::id()))?;
        assert_eq!(daemon.pid(), None);
        Ok(())
    }

    #[test]
    fn names_with_brackets_do_not_confuse() -> Result<()> {
        let text = "7 (a) b) S 1 7 7 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0";
        let stat = Stat::parse(text).context("it parses")?;
        assert!(stat.alive && stat.parent == 1 && stat.started == 4242);
        Ok(())
    }
}
