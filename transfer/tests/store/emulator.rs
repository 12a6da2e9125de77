//! Google Cloud Storage, played by fake-gcs-server on loopback, and a proxy in front of it that damages what passes.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use gpujob_transfer::store::ObjectStore;
use gpujob_transfer::store::gcs::Gcs;
use gpujob_transfer::store::s3::connection::{Connection, Payload};
use gpujob_transfer::store::s3::endpoint::Endpoint;
use serde_json::json;

/// A Go module: PyPI and npm have no emulator that does conditional writes. The first that refuses them in every kind of
/// upload is 1.56.
const MODULE: &str = "github.com/fsouza/fake-gcs-server";
const VERSION: &str = "1.56.1";

pub(crate) struct Emulator {
    port: u16,
    _keeper: Child,
}

pub(crate) fn emulator() -> &'static Emulator {
    static EMULATOR: OnceLock<Emulator> = OnceLock::new();
    EMULATOR.get_or_init(Emulator::start)
}

/// Built once with Go, as the lab's kubebox is.
fn binary() -> PathBuf {
    let home = std::env::var_os("HOME").expect("HOME is set");
    let cache = Path::new(&home).join(".cache/gpujob");
    let binary = cache.join(format!("bin/fake-gcs-server-{VERSION}"));
    fs::create_dir_all(cache.join("bin")).unwrap();
    let lock = fs::File::create(cache.join("fake-gcs-server.lock")).unwrap();
    lock.lock().unwrap();
    if !binary.exists() {
        let folder = tempfile::tempdir_in(&cache).unwrap();
        let status = Command::new("go")
            .args(["install", &format!("{MODULE}@v{VERSION}")])
            .env("GOBIN", folder.path())
            .env("GOCACHE", cache.join("go-build"))
            .env("GOMODCACHE", cache.join("go-mod"))
            .env("CGO_ENABLED", "0")
            .status()
            .expect("Go is in PATH: install Go 1.25 or newer (https://go.dev/dl)");
        assert!(status.success(), "go install {MODULE} failed");
        fs::rename(folder.path().join("fake-gcs-server"), &binary).unwrap();
    }
    binary
}

impl Emulator {
    fn start() -> Emulator {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        // The shell ends the server when this program's end of the pipe closes, however this program ends.
        let keeper = Command::new("sh")
            .args(["-c", r#""$@" & child=$!; read _; kill -9 $child"#, "sh"])
            .arg(binary())
            .args(["-scheme", "http", "-host", "127.0.0.1", "-backend", "memory", "-log-level", "error"])
            .args(["-port", &port.to_string(), "-public-host", &format!("127.0.0.1:{port}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("fake-gcs-server starts");
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "fake-gcs-server does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        Emulator { port, _keeper: keeper }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn store(&self, bucket: &str) -> Gcs {
        store_at(bucket, &self.host())
    }

    /// A bucket behind a proxy that does something once: to the bytes that go there, or to those that come back.
    pub(crate) fn behind(&self, bucket: &str, meddle: Meddle) -> Gcs {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (host, port) = (listener.local_addr().unwrap().to_string(), self.port);
        let replaced = matches!(meddle, Meddle::Replaces).then(|| bucket.to_string());
        std::thread::spawn(move || {
            let done: &'static AtomicBool = Box::leak(Box::default());
            for client in listener.incoming().map_while(Result::ok) {
                let server = TcpStream::connect(("127.0.0.1", port)).unwrap();
                let (back, answers) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                if let Some(bucket) = &replaced {
                    let bucket = bucket.clone();
                    std::thread::spawn(move || replace(client, server, &bucket, done));
                    std::thread::spawn(move || pass(answers, back, None, done));
                    continue;
                }
                std::thread::spawn(move || pass(client, server, matches!(meddle, Meddle::FlipsUpload).then_some(meddle), done));
                std::thread::spawn(move || pass(answers, back, matches!(meddle, Meddle::CutsDownload).then_some(meddle), done));
            }
        });
        store_at(bucket, &host)
    }

    /// A new bucket of its own for one test.
    pub(crate) fn bucket(&self, test: &str) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{test}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let body = json!({ "name": name }).to_string();
        let endpoint = Endpoint { tls: false, host: "127.0.0.1".into(), port: self.port };
        let head = format!("POST /storage/v1/b HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", self.host(), body.len());
        let mut connection = Connection::open(&endpoint, Duration::from_secs(10)).unwrap();
        assert_eq!(connection.ask(&head, Payload::Bytes(body.as_bytes())).unwrap().status, 200);
        name
    }
}

fn store_at(bucket: &str, host: &str) -> Gcs {
    Gcs::from_env(bucket, &|name| (name == "STORAGE_EMULATOR_HOST").then(|| host.to_string())).unwrap().checked_by(None, "out/")
}

/// What the proxy does, once, to the first large piece.
#[derive(Clone, Copy)]
pub(crate) enum Meddle {
    FlipsUpload,
    CutsDownload,
    /// Writes `new` to the object `x` before a download's bytes are asked for.
    Replaces,
}

fn pass(mut from: TcpStream, mut to: TcpStream, meddle: Option<Meddle>, done: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let meddle = meddle.filter(|_| n > 4000 && !done.swap(true, Ordering::SeqCst));
        if let Some(Meddle::FlipsUpload) = meddle {
            buffer[n - 100] ^= 1;
        }
        if to.write_all(&buffer[..n]).is_err() || matches!(meddle, Some(Meddle::CutsDownload)) {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

/// Passes requests on; once, before one for an object's bytes, the object is replaced.
fn replace(mut from: TcpStream, mut to: TcpStream, bucket: &str, done: &AtomicBool) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        if String::from_utf8_lossy(&buffer[..n]).contains("alt=media") && !done.swap(true, Ordering::SeqCst) {
            emulator().store(bucket).put("x", b"new").unwrap();
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}
