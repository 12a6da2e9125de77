//! An S3 server on loopback that drops the bytes it is sent, a thread for each connection: as little of the machine as a server can take.

use crate::answers::answer;
use crate::objects::{Objects, kept};
use anyhow::Result;
use rustix::net::{RecvFlags, recv};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

pub(crate) struct Sink {
    pub(crate) port: u16,
    pub(crate) objects: Arc<Objects>,
    /// The certificate that clients are to trust, where TLS is spoken.
    pub(crate) certificate: Option<PathBuf>,
}

impl Sink {
    pub(crate) fn start(tls: bool, folder: &Path) -> Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let objects = Arc::new(Objects::new(folder)?);
        let (mut certificate, mut config) = (None, None);
        if tls {
            let made = rcgen::generate_simple_self_signed(vec!["localhost".into(), "127.0.0.1".into()])?;
            let path = folder.join("certificate.pem");
            std::fs::write(&path, made.cert.pem())?;
            let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(anyhow::Error::msg)?;
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
            config = Some(Arc::new(builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?));
            certificate = Some(path);
        }
        let theirs = objects.clone();
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                let (objects, config) = (theirs.clone(), config.clone());
                // A client that goes away is no failure of the server's.
                thread::spawn(move || drop(serve(socket, config, &objects)));
            }
        });
        Ok(Sink { port, objects, certificate })
    }
}

pub(crate) enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ServerConnection, TcpStream>>),
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.read(buffer),
            Stream::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Plain(stream) => stream.write(bytes),
            Stream::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Stream::Plain(stream) => stream.flush(),
            Stream::Tls(stream) => stream.flush(),
        }
    }
}

fn serve(socket: TcpStream, config: Option<Arc<ServerConfig>>, objects: &Objects) -> Result<()> {
    socket.set_nodelay(true)?;
    let stream = match config {
        Some(config) => Stream::Tls(Box::new(StreamOwned::new(ServerConnection::new(config)?, socket))),
        None => Stream::Plain(socket),
    };
    let mut reader = BufReader::with_capacity(64 << 10, stream);
    // Never written to, so it is no memory.
    let mut room = vec![0; 1 << 20];
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if reader.read_until(b'\n', &mut head)? == 0 {
                return Ok(());
            }
        }
        let request = Request::parse(&head)?;
        if request.header("expect").is_some() {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            reader.get_mut().flush()?;
        }
        let length: u64 = request.header("content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
        let mut body = Vec::new();
        if kept(&request.key) {
            reader.by_ref().take(length).read_to_end(&mut body)?;
            anyhow::ensure!(body.len() as u64 == length, "cut off");
        } else {
            drop_body(&mut reader, length, &mut room)?;
        }
        answer(&request, body, length, objects, reader.get_mut())?;
        reader.get_mut().flush()?;
    }
}

/// Takes a body's bytes off the wire. Over plain TCP the kernel is told to throw them away: a server's copy is not what is measured.
fn drop_body(reader: &mut BufReader<Stream>, length: u64, room: &mut [u8]) -> Result<()> {
    let mut left = length;
    while left > 0 {
        let dropped = match reader.get_ref() {
            Stream::Plain(socket) if reader.buffer().is_empty() => {
                let most = left.min(room.len() as u64);
                recv(socket, &mut room[..usize::try_from(most)?], RecvFlags::TRUNC)?.1
            }
            _ => {
                let taken = reader.fill_buf()?.len().min(usize::try_from(left)?);
                reader.consume(taken);
                taken
            }
        };
        anyhow::ensure!(dropped > 0, "cut off");
        left -= dropped as u64;
    }
    Ok(())
}

pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) key: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

pub(crate) fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (byte, hex) {
            (b'%', Some(value)) => {
                out.push(value);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

impl Request {
    fn parse(head: &[u8]) -> Result<Request> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Request::new(&mut headers);
        parsed.parse(head)?;
        let (path, query) = parsed.path.unwrap_or("/").split_once('?').unwrap_or((parsed.path.unwrap_or("/"), ""));
        // Path style: the first part is the bucket.
        let key = decoded(path.trim_start_matches('/').split_once('/').map_or("", |p| p.1));
        let pair = |p: &str| p.split_once('=').map_or((p.to_string(), String::new()), |(k, v)| (k.to_string(), decoded(v)));
        let text = |h: &httparse::Header<'_>| (h.name.to_ascii_lowercase(), String::from_utf8_lossy(h.value).into_owned());
        Ok(Request {
            method: parsed.method.unwrap_or("").to_string(),
            key,
            query: query.split('&').filter(|p| !p.is_empty()).map(pair).collect(),
            headers: parsed.headers.iter().map(text).collect(),
        })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str())
    }

    pub(crate) fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|q| q.0 == name).map(|q| q.1.as_str())
    }
}
