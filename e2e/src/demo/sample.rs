//! The sample job and what it needs before it is applied.

use crate::cluster;
use crate::host::{Paths, REGION, S3_ENDPOINT};
use crate::lab::Lab;
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuJob;
use kube::Api;
use serde_json::json;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// A job that ships, with its place in object storage.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The manifest that a user would apply.
    pub manifest: PathBuf,
    /// Namespace of the job and of its Secret.
    pub namespace: String,
    /// Name of the job.
    pub name: String,
    /// Bucket of input and results.
    pub bucket: String,
    /// The input: key and file.
    pub input: (String, PathBuf),
    /// Prefix of the results, with a slash at its end.
    pub results: String,
    /// The Secret that the job names.
    pub secret: String,
}

impl Sample {
    /// Handwritten digits, as `manifests/samples/gpujob-digits.yaml` says. A test here compares the two.
    pub fn digits(paths: &Paths) -> Self {
        Self {
            manifest: paths.repository.join("manifests/samples/gpujob-digits.yaml"),
            namespace: "default".into(),
            name: "digits".into(),
            bucket: "gpujob-demo".into(),
            input: ("digits/digits.csv.gz".into(), paths.repository.join("images/cuda-sample/data/digits.csv.gz")),
            results: "runs/digits/".into(),
            secret: "s3-credentials".into(),
        }
    }

    /// Puts the bucket, the input and the Secret there, and takes away what an earlier run left: the job and its results.
    ///
    /// # Errors
    /// The cluster or the store refuses or does not answer.
    pub async fn prepare(&self, lab: &Lab, client: &kube::Client) -> Result<()> {
        let jobs: Api<GpuJob> = Api::namespaced(client.clone(), &self.namespace);
        if jobs.get_opt(&self.name).await?.is_some() {
            jobs.delete(&self.name, &Default::default()).await?;
        }
        until("the end of an earlier job", Duration::from_secs(60), || async {
            ensure!(jobs.get_opt(&self.name).await?.is_none(), "it is still there");
            Ok(())
        })
        .await?;
        let store = lab.s3();
        store.create_bucket(&self.bucket).await?;
        for key in store.list(&self.bucket, &self.results).await? {
            store.delete(&self.bucket, &key).await?;
        }
        let (key, file) = &self.input;
        let input = fs::read(file).with_context(|| file.display().to_string())?;
        store.put(&self.bucket, key, &input).await?;
        cluster::apply(client, &secret(&self.namespace, &self.secret, &store.access_key, &store.secret_key)).await
    }
}

/// A Secret with a job's keys for the lab's store, as `manifests/samples/secret-s3.yaml` has it.
pub fn secret(namespace: &str, name: &str, access_key: &str, secret_key: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace},
        "stringData": {"AWS_ACCESS_KEY_ID": access_key, "AWS_SECRET_ACCESS_KEY": secret_key, "AWS_REGION": REGION, "AWS_ENDPOINT_URL_S3": S3_ENDPOINT},
    })
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_that_ships_is_this_sample() -> Result<()> {
        let sample = Sample::digits(&Paths::here());
        let job: GpuJob = serde_saphyr::from_str(&fs::read_to_string(&sample.manifest)?)?;
        assert_eq!((job.metadata.name.as_ref(), job.metadata.namespace.as_ref()), (Some(&sample.name), Some(&sample.namespace)));
        let input = format!("s3://{}/{}", sample.bucket, sample.input.0);
        assert!(input.starts_with(&job.spec.inputs[0].from), "{input}");
        assert_eq!(job.spec.results.context("results")?.to, format!("s3://{}/{}", sample.bucket, sample.results));
        assert_eq!(job.spec.storage.and_then(|s| s.credentials).context("credentials")?.secret_name, sample.secret);
        assert!(sample.input.1.exists());
        Ok(())
    }
}
