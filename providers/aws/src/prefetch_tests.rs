#![allow(clippy::unwrap_used)]
use super::*;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

#[test]
fn references_are_whole() {
    for (image, expected) in [
        ("cuda-sample", "docker.io/library/cuda-sample:latest"),
        ("pytorch/pytorch:2.9.0", "docker.io/pytorch/pytorch:2.9.0"),
        ("10.77.0.1:5000/big", "10.77.0.1:5000/big:latest"),
        ("localhost/a:1", "localhost/a:1"),
        ("ghcr.io/a/b/c@sha256:0123", "ghcr.io/a/b/c@sha256:0123"),
    ] {
        assert_eq!(reference(image).as_deref(), Some(expected));
    }
    for image in ["", "-h", "a b", "a'b", "a$(reboot)", "a\n", "/a", "a/"] {
        assert_eq!(reference(image), None, "{image:?}");
    }
}

/// A folder that stands for an instance.
struct Machine(tempfile::TempDir);

impl Machine {
    /// `ctr` and `aws` write down what they were asked and then do this.
    fn new(ctr: &str) -> Self {
        let machine = Machine(tempfile::tempdir().unwrap());
        for folder in ["bin", "var/log", "run/containerd", "etc/containerd"] {
            std::fs::create_dir_all(machine.path(folder)).unwrap();
        }
        machine.program("ctr", ctr);
        machine.program("aws", "echo secret");
        machine
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn program(&self, name: &str, then: &str) {
        let file = self.path("bin").join(name);
        let asked = self.path("asked");
        std::fs::write(&file, format!("#!/bin/sh\necho \"{name} $*\" >>{}\n{then}\n", asked.display())).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Runs the script as cloud-init does; it has to be back at once.
    fn boot(&self, image: &str) {
        let part = self.path("part");
        std::fs::write(&part, script(image, &self.0.path().display().to_string())).unwrap();
        let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
        let start = Instant::now();
        assert!(Command::new("sh").arg(&part).env("PATH", path).status().unwrap().success());
        assert!(start.elapsed() < Duration::from_secs(2), "the boot was held up");
    }

    fn containerd(&self) -> UnixListener {
        UnixListener::bind(self.path("run/containerd/containerd.sock")).unwrap()
    }

    fn until(&self, file: &str, has: &str) -> String {
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.path(file)).unwrap_or_default();
            if text.contains(has) {
                return text;
            }
            assert!(start.elapsed() < Duration::from_secs(20), "{file} has no {has:?}: {text}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Machine {
    /// A script that still waits for its containerd.
    fn drop(&mut self) {
        let part = self.path("part").display().to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            if std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default().contains(&part) {
                let _ = Command::new("kill").arg("-9").arg(entry.file_name()).status();
            }
        }
    }
}

#[test]
fn it_waits_for_containerd_and_pulls_as_the_kubelet_would() {
    let machine = Machine::new("");
    std::fs::create_dir(machine.path("etc/containerd/certs.d")).unwrap();
    std::fs::write(machine.path("etc/containerd/config.toml"), "  [x.containerd]\n    snapshotter = \"soci\"\n").unwrap();
    machine.boot("registry.example/big:1");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!Path::exists(&machine.path("asked")), "nobody listens yet");
    let _containerd = machine.containerd();
    let log = machine.until("var/log/gpujob-prefetch.log", "pulled registry.example/big:1");
    let asked = machine.until("asked", "ctr");
    assert!(asked.contains("-n k8s.io images pull --snapshotter soci --hosts-dir "), "{asked}");
    assert!(asked.trim().ends_with(" registry.example/big:1"), "{asked}{log}");
    assert!(!asked.contains("aws"), "no registry of AWS: {asked}");
}

#[test]
fn registries_of_aws_are_asked_with_the_nodes_role() {
    for (registry, region) in [
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", "eu-west-1"),
        ("123456789012.dkr.ecr-fips.us-gov-west-1.amazonaws.com", "us-gov-west-1"),
        ("123456789012.dkr.ecr.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ] {
        let machine = Machine::new("");
        let _containerd = machine.containerd();
        machine.boot(&format!("{registry}/team/train:7"));
        let asked = machine.until("asked", "ctr");
        assert!(asked.contains(&format!("aws ecr get-login-password --region {region}\n")), "{asked}");
        assert!(asked.contains("--user AWS:secret "), "{asked}");
    }
}

#[test]
fn a_pull_that_fails_is_only_said() {
    let machine = Machine::new("echo no such image >&2; exit 1");
    let _containerd = machine.containerd();
    machine.boot("registry.example/none:1");
    let log = machine.until("var/log/gpujob-prefetch.log", "could not pull");
    assert!(log.contains("no such image"), "{log}");
}
