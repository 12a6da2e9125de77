//! The first process of an instance: what systemd, cloud-init and nodeadm are on AL2023, in this order.
//!
//! Mounts; containerd; shell parts of the user data, one after the other; then kubelet and proxy, late if a fault says so; a
//! little later the GPU plugin. What it does it also writes to the console, for EC2 to show. It reaps orphans, restarts services that end, and ends, and with it the instance, on SIGTERM.

use super::node_config::NodeConfig;
use super::user_data::{Part, parts};
use super::{Event, mounts, node};
use crate::host::Paths;
use crate::process::MARK;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Between the kubelet's start and the plugin's, as where a driver is loaded first: a node is Ready without its GPUs.
const GPU_DELAY: Duration = Duration::from_secs(1);
/// Where the kubelet takes device plugins' registrations.
const KUBELET_SOCKET: &str = "/var/lib/kubelet/device-plugins/kubelet.sock";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// `poweroff`, `halt`, `reboot` and `shutdown [-h] [now|+MINUTES]` inside: an instance launched for us terminates.
const SWITCH: &str = r#"#!/bin/sh
minutes=0
for word in "$@"; do
  case "$word" in
    -c) rm -f /run/shutdown-planned; exit 0 ;;
    now) minutes=0 ;;
    +*) minutes="${word#+}" ;;
  esac
done
[ "$(basename "$0")" = shutdown ] && [ $# -eq 0 ] && minutes=1
if [ "$minutes" -gt 0 ]; then
  touch /run/shutdown-planned
  (sleep $((minutes * 60)); [ -e /run/shutdown-planned ] && "$0" now) >/dev/null 2>&1 </dev/null &
  exit 0
fi
touch "SWITCHED_OFF"
kill -TERM 1
"#;

/// Runs an instance, as its first process. Returns only on an error; a good life ends with SIGTERM or SIGKILL.
///
/// # Errors
/// The instance could not be set up.
pub fn run(paths: &Paths, id: &str) -> Result<()> {
    let event = Event::of(paths, id)?;
    let folder = paths.instance(id);
    extern "C" fn power_off(_: libc::c_int) {
        // SAFETY: _exit is async-signal-safe, and ends the namespace's first process, so all of them.
        unsafe { libc::_exit(0) }
    }
    // SAFETY: the handler calls nothing but _exit.
    unsafe { libc::signal(libc::SIGTERM, power_off as *const () as libc::sighandler_t) };
    fs::write("/proc/sys/kernel/hostname", &event.private_dns)?;
    fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    mounts::make(&paths.state, &folder)?;
    let services = Services::new(folder.join("log"))?;
    let starter = services.clone();
    let paths = paths.clone();
    std::thread::spawn(move || {
        if let Err(error) = start(&paths, &event, &folder, &starter) {
            // As on a real instance: it runs on, joins nothing, and costs money.
            say(&format!("boot failed: {error:#}"));
        }
    });
    services.reap()
}

fn start(paths: &Paths, event: &Event, folder: &Path, services: &Services) -> Result<()> {
    services.start("containerd", node::containerd(folder)?)?;
    say("started containerd");
    let (mut configs, mut scripts) = (vec![], vec![]);
    for part in parts(&event.user_data)? {
        match part {
            Part::NodeConfig(text) => configs.push(text),
            Part::Script(text) => scripts.push(text),
            Part::Other(kind) => say(&format!("user data: a part of type {kind} is not for the lab")),
        }
    }
    run_scripts(folder, &scripts, services)?;
    if event.faults.no_join {
        say("fault: this instance does not join");
        return Ok(());
    }
    if event.faults.slow_boot_seconds > 0.0 {
        say(&format!("fault: the kubelet starts {} s later", event.faults.slow_boot_seconds));
        std::thread::sleep(Duration::from_secs_f64(event.faults.slow_boot_seconds));
    }
    let config = NodeConfig::merge(configs.iter().map(String::as_str))?;
    await_file(node::SOCKET);
    services.start("kubelet", node::kubelet(paths, event, &config)?)?;
    say("started kubelet");
    services.start("kube-proxy", node::proxy(paths, event))?;
    if event.gpus > 0 && !event.faults.no_gpu {
        // The kubelet empties this folder when it starts: the socket of a plugin that was there earlier is gone for good.
        await_file(KUBELET_SOCKET);
        std::thread::sleep(GPU_DELAY);
        services.start("gpu-device-plugin", node::gpu_plugin(paths, event))?;
    }
    Ok(())
}

/// Waits until a server has made its socket, for half a minute; who needs it then says best what is wrong.
fn await_file(place: &str) {
    let waiting = Instant::now();
    while !Path::new(place).exists() && waiting.elapsed() < Duration::from_secs(30) {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes a line for whoever looks at the instance from outside: its supervisor's log, and its console.
fn say(line: &str) {
    eprintln!("{line}");
    if let Ok(mut console) = File::options().append(true).open("/dev/console") {
        let _ = writeln!(console, "{line}");
    }
}

fn run_scripts(folder: &Path, scripts: &[String], services: &Services) -> Result<()> {
    let switches = folder.join("switches");
    fs::create_dir_all(&switches)?;
    let switch = SWITCH.replace("SWITCHED_OFF", &folder.join("switched-off").to_string_lossy());
    for name in ["poweroff", "halt", "reboot", "shutdown"] {
        write_program(&switches.join(name), &switch)?;
    }
    for (index, script) in scripts.iter().enumerate() {
        let file = folder.join(format!("user-data-{index}"));
        write_program(&file, script)?;
        let mut command = Command::new(&file);
        command.env("PATH", format!("{}:{PATH}", switches.display())).current_dir("/");
        match services.run(&format!("user-data-{index}"), command) {
            Ok(0) => {}
            Ok(code) => say(&format!("user data part {index} ended with {code}")),
            Err(error) => say(&format!("user data part {index}: {error:#}")),
        }
    }
    Ok(())
}

fn write_program(file: &Path, text: &str) -> Result<()> {
    fs::write(file, text)?;
    fs::set_permissions(file, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// The instance's programs: those that run on, and those that are waited for.
#[derive(Clone)]
struct Services {
    log: PathBuf,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    running: HashMap<i32, (String, Command)>,
    /// Programs that somebody waits for; the exit code once there is one.
    awaited: HashMap<i32, Option<i32>>,
}

impl Services {
    fn new(log: PathBuf) -> Result<Self> {
        fs::create_dir_all(&log)?;
        Ok(Self { log, state: Arc::default() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, name: &str, command: &mut Command) -> Result<i32> {
        let log = File::options().create(true).append(true).open(self.log.join(format!("{name}.log")))?;
        // Nothing of the environment that the lab was started from may reach an instance, but the mark and PATH.
        let own_path = command.get_envs().any(|(name, _)| name == "PATH");
        let given: Vec<_> = command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
        command.env_clear().envs(given).env(MARK, "1").env("HOME", "/root");
        if !own_path {
            command.env("PATH", PATH);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().with_context(|| format!("could not start {name}"))?;
        Ok(i32::try_from(child.id())?)
    }

    fn start(&self, name: &str, mut command: Command) -> Result<()> {
        // Held while starting, or the reaper could meet a child that is not noted yet.
        let mut state = self.lock();
        let pid = self.spawn(name, &mut command)?;
        state.running.insert(pid, (name.to_owned(), command));
        Ok(())
    }

    /// Runs a program to its end and returns its exit code.
    fn run(&self, name: &str, mut command: Command) -> Result<i32> {
        let mut state = self.lock();
        let pid = self.spawn(name, &mut command)?;
        state.awaited.insert(pid, None);
        loop {
            if let Some(Some(code)) = state.awaited.get(&pid).copied() {
                state.awaited.remove(&pid);
                return Ok(code);
            }
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits for children for ever, orphans of the whole namespace among them.
    fn reap(&self) -> ! {
        loop {
            let mut status = 0;
            // SAFETY: status is a live integer that waitpid writes to.
            let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
            if pid <= 0 {
                std::thread::sleep(Duration::from_millis(20));
                continue;
            }
            let code = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) };
            let mut state = self.lock();
            if let Some((name, command)) = state.running.remove(&pid) {
                say(&format!("{name} ended with {code}; it is started again"));
                let services = self.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_secs(1));
                    let _ = services.start(&name, command);
                });
            } else if let Some(exit) = state.awaited.get_mut(&pid) {
                *exit = Some(code);
                self.state.1.notify_all();
            }
        }
    }
}
