//! One attempt of one job, played by the real binary.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use gpujob_transfer::receipt::Receipt;
use gpujob_transfer::store::ObjectStore;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::weed::{ACCESS_KEY, SECRET_KEY, weed};

pub(crate) struct Attempt {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) spec: Value,
    pub(crate) pod: String,
    pub(crate) env: BTreeMap<&'static str, String>,
    /// A program that starts ours, with its arguments: another user, other capabilities.
    pub(crate) by: Vec<&'static str>,
}

/// How a role ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) receipt: Option<Receipt>,
    pub(crate) log: String,
}

impl Ended {
    pub(crate) fn receipt(&self) -> &Receipt {
        self.receipt.as_ref().unwrap_or_else(|| panic!("no receipt: {}", self.log))
    }

    /// Exit code and reason, for asserting.
    pub(crate) fn says(&self) -> (i32, &str) {
        (self.code.unwrap_or(-1), self.receipt().reason.as_str())
    }
}

impl Attempt {
    /// Attempt `number` of the job `uid` (and of the same name) with its results in `bucket`.
    pub(crate) fn new(uid: &str, number: u32, bucket: &str) -> Attempt {
        let folder = tempfile::tempdir().unwrap();
        for name in ["results", "state", "pod"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let spec = json!({
            "job": {"uid": uid, "namespace": "tests", "name": uid, "specHash": "h"},
            "index": 0, "attempt": number, "inputs": [],
            "results": {"path": folder.path().join("results"), "to": format!("s3://{bucket}/out/"),
                        "summary": "metrics.json", "onExisting": "Refuse"},
        });
        let env = BTreeMap::from([
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.to_string()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.to_string()),
            ("AWS_REGION", "us-east-1".to_string()),
            ("AWS_ENDPOINT_URL_S3", weed().endpoint()),
            ("GPUJOB_STATE_DIR", folder.path().join("state").display().to_string()),
            ("GPUJOB_POD_DIR", folder.path().join("pod").display().to_string()),
        ]);
        Attempt { folder, spec, pod: format!("pod-{uid}-{number}"), env, by: vec![] }
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.folder.path().join("results")
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.results().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let name = arguments[0];
        let termination = self.folder.path().join(format!("{name}.termination"));
        let _ = fs::remove_file(&termination);
        let log = self.folder.path().join(format!("{name}.log"));
        let mut line = self.by.clone();
        line.push(env!("CARGO_BIN_EXE_gpujob-transfer"));
        let child = Command::new(line[0])
            .args(&line[1..])
            .args(arguments)
            .env_clear()
            .envs(&self.env)
            .env("GPUJOB_TRANSFER", self.spec.to_string())
            .env("GPUJOB_POD_UID", &self.pod)
            .env("GPUJOB_TERMINATION_LOG", &termination)
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        Running { child, termination, log }
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Ended {
        self.start(arguments).end()
    }

    /// Claims, stages what lies in the results folder, and seals.
    pub(crate) fn seal(&self) {
        let fetched = self.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
        let staged = self.stage();
        assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
    }

    /// `stage`, with main ending at once.
    pub(crate) fn stage(&self) -> Ended {
        let sidecar = self.start(&["stage"]);
        // Where attempts race another may have taken the claim before the first look: it says that alone, and waits for its end too.
        sidecar.says_one(&["will be staged", "revoked: "]);
        sidecar.signal(Signal::TERM);
        sidecar.end()
    }

    pub(crate) fn commit(&self) -> Ended {
        self.run(&["commit", "--outcome", "Succeeded", "--exit-code", "0", "--wait", "10"])
    }
}

pub(crate) struct Running {
    pub(crate) child: Child,
    termination: PathBuf,
    log: PathBuf,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).unwrap();
    }

    /// The child of a supervisor, once there is one.
    pub(crate) fn worker(&self) -> Option<u32> {
        children(self.child.id()).first().copied()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Waits until its log contains `text`.
    pub(crate) fn says(&self, text: &str) {
        self.says_one(&[text]);
    }

    /// Waits until its log contains one of `texts`.
    pub(crate) fn says_one(&self, texts: &[&str]) {
        let began = Instant::now();
        while !texts.iter().any(|text| self.log().contains(text)) {
            assert!(began.elapsed() < Duration::from_secs(30), "none of {texts:?} in {:?}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn end(mut self) -> Ended {
        let code = self.child.wait().unwrap().code();
        let receipt = fs::read_to_string(&self.termination).ok().and_then(|text| Receipt::parse(&text).ok());
        Ended { code, receipt, log: fs::read_to_string(&self.log).unwrap_or_default() }
    }
}

/// A test that fails leaves no process behind: neither a supervisor, nor its worker, nor a command.
impl Drop for Running {
    fn drop(&mut self) {
        // Waited for: the number may be somebody else's by now.
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Stopped before its children are looked for: a supervisor would start another one in place of what is killed.
        let _ = kill_process(pid(self.child.id()), Signal::STOP);
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while next < all.len() {
            all.extend(children(all[next]));
            next += 1;
        }
        for id in all {
            let _ = kill_process(pid(id), Signal::KILL);
        }
        let _ = self.child.wait();
    }
}

pub(crate) fn pid(id: u32) -> Pid {
    Pid::from_raw(i32::try_from(id).unwrap()).unwrap()
}

/// The children of a process.
pub(crate) fn children(of: u32) -> Vec<u32> {
    let listed = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    listed.split_whitespace().filter_map(|id| id.parse().ok()).collect()
}

/// Every object of a bucket below a prefix.
pub(crate) fn objects(bucket: &str, prefix: &str) -> BTreeMap<String, Vec<u8>> {
    let store = weed().store(bucket);
    let (mut found, mut page) = (BTreeMap::new(), None);
    loop {
        let listed = store.list(prefix, page.as_deref()).unwrap();
        for (key, _) in listed.objects {
            let mut bytes = vec![];
            let got = store.get(&key, &mut |piece| {
                bytes.extend_from_slice(piece);
                ControlFlow::Continue(())
            });
            got.unwrap();
            found.insert(key, bytes);
        }
        page = listed.next;
        if page.is_none() {
            return found;
        }
    }
}

/// What a reader of the destination sees: everything outside `.gpujob/`.
pub(crate) fn visible(bucket: &str) -> BTreeMap<String, Vec<u8>> {
    let mut all = objects(bucket, "out/");
    all.retain(|key, _| !key.starts_with("out/.gpujob/"));
    all
}

/// Bytes that compress to nothing useful and differ everywhere.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
