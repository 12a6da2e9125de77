//! A store in memory that speaks S3 with the manners of real ones: some check nothing, some ignore conditions, some refuse
//! headers that they do not know, some want another region. Signatures are not checked here; SeaweedFS does that.

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use gpujob_transfer::checksum::{crc64nvme, crc64nvme_text, hex, md5, sha256};
use gpujob_transfer::store::s3::S3;
use gpujob_transfer::store::s3::framing;
use gpujob_transfer::store::s3::sign::Stamp;
use gpujob_transfer::store::s3::xml::url_decode;

/// What it does with `If-None-Match` and `If-Match`.
#[derive(Clone, Copy, Default, PartialEq)]
pub(crate) enum Conditions {
    #[default]
    Honours,
    Ignores,
    Refuses,
}

#[derive(Clone, Default)]
pub(crate) struct Manners {
    pub(crate) conditions: Conditions,
    /// Checksum headers that it compares with the body.
    pub(crate) checks: &'static [&'static str],
    /// Headers that it answers 501 to.
    pub(crate) unknown: &'static [&'static str],
    /// That many bodies are kept with a bit flipped.
    pub(crate) damages: u32,
    /// That many questions for the bytes of a checkpoint's manifest are answered 404, as a proxy would.
    pub(crate) misses: u32,
    /// Objects are in an archive: their heads are told, their bytes are not.
    pub(crate) archived: bool,
    /// It keeps a CRC-64/NVME with each object.
    pub(crate) keeps: bool,
    /// Requests that are signed for another region are refused with this code; the answer names the region.
    pub(crate) region: Option<(&'static str, &'static str)>,
    /// Its clock is so many seconds ahead of ours, and requests that are signed at another time than its are refused.
    pub(crate) clock: i64,
    /// The next question for an object's head is answered, and then somebody writes these bytes to it.
    pub(crate) replaces: Option<Vec<u8>>,
    /// Requests with another session token than this are refused as expired.
    pub(crate) token: Option<&'static str>,
}

/// What was asked: method, path with query, headers.
pub(crate) type Asked = (String, String, Vec<(String, String)>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, (Vec<u8>, String)>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    made: u64,
    asked: Vec<Asked>,
}

#[derive(Clone)]
pub(crate) struct Double {
    port: u16,
    state: Arc<Mutex<State>>,
    manners: Arc<Mutex<Manners>>,
}

struct Answer(u16, Vec<(&'static str, String)>, Vec<u8>);

fn refused(status: u16, code: &str) -> Answer {
    Answer(status, vec![], format!("<Error><Code>{code}</Code><Message>by its manners</Message></Error>").into_bytes())
}

impl Double {
    pub(crate) fn new(manners: Manners) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let double = Double { port, state: Arc::default(), manners: Arc::new(Mutex::new(manners)) };
        let theirs = double.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let double = theirs.clone();
                std::thread::spawn(move || double.serve(client));
            }
        });
        double
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn store(&self, more: &[(&str, &str)]) -> S3 {
        let endpoint = self.endpoint();
        let usual = [("AWS_ACCESS_KEY_ID", "key"), ("AWS_SECRET_ACCESS_KEY", "secret"), ("AWS_ENDPOINT_URL_S3", endpoint.as_str())];
        let find = |list: &[(&str, &str)], name: &str| list.iter().find(|e| e.0 == name).map(|e| e.1.to_string());
        S3::from_env("bucket", &|name| find(more, name).or_else(|| find(&usual, name))).unwrap()
    }

    pub(crate) fn keys(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Manners)) {
        change(&mut self.manners.lock().unwrap());
    }

    fn serve(&self, client: TcpStream) {
        let mut reader = BufReader::new(client);
        while let Some((asked, body)) = request(&mut reader) {
            let head = asked.0 == "HEAD";
            let Answer(status, headers, body) = self.answer(&asked, body);
            let mut text = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            let mut whole = format!("{text}\r\n").into_bytes();
            if !head {
                whole.extend(body);
            }
            if reader.get_mut().write_all(&whole).is_err() {
                return;
            }
        }
    }

    fn answer(&self, asked: &Asked, mut body: Vec<u8>) -> Answer {
        let manners = self.manners.lock().unwrap().clone();
        if manners.damages > 0 && asked.0 == "PUT" && body.len() > 1000 {
            body[500] ^= 4;
            self.change(|manners| manners.damages -= 1);
        }
        let (method, target, headers) = asked;
        let header = |name: &str| headers.iter().find(|h| h.0 == name).map(|h| h.1.as_str());
        let mut state = self.state.lock().unwrap();
        state.asked.push(asked.clone());
        if let Some((region, code)) = manners.region
            && !header("authorization").unwrap_or_default().contains(&format!("/{region}/s3/"))
        {
            let text = format!("<Error><Code>{code}</Code><Message>elsewhere</Message><Region>{region}</Region></Error>");
            let status = if code == "PermanentRedirect" { 301 } else { 400 };
            return Answer(status, vec![("x-amz-bucket-region", region.into())], text.into_bytes());
        }
        if manners.clock != 0 {
            let there = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs().saturating_add_signed(manners.clock);
            let near = |at: u64| header("x-amz-date") == Some(Stamp::from_unix(at).time.as_str());
            if !(there - 60..there + 60).any(near) {
                let text = "<Error><Code>RequestTimeTooSkewed</Code><Message>look at the clock</Message></Error>";
                return Answer(403, vec![("date", http_date(there))], text.into());
            }
        }
        if manners.token.is_some_and(|token| header("x-amz-security-token") != Some(token)) {
            return refused(400, "ExpiredToken");
        }
        if manners.unknown.iter().any(|name| header(name).is_some()) {
            return refused(501, "NotImplemented");
        }
        for name in manners.checks {
            let right = match *name {
                "x-amz-checksum-crc64nvme" => crc64nvme_text(crc64nvme(&body)),
                "x-amz-checksum-sha256" => STANDARD.encode(sha256(&body)),
                _ => STANDARD.encode(md5(&body)),
            };
            if method == "PUT" && header(name).is_some_and(|value| value != right) {
                return refused(400, "BadDigest");
            }
        }
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let key = url_decode(path.strip_prefix("/bucket").unwrap_or(path).trim_start_matches('/'));
        let asks: BTreeMap<String, String> =
            query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (k.into(), url_decode(v))).collect();
        let conditions = if method == "PUT" { manners.conditions } else { Conditions::Honours };
        match (conditions, header("if-none-match"), header("if-match")) {
            (Conditions::Ignores, _, _) | (_, None, None) => {}
            (Conditions::Refuses, _, _) => return refused(501, "NotImplemented"),
            (_, Some(_), _) if state.objects.contains_key(&key) => return refused(412, "PreconditionFailed"),
            (_, _, Some(tag)) if state.objects.get(&key).is_none_or(|o| o.1 != tag) => return refused(412, "PreconditionFailed"),
            _ => {}
        }
        match (method.as_str(), asks.get("uploadId").filter(|id| !id.is_empty())) {
            ("PUT", Some(id)) => {
                let tag = format!("\"{}\"", hex(&md5(&body)));
                let Some(parts) = state.uploads.get_mut(id) else { return refused(404, "NoSuchUpload") };
                parts.insert(asks["partNumber"].parse().unwrap(), body);
                Answer(200, vec![("etag", tag)], vec![])
            }
            ("POST", Some(id)) => {
                let Some(parts) = state.uploads.remove(id) else { return refused(404, "NoSuchUpload") };
                let tags: Vec<u8> = parts.values().flat_map(|part| md5(part)).collect();
                let tag = format!("\"{}-{}\"", hex(&md5(&tags)), parts.len());
                state.objects.insert(key, (parts.into_values().flatten().collect(), tag));
                Answer(200, vec![], b"<CompleteMultipartUploadResult/>".to_vec())
            }
            ("DELETE", Some(id)) => {
                state.uploads.remove(id);
                Answer(204, vec![], vec![])
            }
            ("POST", None) => {
                state.made += 1;
                let id = format!("u{}", state.made);
                state.uploads.insert(id.clone(), BTreeMap::new());
                Answer(200, vec![], format!("<R><UploadId>{id}</UploadId></R>").into_bytes())
            }
            ("PUT", None) => {
                let source = header("x-amz-copy-source").map(|s| url_decode(s.trim_start_matches("/bucket/")));
                let body = match source.map(|source| state.objects.get(&source).cloned()) {
                    Some(None) => return refused(404, "NoSuchKey"),
                    Some(Some((bytes, _))) => bytes,
                    None => body,
                };
                let tag = format!("\"{}\"", hex(&md5(&body)));
                state.objects.insert(key, (body, tag.clone()));
                Answer(200, vec![("etag", tag)], vec![])
            }
            ("DELETE", None) => {
                state.objects.remove(&key);
                Answer(204, vec![], vec![])
            }
            (_, _) if key.is_empty() => {
                let prefix = asks.get("prefix").cloned().unwrap_or_default();
                let listed: String = state
                    .objects
                    .iter()
                    .filter(|(key, _)| key.starts_with(&prefix))
                    .map(|(key, o)| format!("<Contents><Key>{key}</Key><Size>{}</Size></Contents>", o.0.len()))
                    .collect();
                Answer(200, vec![], format!("<ListBucketResult>{listed}</ListBucketResult>").into_bytes())
            }
            (_, _) => match state.objects.get(&key).cloned() {
                None => refused(404, "NoSuchKey"),
                Some(_) if manners.misses > 0 && key.contains("/m/") => {
                    self.change(|manners| manners.misses -= 1);
                    Answer(404, vec![], vec![])
                }
                Some(_) if manners.archived && method == "GET" => refused(403, "InvalidObjectState"),
                Some((bytes, tag)) => {
                    if method == "HEAD"
                        && let Some(next) = manners.replaces
                    {
                        self.change(|manners| manners.replaces = None);
                        let tag = format!("\"{}\"", hex(&md5(&next)));
                        state.objects.insert(key, (next, tag));
                    }
                    let mut headers = vec![("etag", tag.clone())];
                    if manners.keeps {
                        headers.push(("x-amz-checksum-crc64nvme", crc64nvme_text(crc64nvme(&bytes))));
                    }
                    let range = header("range").and_then(|r| r.strip_prefix("bytes=")?.split_once('-'));
                    let Some((from, to)) = range else { return Answer(200, headers, bytes) };
                    let from: usize = from.parse().unwrap();
                    let end = to.parse().map_or(bytes.len(), |to: usize| (to + 1).min(bytes.len()));
                    headers.push(("content-range", format!("bytes {from}-{}/{}", end - 1, bytes.len())));
                    Answer(206, headers, bytes[from..end].to_vec())
                }
            },
        }
    }
}

/// As HTTP writes it.
fn http_date(unix: u64) -> String {
    let stamp = Stamp::from_unix(unix).time;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[stamp[4..6].parse::<usize>().unwrap() - 1];
    format!("Thu, {} {month} {} {}:{}:{} GMT", &stamp[6..8], &stamp[..4], &stamp[9..11], &stamp[11..13], &stamp[13..15])
}

/// One request; none when the client has gone.
pub(crate) fn request(reader: &mut BufReader<TcpStream>) -> Option<(Asked, Vec<u8>)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        reader.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let text = String::from_utf8(head).ok()?;
    let mut lines = text.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_string(), first.next()?.to_string());
    let headers: Vec<(String, String)> =
        lines.filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_ascii_lowercase(), v.trim().to_string())).collect();
    let length = headers.iter().find(|h| h.0 == "content-length").map_or(0, |h| h.1.parse().unwrap());
    let mut body = Vec::new();
    let whole = framing::body(reader, framing::Framing::Length(length), &mut |piece| {
        body.extend_from_slice(piece);
        std::ops::ControlFlow::Continue(())
    });
    whole.ok()?.then_some(((method, target, headers), body))
}
