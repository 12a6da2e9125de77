//! The lab's EC2 for a test run: one process, ended with this one, and its control paths.

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_ec2::config::Credentials;
use gpujob_provider_aws::Aws;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio::sync::{Mutex, MutexGuard};

/// Faults hold for all of it: one test at a time.
static CLOUD: LazyLock<Mutex<Cloud>> = LazyLock::new(|| Mutex::new(Cloud::start()));

pub(crate) struct Cloud {
    address: String,
    /// The wrapper that ends the layer when its standard input, a pipe from us, is closed: at our end, however it comes.
    _layer: Child,
}

/// The cloud, empty and healthy.
pub(crate) async fn cloud() -> MutexGuard<'static, Cloud> {
    let cloud = CLOUD.lock().await;
    cloud.control("DELETE", "faults", &json!({}));
    cloud.control("POST", "reset", &json!({}));
    cloud
}

impl Cloud {
    fn start() -> Self {
        let e2e = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../e2e");
        let python = python(&e2e);
        let state = Path::new(env!("CARGO_TARGET_TMPDIR")).join("ec2-layer");
        let script = r#""$0" -m ec2 --bind 127.0.0.1 --port 0 --state-dir "$1" & layer=$!; read -r _; kill "$layer""#;
        let mut layer = Command::new("sh")
            .args(["-c", script])
            .arg(python)
            .arg(state)
            .current_dir(e2e)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(layer.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("ec2 http://").unwrap_or_else(|| panic!("the layer says {line:?}")).to_owned();
        Cloud { address, _layer: layer }
    }

    /// A call to `/_lab/…`.
    pub(crate) fn control(&self, method: &str, path: &str, body: &Value) -> Value {
        let body = body.to_string();
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!(
            "{method} /_lab/{path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.address,
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.lines().next().unwrap().contains(" 2"), "{method} {path}: {answer}");
        serde_json::from_str(body).unwrap_or(Value::Null)
    }

    pub(crate) fn fault(&self, row: &Value) {
        self.control("POST", "faults", row);
    }

    /// How often an action was called since `after`, a number that [`Cloud::mark`] gave.
    pub(crate) fn calls(&self, action: &str, after: u64) -> usize {
        let calls = self.control("GET", &format!("calls?after={after}"), &json!({}));
        calls.as_array().unwrap().iter().filter(|call| call["action"] == action).count()
    }

    pub(crate) fn mark(&self) -> u64 {
        let calls = self.control("GET", "calls?after=0", &json!({}));
        calls.as_array().unwrap().iter().filter_map(|call| call["seq"].as_u64()).max().unwrap_or_default()
    }

    pub(crate) async fn provider(&self) -> Arc<Aws> {
        self.provider_as("lab", "lab-secret").await
    }

    /// As other programs call this cloud.
    pub(crate) async fn config(&self, key: &str, secret: &str) -> SdkConfig {
        config_at(&self.address, key, secret).await
    }

    pub(crate) async fn provider_as(&self, key: &str, secret: &str) -> Arc<Aws> {
        Arc::new(provider_at(&self.address, key, secret).await)
    }
}

/// A provider for the cloud at `address`.
pub(crate) async fn provider_at(address: &str, key: &str, secret: &str) -> Aws {
    Aws::with_config("us-east-1", &config_at(address, key, secret).await).await.unwrap()
}

/// With the retries of the real one and shorter waits.
async fn config_at(address: &str, key: &str, secret: &str) -> SdkConfig {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(10)).operation_timeout(Duration::from_secs(30));
    aws_config::defaults(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(Credentials::new(key, secret, None, None, "test"))
        .retry_config(RetryConfig::standard().with_max_attempts(3).with_initial_backoff(Duration::from_millis(50)))
        .timeout_config(timeouts.build())
        .load()
        .await
}

/// A server for what the layer cannot be told to do: each request gets what `answer` makes of its text. Its address.
pub(crate) fn answering(answer: impl Fn(&str) -> (u16, &'static str) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut reader = BufReader::new(stream.unwrap());
            let (mut text, mut length) = (String::new(), 0);
            loop {
                let mut line = String::new();
                reader.read_line(&mut line).unwrap();
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                text += &line;
                if line.trim().is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            text += &String::from_utf8_lossy(&body);
            let (status, body) = answer(&text);
            let head =
                format!("HTTP/1.1 {status} X\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            reader.get_mut().write_all((head + body).as_bytes()).unwrap();
        }
    });
    address
}

/// The Python that has the layer's packages, installed if it has not.
fn python(e2e: &Path) -> PathBuf {
    let venv = PathBuf::from(std::env::var("HOME").unwrap()).join(".cache/gpujob/venv");
    let has_moto =
        |python: &Path| Command::new(python).args(["-c", "import moto.server"]).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    let python = venv.join("bin/python");
    if !has_moto(&python) {
        let run = |command: &mut Command| assert!(command.status().is_ok_and(|s| s.success()), "{command:?} failed");
        run(Command::new("python3").args(["-m", "venv"]).arg(&venv));
        run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "-r"]).arg(e2e.join("requirements.txt")));
    }
    python
}
