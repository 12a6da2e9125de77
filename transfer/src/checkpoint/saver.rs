//! The sidecar's thread that saves: at the interval, when asked, and once more when main has ended.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::progress::{say, size};
use crate::receipt::reason;
use crate::role::{Context, Fault};

use super::budget::Short;
use super::notice::Notice;
use super::save::{Saved, Session, described};
use super::upload::{Limits, Stop};
use super::{called, time};

/// How often it is looked whether somebody asks: the downward API takes 0.3 s as well.
const POLL: Duration = Duration::from_millis(200);
/// A file must lie still for so long while main runs.
const QUIET: Duration = Duration::from_secs(1);
/// In a folder that is written to all the time it is so long, after [`PATIENT`] tries: more than the steps in which a file system's
/// clock goes.
const LEAST_QUIET: Duration = Duration::from_millis(50);
const PATIENT: u32 = 20;
/// How soon a set that changed is looked at again.
const AGAIN: Duration = Duration::from_millis(500);
/// How soon a store that failed is asked again.
const LATER: Duration = Duration::from_secs(10);
/// How often it is asked again once main has ended.
const LAST_TRIES: u32 = 4;

/// What a process's saving has come to.
#[derive(Debug, Default)]
pub struct Left {
    /// The last complete checkpoint, for people.
    pub newest: Option<String>,
    /// Why nothing newer could be saved at last, for people.
    pub unsaved: Option<String>,
}

/// Saves in the background until it is finished.
pub struct Saver {
    main_ended: Sender<()>,
    obsolete: Arc<AtomicBool>,
    notice: Arc<Notice>,
    thread: JoinHandle<Left>,
}

impl Saver {
    /// Begins; `None` when the job has no checkpoints. `ending`: SIGTERM came before this process was started.
    ///
    /// # Errors
    /// Signals that cannot be listened to.
    pub fn begin(context: &Context, ending: bool) -> Result<Option<Saver>, Fault> {
        let Some(wanted) = &context.spec.checkpoints else { return Ok(None) };
        let notice = Arc::new(Notice::new(&context.pod_dir, ending));
        let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|e| Fault::passing(reason::INTERNAL, format!("signals: {e}")))?;
        let told = notice.clone();
        std::thread::spawn(move || signals.forever().for_each(|_| told.signalled()));
        crate::role::stage::prepare(Path::new(&wanted.path));
        let interval = Duration::from_secs(wanted.interval_seconds.max(1));
        let (main_ended, end) = channel();
        let obsolete = Arc::new(AtomicBool::new(false));
        let thread = Thread {
            context: context.clone(),
            path: wanted.path.clone(),
            interval,
            end,
            notice: notice.clone(),
            obsolete: obsolete.clone(),
            over: false,
            unsaved: None,
        };
        let thread = std::thread::spawn(move || thread.run());
        Ok(Some(Saver { main_ended, obsolete, notice, thread }))
    }

    /// Whether main was ended because its node goes away: then its checkpoint is wanted, and its results are not.
    pub fn node_goes_away(&self) -> bool {
        self.notice.taken_at().is_some()
    }

    /// Main has ended: saves what it left, and waits for that. `unwanted` is asked now and then: the job has delivered, and
    /// nobody will restore.
    pub fn finish(self, unwanted: impl Fn() -> bool) -> Left {
        drop(self.main_ended);
        let mut asked = Instant::now();
        while !self.thread.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
            if asked.elapsed() > Duration::from_secs(2) {
                asked = Instant::now();
                if unwanted() {
                    self.obsolete.store(true, Ordering::Relaxed);
                }
            }
        }
        self.thread.join().unwrap_or_default()
    }
}

struct Thread {
    context: Context,
    path: String,
    interval: Duration,
    end: Receiver<()>,
    notice: Arc<Notice>,
    obsolete: Arc<AtomicBool>,
    /// Main has ended.
    over: bool,
    /// Why the last try to save failed, if it did.
    unsaved: Option<String>,
}

/// How a save went.
enum Went {
    /// It is done, or there is nothing to do.
    Settled,
    /// Not now; to be tried again after that time.
    NotYet(Duration),
    /// Another attempt saves now.
    Revoked(String),
}

impl Thread {
    fn run(mut self) -> Left {
        let newest = self.saving();
        Left { newest, unsaved: self.unsaved }
    }

    fn saving(&mut self) -> Option<String> {
        let mut session = self.claimed()?;
        say(&format!("checkpoints in {} are saved every {} s", self.path, self.interval.as_secs()));
        let mut next = Instant::now() + self.interval;
        let (mut not_before, mut failures) = (Instant::now(), 0u32);
        loop {
            self.pause(POLL);
            let asked = self.notice.asked().filter(|asked| *asked != session.state.answered);
            let due = self.over || asked.is_some() || Instant::now() >= next;
            if !due || Instant::now() < not_before {
                continue;
            }
            let last = self.over;
            let why = if last {
                "main has ended"
            } else if asked.is_some() {
                "asked to"
            } else {
                "at the interval"
            };
            match self.save(&mut session, why) {
                Went::Settled => {
                    failures = 0;
                    next = Instant::now() + self.interval;
                    if let Some(asked) = asked {
                        session.state.answered = asked;
                        session.remember();
                    }
                    if last {
                        return session.newest().map(described);
                    }
                }
                Went::NotYet(wait) => {
                    failures += 1;
                    // While main runs there is time, and a log that somebody reads.
                    let growing = if last { wait } else { wait.saturating_mul(1 << failures.min(5)).min(self.interval.max(wait)) };
                    not_before = Instant::now() + growing;
                    if last && (failures >= LAST_TRIES || self.hopeless()) {
                        return session.newest().map(described);
                    }
                }
                Went::Revoked(who) => {
                    say(&format!("revoked: {who}; checkpoints of this attempt are not saved any more"));
                    return None;
                }
            }
        }
    }

    /// The right to save; asked for until main's end and a little longer.
    fn claimed(&mut self) -> Option<Session> {
        let mut failures = 0;
        loop {
            match Session::claim(&self.context) {
                Ok(session) => {
                    self.unsaved = None;
                    return session;
                }
                Err(fault) if fault.reason == reason::REVOKED => {
                    say(&format!("revoked: {}; checkpoints of this attempt are not saved", fault.message));
                    return None;
                }
                Err(fault) => {
                    say(&format!("checkpoints cannot be saved now, trying again: {fault}"));
                    self.unsaved = Some(format!("checkpoints could not be saved: {fault}"));
                }
            }
            failures = if self.over { failures + 1 } else { 0 };
            if failures >= LAST_TRIES || self.hopeless() {
                say("this attempt's last checkpoint is not saved");
                return None;
            }
            let began = Instant::now();
            let over = self.over;
            while began.elapsed() < LATER && self.over == over && !self.hopeless() {
                self.pause(POLL);
            }
        }
    }

    /// A moment, or less when main ends.
    fn pause(&mut self, time: Duration) {
        if self.over {
            std::thread::sleep(time);
        } else if matches!(self.end.recv_timeout(time), Err(RecvTimeoutError::Disconnected) | Ok(())) {
            self.over = true;
        }
    }

    /// No time is left, or nobody wants it.
    fn hopeless(&self) -> bool {
        self.obsolete.load(Ordering::Relaxed) || self.notice.budget(None).allows(0, time::now()).is_err()
    }

    fn save(&mut self, session: &mut Session, why: &str) -> Went {
        let began = Instant::now();
        let mut changing = 0;
        loop {
            let quiet = match changing {
                _ if self.over => Duration::ZERO,
                0..PATIENT => QUIET,
                _ => LEAST_QUIET,
            };
            let rate = session.state.rate;
            let budget = || self.notice.budget(rate);
            match session.save(quiet, &Limits { budget: &budget, obsolete: &self.obsolete }) {
                Ok(Saved::Published(kept)) => {
                    say(&format!("saved {} in {:.1} s ({why})", described(&kept), began.elapsed().as_secs_f64()));
                    self.unsaved = None;
                    return Went::Settled;
                }
                Ok(Saved::Unchanged | Saved::Empty) => {
                    self.unsaved = None;
                    return Went::Settled;
                }
                Err(Stop::Obsolete) => {
                    say("main's last checkpoint is not needed: the job has delivered");
                    self.unsaved = None;
                    return Went::Settled;
                }
                Err(Stop::Short(short)) => return too_late(session, short),
                Err(Stop::Changing(what)) => {
                    changing += 1;
                    if changing == PATIENT {
                        say(&format!("{what}; the folder is never still: write under a name that ends in .partial, then rename"));
                    }
                    if let Err(short) = budget().allows(0, time::now()) {
                        return too_late(session, short);
                    }
                    if changing > 3 * PATIENT {
                        say(&format!("no checkpoint is saved: {what}"));
                        self.unsaved = Some(format!("checkpoints could not be saved: {what}"));
                        return Went::NotYet(self.interval);
                    }
                    self.pause(AGAIN);
                }
                Err(Stop::Failed(fault)) if fault.reason == reason::REVOKED => return Went::Revoked(fault.message),
                Err(Stop::Failed(fault)) => {
                    say(&format!("no checkpoint is saved for now: {fault}"));
                    self.unsaved = Some(format!("checkpoints could not be saved: {fault}"));
                    return Went::NotYet(LATER.min(self.interval));
                }
            }
        }
    }
}

/// Says that there is no time for a checkpoint, and what is restored instead.
fn too_late(session: &Session, short: Short) -> Went {
    let last = session.newest().map_or("none".into(), |k| called(k.number, k.attempt));
    let at = session.state.rate.map_or(String::new(), |rate| format!(" at {} a second", size(rate as u64)));
    let Short { needs, left } = short;
    say(&format!("no checkpoint is saved: it needs {needs:.0} s{at}, {left:.0} s are left; the last complete one is {last}"));
    Went::Settled
}
