//! One keep-alive connection: TCP, with TLS where the endpoint says https.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::endpoint::Endpoint;
use super::framing::{self, Head};
use super::pages::Pages;
use crate::checksum::{hex, sha256_hex};
use crate::store::{Stretch, reach};

/// How long connecting to one address may take.
const CONNECT: Duration = Duration::from_secs(4);
/// Bytes that are read at once.
const AHEAD: usize = 256 << 10;
/// The same below TLS, which alone would ask the kernel for 4 KiB at a time.
const RECORDS: usize = 64 << 10;

enum Io {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, Pages<TcpStream>>>),
}

impl Read for Io {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Io::Plain(stream) => stream.read(buffer),
            Io::Tls(stream) => stream.read(buffer),
        }
    }
}

/// The body of a request.
#[derive(Clone, Copy)]
pub enum Payload<'a> {
    /// From memory.
    Bytes(&'a [u8]),
    /// From a file.
    Stretch(&'a Stretch<'a>),
    /// From a file, with bytes before and after it.
    Framed(&'a [u8], &'a Stretch<'a>, &'a [u8]),
}

impl Payload<'_> {
    /// Bytes.
    pub fn length(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Stretch(stretch) => stretch.length,
            Payload::Framed(before, stretch, after) => before.len() as u64 + stretch.length + after.len() as u64,
        }
    }

    /// SHA-256 in hex, as a signature has it; that of a framed one is not known, which a signature says in these words.
    pub fn sha256_hex(&self) -> String {
        match self {
            Payload::Bytes(bytes) => sha256_hex(bytes),
            Payload::Stretch(stretch) => hex(&stretch.sha256),
            Payload::Framed(..) => "UNSIGNED-PAYLOAD".into(),
        }
    }
}

/// A connection that carries one request at a time.
pub struct Connection {
    reader: Pages<Io>,
    /// It has carried a request already, so the server may have closed it meanwhile.
    pub used: bool,
}

impl Connection {
    /// Connects to the first of the endpoint's addresses that answers.
    ///
    /// # Errors
    /// The last address's failure.
    pub fn open(endpoint: &Endpoint, silence: Duration) -> io::Result<Connection> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the endpoint's name has no address");
        for address in (endpoint.host.as_str(), endpoint.port).to_socket_addrs().map_err(reach::lookup)? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(stream) => return Connection::over(stream, endpoint, silence),
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    fn over(stream: TcpStream, endpoint: &Endpoint, silence: Duration) -> io::Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(silence))?;
        stream.set_write_timeout(Some(silence))?;
        let io = if endpoint.tls {
            let name = ServerName::try_from(endpoint.host.clone()).map_err(io::Error::other)?;
            let tls = ClientConnection::new(tls_config()?, name).map_err(io::Error::other)?;
            Io::Tls(Box::new(StreamOwned::new(tls, Pages::new(RECORDS, stream))))
        } else {
            Io::Plain(stream)
        };
        Ok(Connection { reader: Pages::new(AHEAD, io), used: false })
    }

    /// How long either side may be silent.
    ///
    /// # Errors
    /// The operating system's.
    pub fn set_silence(&self, silence: Duration) -> io::Result<()> {
        let socket = match self.reader.get_ref() {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream.sock.get_ref(),
        };
        socket.set_read_timeout(Some(silence))?;
        socket.set_write_timeout(Some(silence))
    }

    /// Sends a request and reads the answer's head.
    ///
    /// # Errors
    /// The connection is of no use afterwards.
    pub fn ask(&mut self, head: &str, body: Payload<'_>) -> io::Result<Head> {
        let sent = self.send(head.as_bytes(), body);
        match (framing::head(&mut self.reader), sent) {
            (Ok(answer), Ok(())) => Ok(answer),
            // A server may refuse and close before it has read all of the body: its answer says more than our EPIPE.
            (Ok(answer), Err(_)) => Ok(Head { keep_alive: false, ..answer }),
            (Err(_), Err(e)) | (Err(e), Ok(())) => Err(e),
        }
    }

    fn send(&mut self, head: &[u8], body: Payload<'_>) -> io::Result<()> {
        let body = match body {
            Payload::Bytes(body) => body,
            Payload::Stretch(stretch) => return self.stream(head, stretch, &[]),
            Payload::Framed(before, stretch, after) => return self.stream(&[head, before].concat(), stretch, after),
        };
        let writer: &mut dyn Write = match self.reader.get_mut() {
            Io::Plain(stream) => stream,
            Io::Tls(stream) => stream,
        };
        // One packet for a small request: head and body in one write.
        if body.len() <= 64 << 10 {
            let mut whole = Vec::with_capacity(head.len() + body.len());
            whole.extend_from_slice(head);
            whole.extend_from_slice(body);
            writer.write_all(&whole)?;
        } else {
            writer.write_all(head)?;
            writer.write_all(body)?;
        }
        writer.flush()
    }

    fn stream(&mut self, before: &[u8], stretch: &Stretch<'_>, after: &[u8]) -> io::Result<()> {
        match self.reader.get_mut() {
            Io::Plain(stream) => {
                stream.write_all(before)?;
                stretch.send_plain(stream)?;
                stream.write_all(after)
            }
            Io::Tls(stream) => {
                stream.write_all(before)?;
                stretch.send(stream)?;
                stream.write_all(after)?;
                stream.flush()
            }
        }
    }

    /// Hands the answer's body to `sink`. `Ok(false)` when the sink ended it; then the connection is of no more use.
    ///
    /// # Errors
    /// The connection is of no use afterwards.
    pub fn body(&mut self, head: &Head, method: &str, sink: &mut dyn FnMut(&[u8]) -> ControlFlow<()>) -> io::Result<bool> {
        self.used = true;
        framing::body(&mut self.reader, head.framing(method)?, sink)
    }
}

/// Name of the variable with more certificate authorities: a file in PEM, as the SDKs have it, or the PEM text itself, so that a
/// Secret's key can hold it.
pub const CA_ENV: &str = "AWS_CA_BUNDLE";

/// The system's certificate authorities, or Mozilla's list where the image has none, and those of [`CA_ENV`]. Made once: reading a
/// system's bundle takes milliseconds.
fn tls_config() -> io::Result<Arc<ClientConfig>> {
    static CONFIG: OnceLock<Result<Arc<ClientConfig>, String>> = OnceLock::new();
    CONFIG
        .get_or_init(|| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
            }
            if let Some(bundle) = std::env::var(CA_ENV).ok().filter(|bundle| !bundle.trim().is_empty()) {
                roots.add_parsable_certificates(authorities(&bundle)?);
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = builder.map_err(|e| e.to_string())?.with_root_certificates(roots).with_no_client_auth();
            Ok(Arc::new(config))
        })
        .clone()
        // No certificate can be trusted then: told as such, not as a store that is away.
        .map_err(|why| io::Error::other(rustls::Error::General(why)))
}

fn authorities(bundle: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let text = if bundle.contains("-----BEGIN") {
        bundle.as_bytes().to_vec()
    } else {
        std::fs::read(bundle.trim()).map_err(|e| format!("{CA_ENV}: the file cannot be read: {e}"))?
    };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&text).filter_map(Result::ok).collect();
    if found.is_empty() { Err(format!("{CA_ENV} holds no certificate in PEM")) } else { Ok(found) }
}
