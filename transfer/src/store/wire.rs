//! Requests on kept connections, and their repetition: what every protocol of a store does in the same way.

use std::io;
use std::ops::ControlFlow;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::clock::{Clock, now};
use super::s3::connection::{Connection, Payload};
use super::s3::endpoint::Endpoint;
use super::s3::framing::Head;
use super::s3::retry;
use super::{Class, StoreError, reach};

/// Silence after which a connection is given up, once the store has answered.
const SILENCE: Duration = Duration::from_secs(30);
/// The same before its first answer: a packet filter that drops everything must show within 30 s.
const FIRST_SILENCE: Duration = Duration::from_secs(10);
/// Kept connections that may all turn out to be closed; after that many the next ones are new.
const STALE: u32 = 64;

/// How one try ended, apart from a good answer.
pub(super) enum Try {
    /// The sink of a download ended it.
    Stopped,
    /// A kept connection turned out to be closed, or the request must be asked in another way: no failure, again at once.
    Stale,
    /// A failure.
    Failed(StoreError),
}

/// Kept connections to one store.
pub(super) struct Wire {
    /// `s3://bucket`, for people.
    name: String,
    /// Connections to the endpoint that was current when the counter had this value.
    idle: Mutex<(u64, Vec<Connection>)>,
    pub(super) clock: Clock,
    contacted: AtomicBool,
    since: Instant,
}

/// What goes over the wire: a whole head, and the body.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    pub(super) head: &'a str,
    pub(super) body: Payload<'a>,
}

impl Wire {
    pub(super) fn new(name: String) -> Wire {
        Wire { name, idle: Mutex::default(), clock: Clock::default(), contacted: AtomicBool::new(false), since: Instant::now() }
    }

    /// Forgets the kept connections: they lead to another endpoint.
    pub(super) fn leave(&self) {
        if let Ok(mut idle) = self.idle.lock() {
            *idle = (idle.0 + 1, vec![]);
        }
    }

    /// One try. The sink gets the answer's head with each piece of its body.
    pub(super) fn once(
        &self,
        endpoint: &Endpoint,
        request: &Request<'_>,
        sink: &mut dyn FnMut(&Head, &[u8]) -> ControlFlow<()>,
    ) -> Result<Head, Try> {
        let lost = |e: io::Error| Try::Failed(self.unreachable(request.method, endpoint, &e));
        let contacted = self.contacted.load(Ordering::Relaxed);
        let silence = if contacted { SILENCE } else { FIRST_SILENCE };
        let (epoch, kept) = self.idle.lock().map_or((0, None), |mut idle| (idle.0, idle.1.pop()));
        let mut connection = match kept {
            Some(connection) => connection,
            None => Connection::open(endpoint, silence).map_err(lost)?,
        };
        let head = match connection.ask(request.head, request.body) {
            Ok(head) => head,
            Err(e) if connection.used && closed(&e) => return Err(Try::Stale),
            Err(e) => return Err(lost(e)),
        };
        self.clock.hear(head.get("date"), now());
        if !contacted {
            self.contacted.store(true, Ordering::Relaxed);
            connection.set_silence(SILENCE).map_err(lost)?;
        }
        let whole = connection.body(&head, request.method, &mut |piece| sink(&head, piece)).map_err(lost)?;
        if !whole {
            return Err(Try::Stopped);
        }
        if head.keep_alive
            && let Ok(mut idle) = self.idle.lock()
            && idle.0 == epoch
        {
            idle.1.push(connection);
        }
        Ok(head)
    }

    /// Repeats `one` as its failures' class says. Refused credentials are renewed once.
    pub(super) fn repeat<T>(&self, renew: &dyn Fn() -> bool, mut one: impl FnMut() -> Result<T, Try>) -> Result<T, StoreError> {
        let mut tried = 0;
        let mut stale = 0;
        let mut skewed = 0;
        let mut renewed = false;
        loop {
            let error = match one() {
                Ok(answer) => return Ok(answer),
                Err(Try::Stale) if stale < STALE => {
                    stale += 1;
                    continue;
                }
                Err(Try::Stale) => self.error(Class::Unreachable, "", "connections are closed at once".into()),
                Err(Try::Stopped) => return Err(self.error(Class::Stopped, "GET ", "the receiver ended it".into())),
                // They have ended, or were replaced: with others the same request may be taken.
                Err(Try::Failed(error)) if !renewed && perhaps_ended(&error) => {
                    renewed = true;
                    if renew() {
                        continue;
                    }
                    error
                }
                // Signed with this machine's clock, which may not be the store's.
                Err(Try::Failed(error)) if error.class == Class::ClockSkew && skewed < 2 && self.clock.correct() => {
                    skewed += 1;
                    continue;
                }
                Err(Try::Failed(error)) => error,
            };
            tried += 1;
            let contacted = self.contacted.load(Ordering::Relaxed);
            match retry::pause(error.class, tried, contacted, self.since.elapsed(), random()) {
                Some(wait) => {
                    if tried == 1 || tried == 5 {
                        crate::progress::say(&format!("{error} (trying again)"));
                    }
                    std::thread::sleep(wait);
                }
                None => return Err(error),
            }
        }
    }

    fn unreachable(&self, method: &str, at: &Endpoint, error: &io::Error) -> StoreError {
        let class = reach::class(error, self.contacted.load(Ordering::Relaxed));
        self.error(class, &format!("{method} "), format!("no answer from {}:{}: {error}", at.host, at.port))
    }

    /// A failure without an answer.
    fn error(&self, class: Class, method: &str, detail: String) -> StoreError {
        StoreError { class, request: format!("{method}{}/", self.name), status: 0, code: String::new(), detail }
    }
}

/// Whether other credentials may help. A HEAD has no body to say so: S3 answers a bare 400 to a token that has ended.
fn perhaps_ended(error: &StoreError) -> bool {
    let said = error.class == Class::InvalidCredentials && error.status != 0;
    said || (error.status == 400 && error.code.is_empty())
}

/// The other side has closed a connection that was kept.
fn closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// A number in 0..1.
fn random() -> f64 {
    let mut bytes = [0; 4];
    // Jitter without randomness is only less fair.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
