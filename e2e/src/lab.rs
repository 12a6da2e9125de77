//! The running lab as tests and the demo see it.

use crate::host::{AWS_ENDPOINT, Paths, REGION, REGISTRY, S3_ENDPOINT};
use crate::s3::S3;
use crate::services::ec2::{ADMINISTRATOR, Control};
use crate::{cluster, down, images, install, up};
use anyhow::Result;
use std::path::{Path, PathBuf};

/// A handle on this machine's lab. It holds nothing: making one starts nothing, and dropping one ends nothing.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Where its things are.
    pub paths: Paths,
}

impl Default for Lab {
    fn default() -> Self {
        Self { paths: Paths::here() }
    }
}

impl Lab {
    /// The lab, brought up if it is not.
    ///
    /// # Errors
    /// A prerequisite is missing or a part does not come up; the error says which and what to do.
    pub async fn up() -> Result<Self> {
        let lab = Self::default();
        up::up(&lab.paths).await?;
        Ok(lab)
    }

    /// Ends it and checks that nothing is left.
    ///
    /// # Errors
    /// Something could not be removed.
    pub async fn down(&self) -> Result<()> {
        down::down(&self.paths).await
    }

    /// Builds and pushes our images, installs the chart, and applies the sample pool.
    ///
    /// # Errors
    /// A build, helm or the API server fails.
    pub async fn install(&self) -> Result<()> {
        install::install(&self.paths).await
    }

    /// Builds a folder with a Containerfile and pushes it; returns the reference that pods use.
    ///
    /// # Errors
    /// buildah fails.
    pub async fn push(&self, context: &Path, name: &str) -> Result<String> {
        images::push(&self.paths, context, name).await
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig("admin")
    }

    /// A client with the administrator's rights.
    ///
    /// # Errors
    /// The lab is down.
    pub async fn client(&self) -> Result<kube::Client> {
        cluster::client(&self.paths).await
    }

    /// The control calls of the EC2 layer: faults, prices, the bill, the truth about instances.
    pub fn ec2(&self) -> Control {
        Control::lab()
    }

    /// Object storage, as its administrator.
    pub fn s3(&self) -> S3 {
        S3::lab()
    }

    /// What `cargo lab env` exports: everything that any client needs to work against the lab.
    pub fn environment(&self) -> Vec<(&'static str, String)> {
        let (access_key, secret_key) = ADMINISTRATOR;
        let path = std::env::var("PATH").unwrap_or_default();
        let own = self.paths.state.join("bin").to_string_lossy().into_owned();
        let path = if path.split(':').any(|folder| folder == own) { path } else { format!("{own}:{path}") };
        let mut environment = vec![
            ("KUBECONFIG", self.kubeconfig().to_string_lossy().into_owned()),
            ("PATH", path),
            ("LAB_REGISTRY", REGISTRY.to_owned()),
            ("AWS_REGION", REGION.to_owned()),
            // boto3 reads this one alone.
            ("AWS_DEFAULT_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", access_key.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", secret_key.to_owned()),
            ("AWS_EC2_METADATA_DISABLED", "true".to_owned()),
            ("AWS_ENDPOINT_URL_S3", S3_ENDPOINT.to_owned()),
        ];
        for name in CLOUD_ENDPOINTS {
            environment.push((name, AWS_ENDPOINT.to_owned()));
        }
        environment
    }
}

/// Where AWS's SDKs look for each service's address; object storage has its own.
pub(crate) const CLOUD_ENDPOINTS: [&str; 6] = [
    "AWS_ENDPOINT_URL_EC2",
    "AWS_ENDPOINT_URL_SSM",
    "AWS_ENDPOINT_URL_SQS",
    "AWS_ENDPOINT_URL_IAM",
    "AWS_ENDPOINT_URL_STS",
    "AWS_ENDPOINT_URL_PRICING",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_complete_and_leaves_the_mark_out() {
        let environment = Lab::default().environment();
        let names: Vec<_> = environment.iter().map(|(name, _)| *name).collect();
        for name in ["KUBECONFIG", "PATH", "AWS_REGION", "AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL_S3", "LAB_REGISTRY"] {
            assert!(names.contains(&name), "{name}");
        }
        assert!(!names.contains(&crate::process::MARK));
    }
}
