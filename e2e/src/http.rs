//! Plain HTTP to the lab's own servers: a connection a request, which on one machine costs nothing.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{HeaderMap, Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::time::Duration;
use tokio::net::TcpStream;

const LIMIT: Duration = Duration::from_secs(60);

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    /// The status, of any class.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Itself, if the status says success.
    ///
    /// # Errors
    /// Any other status, with the body's beginning.
    pub fn success(self) -> Result<Self> {
        if self.status.is_success() {
            return Ok(self);
        }
        bail!("{}: {}", self.status, self.text().chars().take(600).collect::<String>())
    }
}

/// Sends one request and reads the whole answer, whatever its status.
///
/// # Errors
/// The address is no `http://` one, nobody listens, or the answer breaks off.
pub async fn send(request: Request<Full<Bytes>>) -> Result<Answer> {
    let shown = format!("{} {}", request.method(), request.uri());
    tokio::time::timeout(LIMIT, exchange(request)).await.with_context(|| format!("{shown} took too long"))?.context(shown)
}

async fn exchange(mut request: Request<Full<Bytes>>) -> Result<Answer> {
    let uri = request.uri().clone();
    anyhow::ensure!(uri.scheme_str() == Some("http"), "only http:// is spoken here");
    let authority = uri.authority().context("an address has a host")?.clone();
    let stream = TcpStream::connect((authority.host(), authority.port_u16().unwrap_or(80))).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = tokio::spawn(connection);
    if !request.headers().contains_key(hyper::header::HOST) {
        request.headers_mut().insert(hyper::header::HOST, authority.as_str().parse()?);
    }
    // HTTP/1 wants the path alone in the request line.
    *request.uri_mut() = uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
    let answer = sender.send_request(request).await?;
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    driver.abort();
    Ok(Answer { status: parts.status, headers: parts.headers, body })
}

/// GET; success only.
///
/// # Errors
/// As [`send`], and any status but success.
pub async fn get(url: &str) -> Result<Answer> {
    send(Request::get(url).body(Full::default())?).await?.success()
}

/// GET of JSON.
///
/// # Errors
/// As [`get`], or the body is no JSON.
pub async fn get_json(url: &str) -> Result<Value> {
    Ok(serde_json::from_slice(&get(url).await?.body)?)
}

/// Sends JSON and reads JSON (null when the answer is empty).
///
/// # Errors
/// As [`get_json`].
pub async fn send_json(method: Method, url: &str, body: &Value) -> Result<Value> {
    let request = Request::builder().method(method).uri(url).header("content-type", "application/json");
    let answer = send(request.body(Full::from(body.to_string()))?).await?.success()?;
    Ok(if answer.body.is_empty() { Value::Null } else { serde_json::from_slice(&answer.body)? })
}
