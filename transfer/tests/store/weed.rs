//! A SeaweedFS of the tests' own, on loopback, with credentials that are really checked.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use gpujob_transfer::store::ObjectStore;
use gpujob_transfer::store::s3::S3;

pub(crate) const ACCESS_KEY: &str = "TESTACCESSKEY";
pub(crate) const SECRET_KEY: &str = "test-secret-key";

pub(crate) struct Weed {
    port: u16,
    _keeper: Child,
    _folder: tempfile::TempDir,
}

/// The one server of this test program.
pub(crate) fn weed() -> &'static Weed {
    static WEED: OnceLock<Weed> = OnceLock::new();
    WEED.get_or_init(|| Weed::start(&binary()))
}

/// `weed` of the private venv that the lab uses as well; made if it is missing.
fn binary() -> PathBuf {
    let home = std::env::var_os("HOME").expect("HOME is set");
    let cache = Path::new(&home).join(".cache/gpujob");
    let weed = cache.join("venv/bin/weed");
    fs::create_dir_all(&cache).unwrap();
    // Several test programs may find it missing at once.
    let lock = fs::File::create(cache.join("venv.lock")).unwrap();
    lock.lock().unwrap();
    if !weed.exists() {
        let venv = cache.join("venv");
        let run = |program: &Path, arguments: &[&str]| {
            let status = Command::new(program).args(arguments).stdout(Stdio::null()).status();
            assert!(status.is_ok_and(|s| s.success()), "{} {arguments:?} failed", program.display());
        };
        let requirements = Path::new(env!("CARGO_MANIFEST_DIR")).join("../e2e/requirements.txt");
        run(Path::new("python3"), &["-m", "venv", venv.to_str().unwrap()]);
        run(&venv.join("bin/pip"), &["install", "--quiet", "-r", requirements.to_str().unwrap()]);
    }
    weed
}

impl Weed {
    fn start(program: &Path) -> Weed {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("s3.json");
        let identity = format!(
            r#"{{"identities":[{{"name":"tests","actions":["Admin","Read","Write","List","Tagging"],
                "credentials":[{{"accessKey":"{ACCESS_KEY}","secretKey":"{SECRET_KEY}"}}]}}]}}"#
        );
        fs::write(&config, identity).unwrap();
        let ports = free_ports(8);
        let flags: Vec<String> = ["master", "volume", "filer", "s3"]
            .iter()
            .enumerate()
            .flat_map(|(i, part)| [format!("-{part}.port={}", ports[i * 2]), format!("-{part}.port.grpc={}", ports[i * 2 + 1])])
            .collect();
        let log = fs::File::create(folder.path().join("weed.log")).unwrap();
        // The shell ends the server when this program's end of the pipe closes, however this program ends.
        let keeper = Command::new("sh")
            .args(["-c", r#""$@" & child=$!; read _; kill -9 $child"#, "sh"])
            .arg(program)
            .args(["server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", "-master.telemetry=false"])
            // A bucket has volumes of its own; the catalogs that come with S3 listen on ports of their own.
            .args(["-volume.max=5000", "-master.volumeSizeLimitMB=64", "-volume.minFreeSpace=1"])
            .args(["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"])
            .arg(format!("-dir={}", folder.path().display()))
            .arg(format!("-s3.config={}", config.display()))
            .args(&flags)
            .stdin(Stdio::piped())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("weed starts");
        let weed = Weed { port: ports[6], _keeper: keeper, _folder: folder };
        weed.wait();
        weed
    }

    /// Until it takes a write: it answers before it has a volume.
    fn wait(&self) {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(began.elapsed() < Duration::from_secs(60), "weed does not listen");
            std::thread::sleep(Duration::from_millis(50));
        }
        let store = self.store("first-bucket");
        loop {
            if store.put("", b"").and_then(|_| store.put("first", b"1")).is_ok() {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(90), "weed takes no write");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn store(&self, bucket: &str) -> S3 {
        self.store_by(bucket, self.endpoint())
    }

    /// The same, by a proxy's endpoint.
    pub(crate) fn store_by(&self, bucket: &str, endpoint: String) -> S3 {
        S3::from_env(bucket, &|name| match name {
            "AWS_ACCESS_KEY_ID" => Some(ACCESS_KEY.into()),
            "AWS_SECRET_ACCESS_KEY" => Some(SECRET_KEY.into()),
            "AWS_ENDPOINT_URL_S3" => Some(endpoint.clone()),
            _ => None,
        })
        .unwrap()
    }

    /// A new bucket of its own for one test.
    pub(crate) fn bucket(&self, test: &str) -> String {
        static NUMBER: Mutex<u32> = Mutex::new(0);
        // One at a time, with a first write: several first writes at once make it hang while it makes volumes.
        let mut number = NUMBER.lock().unwrap();
        *number += 1;
        let name = format!("{test}-{number}");
        let store = self.store(&name);
        // PUT of the empty key is CreateBucket.
        store.put("", b"").and_then(|_| store.put("first", b"1")).and_then(|_| store.delete("first")).unwrap();
        name
    }
}

fn free_ports(n: usize) -> Vec<u16> {
    let held: Vec<_> = (0..n).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|l| l.local_addr().unwrap().port()).collect()
}
