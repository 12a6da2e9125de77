//! What it saves that an instance pulls the job's image while its kubelet is still joining.

use crate::lab::Lab;
use crate::progress::until;
use crate::soak::given;
use crate::{cluster, images, instance};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

const RUNS: usize = 3;
/// Bytes of an image that no compression makes smaller.
const IMAGE: u64 = 500_000_000;
/// From the instance's first service to its kubelet: a real one takes longer.
const BOOT: u32 = 30;
const LIMIT: Duration = Duration::from_secs(240);

/// From apply to Running, in seconds.
#[derive(Debug, Default)]
pub(super) struct Starts {
    /// The first of its image in its pool: the kubelet pulls.
    pub(super) alone: Vec<f64>,
    /// The next, on an instance as fresh: it has been pulling since it booted.
    pub(super) prefetched: Vec<f64>,
}

/// Runs the same job twice in each of some new pools, every time on a fresh instance.
pub(super) async fn starts(lab: &Lab, client: &kube::Client) -> Result<Starts> {
    let image = push(lab).await?;
    let mut all = Starts::default();
    lab.ec2().fault(&json!({"kind": "node", "slow_boot_seconds": BOOT})).await?;
    for number in 0..RUNS {
        let pool = format!("prefetch-{number}");
        given::pool(lab, client, &pool, &json!({"idleAfter": "1s"})).await?;
        all.alone.push(start(lab, client, &pool, &image, false).await?);
        all.prefetched.push(start(lab, client, &pool, &image, true).await?);
        given::close(client, &pool, LIMIT).await?;
    }
    lab.ec2().delete("faults").await?;
    Ok(all)
}

/// The program of every pod's sandbox, which only waits, beside a large file.
async fn push(lab: &Lab) -> Result<String> {
    let context = tempfile::tempdir()?;
    let mut file = File::create(context.path().join("large"))?;
    std::io::copy(&mut File::open("/dev/urandom")?.take(IMAGE), &mut file)?;
    let from = format!("FROM {}/{}\nCOPY large /large\n", crate::host::REGISTRY, instance::PAUSE);
    std::fs::write(context.path().join("Containerfile"), from)?;
    images::push(&lab.paths, context.path(), "measure/large:1").await
}

/// One job on a fresh instance, and all of it gone again. `prefetched`: as the instance's console must have it.
async fn start(lab: &Lab, client: &kube::Client, pool: &str, image: &str, prefetched: bool) -> Result<f64> {
    let name = format!("measure-{pool}");
    let job = given::job(super::NAMESPACE, &name, pool, &json!({"name": "main", "image": image}));
    let begun = Instant::now();
    cluster::apply(client, &job.to_string()).await?;
    given::state(client, super::NAMESPACE, &name, &["Running"], LIMIT).await?;
    let took = begun.elapsed().as_secs_f64();
    let node = given::nodes(client, pool).await?.into_iter().next().context("it runs on a GpuNode")?;
    let id = node.status.and_then(|status| status.instance).context("which has an instance")?.id;
    let console = lab.ec2().get(&format!("instances/{id}/console")).await?;
    let pulled = console["text"].as_str().is_some_and(|text| text.contains("gpujob prefetch: pulled"));
    ensure!(pulled == prefetched, "{id} has pulled the image while it booted: {pulled}; its console: {}", console["text"]);
    given::forget(client, super::NAMESPACE, &name, LIMIT).await?;
    until("the end of its instance", LIMIT, || async {
        ensure!(given::nodes(client, pool).await?.is_empty(), "its GpuNode is there");
        Ok(())
    })
    .await?;
    Ok(took)
}
