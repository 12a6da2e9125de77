//! A web server with the manners of real ones: some go on where a connection broke, some do not, some lead elsewhere.

use std::io::{BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use crate::double::{Asked, request};

#[derive(Clone, Default)]
pub(crate) struct Habits {
    pub(crate) body: Vec<u8>,
    /// It answers `Range` with 206.
    pub(crate) ranges: bool,
    pub(crate) etag: Option<&'static str>,
    /// It closes each of the first so many connections after half a body, and replaces the file after the first with these bytes.
    pub(crate) breaks: usize,
    pub(crate) replaced: Option<Vec<u8>>,
    /// So many first bodies have a bit flipped.
    pub(crate) flips: usize,
    /// Bodies are chunked: their length is not said.
    pub(crate) chunked: bool,
    /// Answered before anything else; a location goes with a 3xx.
    pub(crate) status: Option<(u16, &'static str)>,
    /// The status is answered so many times only.
    pub(crate) times: Option<usize>,
}

#[derive(Clone)]
pub(crate) struct Web {
    port: u16,
    habits: Arc<Mutex<Habits>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Web {
    pub(crate) fn new(habits: Habits) -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let web = Web { port, habits: Arc::new(Mutex::new(habits)), asked: Arc::default() };
        let theirs = web.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let web = theirs.clone();
                std::thread::spawn(move || web.serve(client));
            }
        });
        web
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    fn serve(&self, client: TcpStream) {
        let mut reader = BufReader::new(client);
        let Some((asked, _)) = request(&mut reader) else { return };
        let first = !asked.1.starts_with("/elsewhere");
        self.asked.lock().unwrap().push(asked.clone());
        let mut habits = self.habits.lock().unwrap();
        let out = reader.get_mut();
        if let Some((status, location)) = habits.status
            && first
            && habits.times != Some(0)
        {
            habits.times = habits.times.map(|left| left - 1);
            let _ = write!(out, "HTTP/1.1 {status} X\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            return;
        }
        let header = |name: &str| asked.2.iter().find(|h| h.0 == name).map(|h| h.1.clone());
        let same = header("if-range").is_none_or(|tag| habits.etag == Some(tag.as_str()));
        let from: usize = header("range").filter(|_| habits.ranges && same).map_or(0, |r| r[6..r.len() - 1].parse().unwrap());
        let mut body = habits.body[from.min(habits.body.len())..].to_vec();
        if habits.flips > 0 {
            habits.flips -= 1;
            body[0] ^= 0x10;
        }
        let mut head = if from > 0 {
            format!("HTTP/1.1 206 X\r\ncontent-range: bytes {from}-{}/{}\r\n", habits.body.len() - 1, habits.body.len())
        } else {
            "HTTP/1.1 200 X\r\n".to_string()
        };
        if let Some(etag) = habits.etag {
            head.push_str(&format!("etag: {etag}\r\n"));
        }
        head.push_str(&if habits.chunked {
            "transfer-encoding: chunked\r\n\r\n".into()
        } else {
            format!("content-length: {}\r\n\r\n", body.len())
        });
        let breaks = habits.breaks > 0;
        if breaks {
            habits.breaks -= 1;
            body.truncate(body.len() / 2);
            if let Some(new) = habits.replaced.take() {
                (habits.body, habits.etag) = (new, Some("\"new\""));
            }
        }
        drop(habits);
        let _ = out.write_all(head.as_bytes());
        if self.habits.lock().unwrap().chunked {
            for piece in body.chunks(10_000) {
                let _ = write!(out, "{:x}\r\n", piece.len());
                let _ = out.write_all(piece);
                let _ = out.write_all(b"\r\n");
            }
            let _ = if breaks { Ok(()) } else { out.write_all(b"0\r\n\r\n") };
        } else {
            let _ = out.write_all(&body);
        }
    }
}
