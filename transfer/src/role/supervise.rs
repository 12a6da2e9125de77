//! `stage`, the supervisor: PID 1 of the sidecar. It starts the worker, passes SIGTERM on, and starts it again when it
//! is killed, because the kubelet does not restart a container of a pod whose main container has ended.

use std::process::{Child, Command};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::say;
use crate::receipt::{EXIT_OK, EXIT_PERMANENT, EXIT_RETRYABLE, Role, reason};

use super::Fault;

/// How often a worker that was killed is started again.
const CRASHES: u32 = 10;

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With a receipt that stands.
    Final(i32),
    /// It gave up on the store.
    GaveUp,
    /// Killed, or a defect.
    Crashed,
}

/// Runs the worker, `worker` being its command line without the program, until it ends for good. `ending`: main has ended
/// already. Returns the exit code.
///
/// # Errors
/// When no worker can be kept alive.
pub fn run(worker: &[String], mut ending: bool) -> Result<i32, Fault> {
    let failed = |what: &str, e: std::io::Error| Fault::passing(reason::INTERNAL, format!("{what}: {e}"));
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGCHLD]).map_err(|e| failed("signals", e))?;
    let program = std::env::current_exe().map_err(|e| failed("own path", e))?;
    let (mut crashes, mut give_ups) = (0, 0u32);
    loop {
        ending |= signals.pending().any(|s| s == SIGTERM || s == SIGINT);
        let mut command = Command::new(&program);
        command.args(worker);
        if ending {
            command.arg("--ending");
        }
        let mut child = command.spawn().map_err(|e| failed("starting the worker", e))?;
        let end = watch(&mut child, &mut signals, &mut ending).map_err(|e| failed("waiting for the worker", e))?;
        let pause = match end {
            End::Final(code) => return Ok(code),
            // Without a limit: what is not staged is lost with the pod, whose grace period is the limit.
            End::GaveUp => {
                give_ups = give_ups.saturating_add(1);
                rest(give_ups)
            }
            End::Crashed if crashes < CRASHES => {
                crashes += 1;
                Duration::from_millis(100 << crashes.min(8))
            }
            End::Crashed => {
                let message = format!("the staging worker was killed {} times", crashes + 1);
                return Err(Fault::passing(reason::INTERNAL, message));
            }
        };
        say(&format!("the staging worker ended ({end:?}); starting it again in {:.1} s", pause.as_secs_f64()));
        std::thread::sleep(pause);
    }
}

/// How long to wait after the worker has given up for that time, counted from 1.
fn rest(give_ups: u32) -> Duration {
    Duration::from_secs(u64::from(give_ups).saturating_mul(5).min(30))
}

/// The role whose receipt the supervisor writes when its worker cannot.
pub const ROLE: Role = Role::Stage;

fn watch(child: &mut Child, signals: &mut Signals, ending: &mut bool) -> std::io::Result<End> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    loop {
        // Before waiting: the child may have ended before its signal was looked for.
        if let Some(status) = child.try_wait()? {
            return Ok(match status.code() {
                Some(code @ (EXIT_OK | EXIT_PERMANENT)) => End::Final(code),
                Some(EXIT_RETRYABLE) => End::GaveUp,
                _ => End::Crashed,
            });
        }
        for signal in signals.wait() {
            if signal == SIGTERM || signal == SIGINT {
                *ending = true;
                if let Some(pid) = pid {
                    // A worker that has just ended is seen in the next round.
                    let _ = kill_process(pid, Signal::TERM);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_grow_to_half_a_minute_and_never_end() {
        let seconds: Vec<_> = [1, 2, 5, 6, 7, u32::MAX].iter().map(|n| rest(*n).as_secs()).collect();
        assert_eq!(seconds, [5, 10, 25, 30, 30, 30]);
    }
}
