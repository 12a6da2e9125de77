//! Images: built by buildah without any daemon, pushed to the lab's registry or to one of the user's.

use crate::command;
use crate::host::{Paths, REGISTRY};
use crate::instance;
use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use tokio::process::Command;

/// The certificate authorities that this machine trusts, for images that speak TLS.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Where images go.
#[derive(Debug, Clone)]
pub struct Registry {
    /// Its address, and what all names of images begin with: `registry.example/team`.
    pub prefix: String,
    /// Whether it speaks TLS that this machine trusts.
    pub tls: bool,
    /// What buildah keeps on the way there.
    pub storage: PathBuf,
    /// Whether the logins of whoever runs this are used: `buildah login`, `docker login`.
    pub logins: bool,
}

impl Registry {
    /// The lab's own. Storage below the lab's state, so that `down` forgets it and no other engine sees it.
    #[must_use]
    pub fn lab(paths: &Paths) -> Self {
        Self { prefix: REGISTRY.into(), tls: false, storage: paths.state.join("buildah"), logins: false }
    }

    /// Builds a folder by a Containerfile and pushes it under this name; returns the whole reference. A name without a tag gets `latest`.
    ///
    /// # Errors
    /// buildah fails; its words are in the error.
    pub async fn push(&self, context: &Path, containerfile: &Path, name: &str) -> Result<String> {
        let tagged = if name.rsplit('/').next().unwrap_or(name).contains(':') { name.to_owned() } else { format!("{name}:latest") };
        let reference = format!("{}/{tagged}", self.prefix);
        // chroot isolation needs no container engine, and no network of its own for a RUN line.
        let mut build = self.buildah();
        build.args(["build", "--quiet", "--isolation", "chroot", "--format", "oci", "--layers=false", "--tag", &reference]);
        // A Containerfile may begin with an image of the same registry.
        build.arg(format!("--tls-verify={}", self.tls)).arg("--file").arg(containerfile).arg(context);
        command::output(build).await.with_context(|| format!("building {name}"))?;
        let mut push = self.buildah();
        push.arg("push").arg("--quiet").arg(format!("--tls-verify={}", self.tls)).arg(&reference);
        let pushed = command::output(push).await.with_context(|| format!("pushing {name}"));
        let mut forget = self.buildah();
        forget.args(["rmi", "--force", &reference]);
        let _ = command::output(forget).await;
        pushed?;
        Ok(reference)
    }

    /// Builds and pushes the image of one of our static programs, which is `images/NAME`. Without a tag it gets one that its content makes.
    ///
    /// # Errors
    /// The program is not there, or buildah fails.
    pub async fn push_program(&self, images: &Path, name: &str, program: &Path, tag: Option<&str>) -> Result<String> {
        let context = tempfile::tempdir()?;
        // Debug sections are four fifths of a binary, and the registry and every node would carry them.
        let stripped = context.path().join(program.file_name().context("a program has a name")?);
        command::run("strip", ["--strip-debug".as_ref(), "-o".as_ref(), stripped.as_os_str(), program.as_os_str()]).await?;
        fs::copy(AUTHORITIES, context.path().join("ca-certificates.crt")).context("Debian's package ca-certificates")?;
        let made = format!("{:x}", Sha256::digest(fs::read(&stripped)?));
        let tag = tag.unwrap_or(&made[..16]);
        self.push(context.path(), &images.join(name).join("Containerfile"), &format!("gpujob/{name}:{tag}")).await
    }

    fn buildah(&self) -> Command {
        let run = self.storage.join("run");
        let mut command = Command::new("buildah");
        command.arg("--root").arg(self.storage.join("root")).arg("--runroot").arg(&run);
        // Plain copies: overlay mounts could outlive a crash, and our images are one layer.
        command.args(["--storage-driver", "vfs"]);
        command.env("TMPDIR", "/tmp");
        if !self.logins {
            command.env("XDG_RUNTIME_DIR", run);
        }
        command
    }
}

/// Builds the folder's Containerfile and pushes it to the lab's registry; returns the reference.
///
/// # Errors
/// As [`Registry::push`].
pub async fn push(paths: &Paths, context: &Path, name: &str) -> Result<String> {
    Registry::lab(paths).push(context, &context.join("Containerfile"), name).await
}

/// Pushes the image of every pod's sandbox.
///
/// # Errors
/// As [`push`].
pub async fn push_pause(paths: &Paths) -> Result<()> {
    let context = tempfile::tempdir()?;
    fs::copy(paths.cache.join("bin/pause"), context.path().join("pause"))?;
    fs::write(context.path().join("Containerfile"), "FROM scratch\nCOPY pause /pause\nENTRYPOINT [\"/pause\"]\n")?;
    push(paths, context.path(), instance::PAUSE).await.map(drop)
}
