//! Files at `https://` URLs: redirects, and going on where a connection broke.
//!
//! There are no credentials: a private file is asked for by a signed URL. A server keeps no checksum with a file, so whoever asks must
//! know what it hashes to. Proxies named by the environment are not used.

use std::io;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::s3::connection::{Connection, Payload};
use super::s3::framing::Head;
use super::s3::retry;
use super::{Class, reach};
use crate::receipt::reason;

pub mod url;

use url::Url;

/// Silence after which a connection is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Most redirects that are followed: browsers follow 20, nobody needs more than a few.
const REDIRECTS: u32 = 10;

/// What the sink of a download gets.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// The next bytes.
    Bytes(&'a [u8]),
    /// The server cannot go on where it was: the file comes again from its beginning.
    Again,
}

/// Why a file could not be had.
#[derive(Clone, Debug, thiserror::Error)]
#[error("GET {url}: {detail}; {}", self.next_step())]
pub struct HttpsError {
    /// What kind it is.
    pub class: Class,
    /// Without its query.
    pub url: String,
    /// What the server or the operating system said.
    pub detail: String,
}

impl HttpsError {
    /// For the receipt.
    pub fn reason(&self) -> &'static str {
        if self.class == Class::NotFound { reason::INPUT_NOT_FOUND } else { self.class.reason() }
    }

    fn next_step(&self) -> &'static str {
        match self.class {
            Class::NotFound => "correct inputs[].from",
            Class::AccessDenied | Class::InvalidCredentials => "make the file readable to everybody, or give a signed URL that is valid",
            Class::Unreachable => "check the host's name, DNS and the network from the cluster",
            Class::NoSuchHost => "correct the host's name in inputs[].from",
            Class::Untrusted => Class::Untrusted.next_step(),
            Class::SlowDown | Class::Unavailable => "the server is busy or failing: try again later",
            _ => "see the server's answer",
        }
    }
}

/// A file at a URL.
#[derive(Clone, Debug)]
pub struct Https {
    /// Where it is.
    pub url: Url,
}

/// One try's answer, its body unread.
struct Opened {
    connection: Connection,
    head: Head,
}

impl Https {
    fn failed(&self, class: Class, detail: impl Into<String>) -> HttpsError {
        HttpsError { class, url: self.url.shown(), detail: detail.into() }
    }

    fn lost(&self, at: &Url, e: &io::Error) -> HttpsError {
        // Each try has a connection of its own: every answer's certificate is looked at.
        self.failed(reach::class(e, false), format!("no answer from {}:{}: {e}", at.endpoint.host, at.endpoint.port))
    }

    /// The file's size, if the server says it. Reads the answer's beginning only.
    ///
    /// # Errors
    /// That it is not there, or may not be read.
    pub fn size(&self) -> Result<Option<u64>, HttpsError> {
        self.repeat(&mut |_| {
            let opened = self.open(0, None)?;
            Ok(opened.head.get("content-length").and_then(|length| length.parse().ok()))
        })
    }

    /// Streams the file, and goes on where it was when the connection breaks. Returns how many bytes it has.
    ///
    /// # Errors
    /// After its repetitions; [`Class::Stopped`] when the sink ended it.
    pub fn get(&self, sink: &mut dyn FnMut(Piece<'_>) -> ControlFlow<()>) -> Result<u64, HttpsError> {
        let (mut done, mut version) = (0u64, None);
        self.repeat(&mut |moved| {
            let mut opened = self.open(done, version.as_deref())?;
            let goes_on = opened.head.status == 206 && starts_at(&opened.head) == Some(done);
            if done > 0 && !goes_on {
                done = 0;
                if sink(Piece::Again).is_break() {
                    return Err(self.failed(Class::Stopped, "the receiver ended the download"));
                }
                if opened.head.status == 206 {
                    opened = self.open(0, None)?;
                }
            }
            version = opened.head.get("etag").filter(|tag| !tag.starts_with("W/")).map(str::to_string);
            let Opened { mut connection, head } = opened;
            let whole = connection.body(&head, "GET", &mut |piece| {
                *moved = true;
                done += piece.len() as u64;
                sink(Piece::Bytes(piece))
            });
            match whole {
                Ok(true) => Ok(done),
                Ok(false) => Err(self.failed(Class::Stopped, "the receiver ended the download")),
                Err(e) => Err(self.lost(&self.url, &e)),
            }
        })
    }

    /// Repeats `one` as its failures' class says. A try that has moved bytes does not count against the next ones.
    fn repeat<T>(&self, one: &mut dyn FnMut(&mut bool) -> Result<T, HttpsError>) -> Result<T, HttpsError> {
        let began = Instant::now();
        let (mut tried, mut contacted) = (0, false);
        loop {
            let mut moved = false;
            let error = match one(&mut moved) {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            contacted |= moved || !matches!(error.class, Class::Unreachable | Class::NoSuchHost);
            tried = if moved { 1 } else { tried + 1 };
            match retry::pause(error.class, tried, contacted, began.elapsed(), 0.5) {
                Some(wait) => {
                    crate::progress::say(&format!("{error} (trying again)"));
                    std::thread::sleep(wait);
                }
                None => return Err(error),
            }
        }
    }

    /// Asks for the file from `from` on, of the version that is known, and follows redirects to an answer with a body.
    fn open(&self, from: u64, version: Option<&str>) -> Result<Opened, HttpsError> {
        let mut at = self.url.clone();
        for _ in 0..=REDIRECTS {
            let mut connection = Connection::open(&at.endpoint, SILENCE).map_err(|e| self.lost(&at, &e))?;
            let head = connection.ask(&request(&at, from, version), Payload::Bytes(&[])).map_err(|e| self.lost(&at, &e))?;
            match head.status {
                200 | 206 => return Ok(Opened { connection, head }),
                301 | 302 | 303 | 307 | 308 => {
                    let location = head.get("location").ok_or_else(|| self.failed(Class::Refused, "a redirect leads nowhere"))?;
                    at = at.join(location).map_err(|e| self.failed(Class::Refused, e.to_string()))?;
                }
                // The file is shorter than what has come of it: it was replaced.
                416 if from > 0 => return self.open(0, None),
                404 | 410 => return Err(self.failed(Class::NotFound, format!("HTTP {}", head.status))),
                status => return Err(self.failed(Class::of(status, ""), format!("HTTP {status}"))),
            }
        }
        Err(self.failed(Class::Refused, format!("more than {REDIRECTS} redirects")))
    }
}

/// The first byte of a ranged answer.
fn starts_at(head: &Head) -> Option<u64> {
    head.get("content-range")?.strip_prefix("bytes ")?.split_once('-')?.0.trim().parse().ok()
}

fn request(at: &Url, from: u64, version: Option<&str>) -> String {
    let agent = concat!("gpujob-transfer/", env!("CARGO_PKG_VERSION"));
    let mut text = format!(
        "GET {} HTTP/1.1\r\nhost: {}\r\nuser-agent: {agent}\r\naccept: */*\r\naccept-encoding: identity\r\nconnection: close\r\n",
        at.target,
        at.endpoint.authority()
    );
    if from > 0 {
        text.push_str(&format!("range: bytes={from}-\r\n"));
        if let Some(version) = version {
            text.push_str(&format!("if-range: {version}\r\n"));
        }
    }
    text.push_str("\r\n");
    text
}
