//! HTTP/1.1 answers: the head, and the three ways a body ends. Works on any `BufRead`, so it is tested without a socket.

use std::io::{self, BufRead};
use std::ops::ControlFlow;

/// Largest head that is read.
const HEAD_LIMIT: usize = 64 << 10;
/// Most header lines that are read.
const HEADERS: usize = 96;

/// An answer's status and headers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Status code.
    pub status: u16,
    /// Lower-case names and trimmed values.
    pub headers: Vec<(String, String)>,
    /// The connection can carry another request once the body was read.
    pub keep_alive: bool,
}

/// How the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// After that many bytes.
    Length(u64),
    /// After a chunk of size 0.
    Chunked,
    /// With the connection.
    Close,
}

impl Head {
    /// The value of the first header of that (lower-case) name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str())
    }

    /// How the body of this answer to `method` ends.
    ///
    /// # Errors
    /// A length that is no number.
    pub fn framing(&self, method: &str) -> io::Result<Framing> {
        if method == "HEAD" || self.status == 204 || self.status == 304 || self.status < 200 {
            return Ok(Framing::Length(0));
        }
        if self.get("transfer-encoding").is_some_and(|v| v.to_ascii_lowercase().contains("chunked")) {
            return Ok(Framing::Chunked);
        }
        match self.get("content-length") {
            Some(text) => text.parse().map(Framing::Length).map_err(|_| broken("content-length is no number")),
            None => Ok(Framing::Close),
        }
    }
}

/// A reader that can be told how much of what comes belongs together.
pub trait Ahead: BufRead {
    /// The next bytes: as many of `most` as its memory holds, fewer only where the input ends or fails.
    ///
    /// # Errors
    /// The input's, once all that came before it was handed out.
    fn ahead(&mut self, most: u64) -> io::Result<&[u8]> {
        let _ = most;
        self.fill_buf()
    }
}

impl<R: io::Read> Ahead for io::BufReader<R> {}

/// An answer that is not HTTP.
pub fn broken(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn ended() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed in the middle of an answer")
}

/// Reads an answer's head; interim answers (1xx) are passed over.
///
/// # Errors
/// `UnexpectedEof` when the connection ends, `InvalidData` when it is not HTTP.
pub fn head(reader: &mut impl BufRead) -> io::Result<Head> {
    loop {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            more_of_line(reader, &mut bytes)?;
            if bytes.len() > HEAD_LIMIT {
                return Err(broken("the head of an answer is too large"));
            }
        }
        let head = parse(&bytes)?;
        if head.status >= 200 {
            return Ok(head);
        }
    }
}

fn parse(bytes: &[u8]) -> io::Result<Head> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        _ => return Err(broken("the answer is not HTTP")),
    }
    let status = response.code.unwrap_or(0);
    let mut head = Head { status, headers: vec![], keep_alive: response.version == Some(1) };
    for header in response.headers.iter() {
        let value = String::from_utf8_lossy(header.value).trim().to_string();
        head.headers.push((header.name.to_ascii_lowercase(), value));
    }
    match head.get("connection").map(str::to_ascii_lowercase).as_deref() {
        Some("close") => head.keep_alive = false,
        Some("keep-alive") => head.keep_alive = true,
        _ => {}
    }
    Ok(head)
}

/// Hands a body's bytes to `sink`, in order. `Ok(false)` when the sink ended it before the body did.
///
/// # Errors
/// When the connection ends early or chunks are not well formed.
pub fn body(reader: &mut impl Ahead, framing: Framing, sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<bool> {
    match framing {
        Framing::Length(length) => exactly(reader, length, sink),
        Framing::Close => loop {
            let piece = reader.fill_buf()?;
            let taken = piece.len();
            if taken == 0 {
                return Ok(true);
            }
            if sink(piece).is_break() {
                return Ok(false);
            }
            reader.consume(taken);
        },
        Framing::Chunked => loop {
            let line = line(reader)?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(|_| broken("a chunk's size is no number"))?;
            if size == 0 {
                while !self::line(reader)?.is_empty() {}
                return Ok(true);
            }
            if !exactly(reader, size, sink)? {
                return Ok(false);
            }
            if !self::line(reader)?.is_empty() {
                return Err(broken("a chunk is longer than its size"));
            }
        },
    }
}

fn exactly(reader: &mut impl Ahead, mut left: u64, sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<bool> {
    while left > 0 {
        let piece = reader.ahead(left)?;
        if piece.is_empty() {
            return Err(ended());
        }
        let take = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if sink(&piece[..take]).is_break() {
            return Ok(false);
        }
        reader.consume(take);
        left -= take as u64;
    }
    Ok(true)
}

/// Adds what is there of the current line, and nothing beyond its end: what follows a head or a chunk's size is the body's.
fn more_of_line(reader: &mut impl BufRead, bytes: &mut Vec<u8>) -> io::Result<()> {
    let piece = reader.fill_buf()?;
    if piece.is_empty() {
        return Err(ended());
    }
    let take = piece.iter().position(|b| *b == b'\n').map_or(piece.len(), |p| p + 1);
    bytes.extend_from_slice(&piece[..take]);
    reader.consume(take);
    Ok(())
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    while bytes.last() != Some(&b'\n') {
        more_of_line(reader, &mut bytes)?;
        if bytes.len() > 4096 {
            return Err(broken("a line of a chunked body is too long"));
        }
    }
    Ok(String::from_utf8_lossy(&bytes).trim_end_matches(['\r', '\n']).to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{BufReader, Cursor};

    fn read(wire: &str, method: &str, capacity: usize) -> io::Result<(Head, String, String)> {
        let mut reader = BufReader::with_capacity(capacity, Cursor::new(wire.as_bytes().to_vec()));
        let head = head(&mut reader)?;
        let mut text = Vec::new();
        body(&mut reader, head.framing(method)?, &mut |b| {
            text.extend_from_slice(b);
            ControlFlow::Continue(())
        })?;
        let mut rest = String::new();
        io::Read::read_to_string(&mut reader, &mut rest)?;
        Ok((head, String::from_utf8(text).unwrap(), rest))
    }

    #[test]
    fn bodies_by_length_chunks_and_close() {
        // Every capacity: no border of a buffer may matter.
        for capacity in 1..80 {
            let (head, text, rest) = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nETag: \"x\"\r\n\r\nhelloNEXT", "GET", capacity).unwrap();
            assert_eq!((head.status, head.get("etag"), head.keep_alive), (200, Some("\"x\""), true));
            assert_eq!((text.as_str(), rest.as_str()), ("hello", "NEXT"));
            let wire = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                        5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: t\r\n\r\nNEXT";
            let (_, text, rest) = read(wire, "GET", capacity).unwrap();
            assert_eq!((text.as_str(), rest.as_str()), ("hello world", "NEXT"));
            let (head, text, _) = read("HTTP/1.0 200 OK\r\n\r\nto the end", "GET", capacity).unwrap();
            assert_eq!((head.keep_alive, text.as_str()), (false, "to the end"));
            let (_, text, rest) = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nNEXT", "HEAD", capacity).unwrap();
            assert_eq!((text.as_str(), rest.as_str()), ("", "NEXT"));
        }
    }

    #[test]
    fn what_is_cut_off_or_is_not_http_is_an_error() {
        for (wire, kind) in [
            ("", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nContent-Le", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", io::ErrorKind::UnexpectedEof),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhello\r\n", io::ErrorKind::InvalidData),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", io::ErrorKind::InvalidData),
            ("SSH-2.0-OpenSSH_9.2\r\n\r\n", io::ErrorKind::InvalidData),
        ] {
            assert_eq!(read(wire, "GET", 16).unwrap_err().kind(), kind, "{wire}");
        }
    }
}
