//! The instance's own deadline: a script in its user data that powers it off when nobody else would end it. With the
//! shutdown behaviour `terminate`, powered off means gone. So an operator that was uninstalled never means a bill.
//!
//! A pool's own script (`bootstrap.userData`) may set the numbers, by lines such as `SILENT_FOR=600` in `/etc/gpujob/dead-man`.

use std::time::Duration;

const SCRIPT: &str = include_str!("dead_man.sh");
/// Where cloud-init looks for what it runs at every boot. It runs user data once in an instance's life.
const PER_BOOT: &str = "/var/lib/cloud/scripts/per-boot";

/// When an instance ends itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    /// The API server, as the instance reaches it.
    pub(crate) endpoint: String,
    /// The kubelet has to have joined by this age.
    pub(crate) join_within: Duration,
    /// The API server may be out of reach for this long.
    pub(crate) silent_for: Duration,
    /// It ends at this age.
    pub(crate) max_lifetime: Duration,
    /// How often it looks.
    pub(crate) every: Duration,
    /// Prefix of all paths; empty but in tests.
    pub(crate) root: String,
}

impl Deadlines {
    /// The usual ones, for a pool's endpoint and lifetime.
    pub(crate) fn new(endpoint: &str, max_lifetime: Duration) -> Self {
        Deadlines {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            join_within: Duration::from_secs(30 * 60),
            silent_for: Duration::from_secs(60 * 60),
            max_lifetime,
            every: Duration::from_secs(60),
            root: String::new(),
        }
    }

    /// The timer itself.
    pub(crate) fn script(&self) -> String {
        let seconds = |d: Duration| d.as_secs().to_string();
        SCRIPT
            .replace("@ENDPOINT@", &quoted(&self.endpoint))
            .replace("@JOIN_WITHIN@", &seconds(self.join_within))
            .replace("@SILENT_FOR@", &seconds(self.silent_for))
            .replace("@MAX_LIFETIME@", &seconds(self.max_lifetime))
            .replace("@EVERY@", &seconds(self.every))
            .replace("@ROOT@", &quoted(&self.root))
    }

    /// The part of the user data that writes the timer down and starts it.
    pub(crate) fn installer(&self) -> String {
        let root = &quoted(&self.root);
        format!(
            "#!/bin/sh\n\
             dir={root}/var/lib/gpujob\n\
             mkdir -p \"$dir\" 2>/dev/null || dir=$(mktemp -d)\n\
             cat >\"$dir/dead-man.sh\" <<'GPUJOB_DEAD_MAN'\n{}GPUJOB_DEAD_MAN\n\
             chmod 755 \"$dir/dead-man.sh\"\n\
             if [ -d {root}{PER_BOOT} ]; then ln -sf \"$dir/dead-man.sh\" {root}{PER_BOOT}/gpujob-dead-man.sh; fi\n\
             sh \"$dir/dead-man.sh\"\n",
            self.script()
        )
    }
}

/// For a shell, whatever is in it.
fn quoted(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::time::Instant;

    /// A folder that stands for an instance, with programs in PATH that write down what they were asked.
    struct Instance {
        folder: tempfile::TempDir,
    }

    impl Instance {
        fn new(curl: &str) -> Self {
            let instance = Instance { folder: tempfile::tempdir().unwrap() };
            for dir in ["bin", "var/log/pods", "var/lib/kubelet/pki", "var/lib/cloud/scripts/per-boot"] {
                std::fs::create_dir_all(instance.path(dir)).unwrap();
            }
            instance.program("curl", curl);
            // Ends the timer as a real one would: by its session.
            let off = format!("echo \"$(basename \"$0\") $*\" >>{}\nkill -9 $PPID\n", instance.path("off").display());
            instance.program("shutdown", &off);
            instance.program("poweroff", &off);
            instance
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn program(&self, name: &str, body: &str) {
            let file = self.path("bin").join(name);
            std::fs::write(&file, format!("#!/bin/sh\n{body}\n")).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        }

        fn deadlines(&self) -> Deadlines {
            let long = Duration::from_secs(600);
            Deadlines {
                endpoint: "https://api.example:6443".into(),
                join_within: long,
                silent_for: long,
                max_lifetime: long,
                every: Duration::from_secs(1),
                root: self.folder.path().display().to_string(),
            }
        }

        /// Runs the installer as cloud-init does, and returns when it has ended.
        fn boot(&self, deadlines: &Deadlines) {
            let script = self.path("part");
            std::fs::write(&script, deadlines.installer()).unwrap();
            let path = format!("{}:{}", self.path("bin").display(), std::env::var("PATH").unwrap());
            let status = Command::new("sh").arg(&script).env("PATH", path).status().unwrap();
            assert!(status.success());
        }

        /// What the instance was switched off with, if it was within `limit`.
        fn switched_off(&self, limit: Duration) -> Option<String> {
            let start = Instant::now();
            while start.elapsed() < limit {
                if let Ok(text) = std::fs::read_to_string(self.path("off"))
                    && text.ends_with('\n')
                {
                    return Some(text.trim().to_owned());
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            None
        }

        fn log(&self) -> String {
            std::fs::read_to_string(self.path("var/log/gpujob-dead-man.log")).unwrap()
        }
    }

    impl Drop for Instance {
        /// The timers that were not switched off: each names its own script in this folder.
        fn drop(&mut self) {
            let script = self.path("var/lib/gpujob/dead-man.sh").display().to_string();
            for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
                let line = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                if line.contains(&script) {
                    let _ = Command::new("kill").arg("-9").arg(entry.file_name()).status();
                }
            }
        }
    }

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn an_instance_that_never_joins_is_switched_off() {
        let instance = Instance::new("exit 0");
        instance.boot(&Deadlines { join_within: Duration::from_secs(2), ..instance.deadlines() });
        assert_eq!(instance.switched_off(SOON).as_deref(), Some("shutdown -h now"));
        assert!(instance.log().contains("has not joined"), "{}", instance.log());
    }

    #[test]
    fn joined_instances_live_on() {
        for sign in [
            "var/log/pods/kube-system_aws-node",
            "var/lib/kubelet/pki/kubelet-client-current.pem",
            "var/lib/kubelet/pki/kubelet-server-current.pem",
        ] {
            let instance = Instance::new("exit 0");
            std::fs::write(instance.path(sign), "").unwrap();
            instance.boot(&Deadlines { join_within: Duration::from_secs(1), ..instance.deadlines() });
            assert_eq!(instance.switched_off(Duration::from_secs(4)), None, "{sign}");
        }
    }

    #[test]
    fn silence_of_the_api_server_ends_it() {
        let instance = Instance::new("exit 7");
        std::fs::write(instance.path("var/log/pods/one"), "").unwrap();
        instance.boot(&Deadlines { silent_for: Duration::from_secs(2), ..instance.deadlines() });
        assert_eq!(instance.switched_off(SOON).as_deref(), Some("shutdown -h now"));
        assert!(instance.log().contains("has not answered"), "{}", instance.log());
    }

    #[test]
    fn a_short_silence_is_forgiven() {
        let instance = Instance::new("");
        let count = instance.path("count").display().to_string();
        instance.program("curl", &format!("n=$(cat {count} 2>/dev/null || echo 0); echo $((n + 1)) >{count}; [ $((n % 2)) = 1 ]"));
        std::fs::write(instance.path("var/log/pods/one"), "").unwrap();
        instance.boot(&Deadlines { silent_for: Duration::from_secs(3), ..instance.deadlines() });
        assert_eq!(instance.switched_off(Duration::from_secs(7)), None);
    }

    #[test]
    fn a_life_has_an_end_and_reboots_do_not_lengthen_it() {
        let instance = Instance::new("exit 0");
        std::fs::write(instance.path("var/log/pods/one"), "").unwrap();
        let per_boot = instance.path("var/lib/cloud/scripts/per-boot/gpujob-dead-man.sh");
        std::fs::create_dir_all(instance.path("var/lib/gpujob")).unwrap();
        std::fs::write(instance.path("var/lib/gpujob/lived"), "598\n").unwrap();
        instance.boot(&instance.deadlines());
        assert!(Path::exists(&per_boot), "started at every boot");
        assert_eq!(instance.switched_off(SOON).as_deref(), Some("shutdown -h now"));
        assert!(instance.log().contains("has lived"), "{}", instance.log());
    }

    #[test]
    fn the_pools_script_may_set_its_own_numbers() {
        let instance = Instance::new("exit 0");
        instance.boot(&Deadlines { every: Duration::from_secs(60), ..instance.deadlines() });
        std::fs::create_dir_all(instance.path("etc/gpujob")).unwrap();
        std::fs::write(instance.path("etc/gpujob/dead-man"), "JOIN_WITHIN=3\nEVERY=1\nSILENT_FOR=$(reboot)\nPATH=/\nnonsense\n").unwrap();
        assert_eq!(instance.switched_off(SOON).as_deref(), Some("shutdown -h now"));
        assert!(instance.log().contains("has not joined"), "{}", instance.log());
    }

    #[test]
    fn a_shutdown_that_fails_is_followed_by_a_harder_one() {
        let instance = Instance::new("exit 0");
        instance.program("shutdown", "exit 1");
        instance.boot(&Deadlines { join_within: Duration::from_secs(1), ..instance.deadlines() });
        assert_eq!(instance.switched_off(SOON).as_deref(), Some("poweroff -f"));
    }

    #[test]
    fn shells_take_it_as_it_is() {
        assert_eq!(quoted("it's $HOME"), r"'it'\''s $HOME'");
        let usual = Deadlines::new("https://api.example/", Duration::from_secs(3600)).script();
        assert!(!usual.contains("@E") && usual.contains("ENDPOINT='https://api.example'\n") && usual.contains("ROOT=\n"));
        assert!(usual.is_ascii());
    }
}
