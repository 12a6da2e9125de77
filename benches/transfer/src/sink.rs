//! An S3 server on loopback that drops the bytes it is sent, a thread for each connection: as little of the machine as a server can take.

use crate::objects::{Object, Objects, kept};
use anyhow::Result;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
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

trait Stream: Read + Write + Send {}
impl<T: Read + Write + Send> Stream for T {}

impl Sink {
    pub(crate) fn start(tls: bool, folder: &Path) -> Result<Sink> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let objects = Arc::new(Objects::new());
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

fn serve(socket: TcpStream, config: Option<Arc<ServerConfig>>, objects: &Objects) -> Result<()> {
    socket.set_nodelay(true)?;
    let stream: Box<dyn Stream> = match config {
        Some(config) => Box::new(StreamOwned::new(ServerConnection::new(config)?, socket)),
        None => Box::new(socket),
    };
    let mut reader = BufReader::with_capacity(256 << 10, stream);
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
        let mut left = length;
        while left > 0 {
            let piece = reader.fill_buf()?;
            anyhow::ensure!(!piece.is_empty(), "cut off");
            let take = piece.len().min(usize::try_from(left)?);
            if kept(&request.key) {
                body.extend_from_slice(&piece[..take]);
            }
            reader.consume(take);
            left -= take as u64;
        }
        answer(&request, body, length, objects, reader.get_mut())?;
        reader.get_mut().flush()?;
    }
}

struct Request {
    method: String,
    key: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
}

fn decoded(text: &str) -> String {
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

    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str())
    }

    fn query(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|q| q.0 == name).map(|q| q.1.as_str())
    }
}

fn reply(out: &mut dyn Stream, status: &str, more: &str, body: &str) -> Result<()> {
    Ok(write!(out, "HTTP/1.1 {status}\r\ncontent-length: {}\r\n{more}\r\n{body}", body.len())?)
}

fn refuse(out: &mut dyn Stream, status: &str, code: &str) -> Result<()> {
    reply(out, status, "", &format!("<Error><Code>{code}</Code><Message>refused</Message></Error>"))
}

fn answer(request: &Request, body: Vec<u8>, length: u64, objects: &Objects, out: &mut dyn Stream) -> Result<()> {
    let key = request.key.as_str();
    let crc = request.header("x-amz-checksum-crc64nvme").unwrap_or("").to_string();
    match (request.method.as_str(), request.query("uploadId"), key) {
        ("POST", None, "") => reply(out, "200 OK", "", "<DeleteResult></DeleteResult>"),
        ("POST", None, _) => {
            let id = objects.begin();
            let xml = format!(
                "<InitiateMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><UploadId>{id}</UploadId></InitiateMultipartUploadResult>"
            );
            reply(out, "200 OK", "", &xml)
        }
        ("PUT", Some(id), _) => {
            objects.part(id, length);
            reply(out, "200 OK", "etag: \"00000000000000000000000000000000\"\r\n", "")
        }
        ("POST", Some(id), _) => {
            let size = objects.finish(id);
            objects.put(key, Object { size, crc64nvme: crc, ..Object::default() }, |_| true);
            let xml = "<CompleteMultipartUploadResult><Bucket>b</Bucket><Key>k</Key><ETag>\"0\"</ETag></CompleteMultipartUploadResult>";
            reply(out, "200 OK", "", xml)
        }
        ("DELETE", id, _) => {
            if id.is_none() {
                objects.delete(key);
            }
            reply(out, "204 No Content", "", "")
        }
        ("PUT", None, _) => {
            let object = match request.header("x-amz-copy-source") {
                Some(from) => objects.get(decoded(from).trim_start_matches('/').split_once('/').map_or("", |p| p.1)).unwrap_or_default(),
                None if kept(key) && !crc.is_empty() && crc64nvme_text(crc64nvme(&body)) != crc => {
                    return refuse(out, "400 Bad Request", "BadDigest");
                }
                None => Object { size: length, crc64nvme: crc, bytes: kept(key).then(|| Arc::new(body)), ..Object::default() },
            };
            let (absent, version) = (request.header("if-none-match").is_some(), request.header("if-match"));
            let may = |there: Option<&Object>| match there {
                Some(there) => !absent && version.is_none_or(|v| v == there.version),
                None => version.is_none(),
            };
            match objects.put(key, object, may) {
                None => refuse(out, "412 Precondition Failed", "PreconditionFailed"),
                Some(version) => reply(out, "200 OK", &format!("etag: {version}\r\n"), "<CopyObjectResult></CopyObjectResult>"),
            }
        }
        ("GET" | "HEAD", None, "") => list(request, objects, out),
        _ => get(request, objects, out),
    }
}

fn list(request: &Request, objects: &Objects, out: &mut dyn Stream) -> Result<()> {
    let after = request.query("continuation-token").or(request.query("marker")).or(request.query("start-after")).unwrap_or("");
    let prefix = request.query("prefix").unwrap_or("");
    let (page, more) = objects.list(prefix, after);
    let mut xml = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated><KeyCount>{}</KeyCount>", page.len());
    if let (true, Some((last, _))) = (more, page.last()) {
        xml.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken><NextMarker>{last}</NextMarker>"));
    }
    for (key, size) in &page {
        xml.push_str(&format!(
            "<Contents><Key>{key}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>\"0\"</ETag><Size>{size}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>"
        ));
    }
    reply(out, "200 OK", "content-type: application/xml\r\n", &format!("{xml}</ListBucketResult>"))
}

fn get(request: &Request, objects: &Objects, out: &mut dyn Stream) -> Result<()> {
    let Some(object) = objects.get(&request.key) else {
        // The answer to a HEAD has no body, whatever its status.
        return if request.method == "HEAD" { reply(out, "404 Not Found", "", "") } else { refuse(out, "404 Not Found", "NoSuchKey") };
    };
    let range = request.header("range").and_then(|r| r.strip_prefix("bytes=")).and_then(|r| r.split_once('-'));
    let (from, to) = match range {
        Some((from, to)) => (from.parse()?, to.parse::<u64>().map_or(object.size, |to| (to + 1).min(object.size))),
        None => (0, object.size),
    };
    let status = if range.is_some() { "206 Partial Content" } else { "200 OK" };
    let mut head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {}\r\netag: {}\r\naccept-ranges: bytes\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
        to - from,
        object.version
    );
    if range.is_some() {
        head.push_str(&format!("content-range: bytes {from}-{}/{}\r\n", to.max(1) - 1, object.size));
    }
    // Of the whole object: with a stretch of it, clients would take it for the stretch's.
    if !object.crc64nvme.is_empty() && (from, to) == (0, object.size) {
        head.push_str(&format!("x-amz-checksum-crc64nvme: {}\r\nx-amz-checksum-type: FULL_OBJECT\r\n", object.crc64nvme));
    }
    head.push_str("\r\n");
    out.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(());
    }
    let bytes = object.bytes.as_deref().unwrap_or(&objects.pattern);
    let mut at = from;
    while at < to {
        let begin = usize::try_from(at % bytes.len() as u64)?;
        let end = (begin as u64 + (to - at)).min(bytes.len() as u64) as usize;
        out.write_all(&bytes[begin..end])?;
        at += (end - begin) as u64;
    }
    Ok(())
}
