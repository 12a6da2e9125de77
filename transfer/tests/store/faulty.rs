//! A proxy in front of the store that understands HTTP, and does to it what networks and busy stores do. It may speak TLS.

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex};
use std::thread;

use gpujob_transfer::store::s3::framing;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::weed::weed;

/// Bodies of at least this size are data: the store's answers of XML, the epoch and journals are smaller.
const DATA: usize = 20_000;

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fault {
    /// Nothing.
    None,
    /// Flips one bit in each of the first so many bodies that carry data to the store.
    FlipUp(u32),
    /// The same for those that come from it.
    FlipDown(u32),
    /// Answers every other try of each request with 503 SlowDown.
    SlowDown,
    /// Sends half of every other answer with data, or takes half of every other request with data, and closes the connection.
    Drop,
}

pub(crate) struct Faulty {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    fault: Mutex<Fault>,
    /// How often each request was seen.
    seen: Mutex<HashMap<String, u32>>,
    struck: Mutex<u32>,
    /// Answers with data that were sent whole.
    moved: Mutex<u32>,
    tls: Option<Arc<ServerConfig>>,
    upstream: u16,
}

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Faulty {
    pub(crate) fn new(fault: Fault) -> Faulty {
        Faulty::start(fault, None, weed().port())
    }

    /// Speaks TLS and passes everything on to that port.
    pub(crate) fn tls(config: ServerConfig, upstream: u16) -> Faulty {
        Faulty::start(Fault::None, Some(Arc::new(config)), upstream)
    }

    fn start(fault: Fault, tls: Option<Arc<ServerConfig>>, upstream: u16) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            fault: Mutex::new(fault),
            seen: Mutex::default(),
            struck: Mutex::new(0),
            moved: Mutex::new(0),
            tls,
            upstream,
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let shared = theirs.clone();
                thread::spawn(move || shared.serve(client));
            }
        });
        Faulty { port, shared }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn now(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = fault;
    }

    /// How many answers with data went by.
    pub(crate) fn moved(&self) -> u32 {
        *self.shared.moved.lock().unwrap()
    }

    /// How often it did what it does.
    pub(crate) fn struck(&self) -> u32 {
        *self.shared.struck.lock().unwrap()
    }
}

/// A request or an answer: its head as it was, and its body.
struct Message {
    head: String,
    body: Vec<u8>,
}

impl Message {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(':')).find(|h| h.0.eq_ignore_ascii_case(name)).map(|h| h.1.trim())
    }

    /// Reads one; none when the other side has gone.
    fn read(reader: &mut impl framing::Ahead, bodiless: bool) -> Option<Message> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head).ok()? == 0 {
                return None;
            }
        }
        let mut message = Message { head: String::from_utf8(head).ok()?, body: vec![] };
        if message.head.starts_with("HTTP/1.1 100") {
            return Message::read(reader, bodiless);
        }
        let chunked = message.header("transfer-encoding").is_some_and(|v| v.contains("chunked"));
        let length = message.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        if !bodiless {
            let framing = if chunked { framing::Framing::Chunked } else { framing::Framing::Length(length) };
            let mut body = vec![];
            let whole = framing::body(reader, framing, &mut |piece| {
                body.extend_from_slice(piece);
                ControlFlow::Continue(())
            });
            whole.ok()?;
            message.body = body;
        }
        if chunked {
            let kept: Vec<_> = message.head.trim_end().split("\r\n").filter(|l| !l.to_ascii_lowercase().starts_with("transfer-")).collect();
            message.head = format!("{}\r\nContent-Length: {}\r\n\r\n", kept.join("\r\n"), message.body.len());
        }
        Some(message)
    }

    /// Sends it, or the first half of its body.
    fn send(&self, to: &mut impl Write, half: bool) -> bool {
        let body = if half { &self.body[..self.body.len() / 2] } else { &self.body[..] };
        to.write_all(self.head.as_bytes()).and_then(|()| to.write_all(body)).and_then(|()| to.flush()).is_ok() && !half
    }
}

impl Shared {
    fn serve(&self, client: TcpStream) {
        let raw = client.try_clone().unwrap();
        let stream: Box<dyn Stream> = match &self.tls {
            Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), client)),
            None => Box::new(client),
        };
        self.relay(stream);
        let _ = raw.shutdown(Shutdown::Both);
    }

    fn relay(&self, stream: Box<dyn Stream>) {
        let mut client = BufReader::new(stream);
        let Ok(to) = TcpStream::connect(("127.0.0.1", self.upstream)) else { return };
        let mut server = BufReader::new(to);
        while let Some(mut request) = Message::read(&mut client, false) {
            let line = request.head.lines().next().unwrap_or_default().to_string();
            let again = {
                let mut seen = self.seen.lock().unwrap();
                let times = seen.entry(line.clone()).or_default();
                *times += 1;
                times.is_multiple_of(2)
            };
            let fault = *self.fault.lock().unwrap();
            if fault == Fault::SlowDown && !again {
                *self.struck.lock().unwrap() += 1;
                let body = "<Error><Code>SlowDown</Code><Message>fewer, please</Message></Error>";
                let length = body.len();
                // To a HEAD the store would say nothing more either.
                let body = if line.starts_with("HEAD") { "" } else { body };
                let text = format!("HTTP/1.1 503 Slow Down\r\nContent-Length: {length}\r\n\r\n{body}");
                if client.get_mut().write_all(text.as_bytes()).is_err() || client.get_mut().flush().is_err() {
                    return;
                }
                continue;
            }
            let data = request.body.len() >= DATA;
            if data {
                self.strikes(fault, &mut request.body);
            }
            let drops = fault == Fault::Drop && !again;
            if !request.send(server.get_mut(), drops && data) {
                *self.struck.lock().unwrap() += 1;
                return;
            }
            let Some(mut answer) = Message::read(&mut server, line.starts_with("HEAD")) else { return };
            let data = answer.body.len() >= DATA;
            if data && let Fault::FlipDown(n) = fault {
                self.strikes(Fault::FlipUp(n), &mut answer.body);
            }
            if data && !drops {
                *self.moved.lock().unwrap() += 1;
            }
            if !answer.send(client.get_mut(), drops && data) {
                *self.struck.lock().unwrap() += 1;
                return;
            }
        }
    }

    /// Damages data while there is damage left to do.
    fn strikes(&self, fault: Fault, body: &mut [u8]) {
        let Fault::FlipUp(most) = fault else { return };
        let mut struck = self.struck.lock().unwrap();
        if *struck >= most {
            return;
        }
        *struck += 1;
        let at = body.len() / 3 + *struck as usize;
        body[at] ^= 1 << (*struck % 8);
    }
}
