//! The main path: what `cargo demo` runs, from apply to zero. One flow, two uses.

use crate::session::Given;
use anyhow::{Context, Result, ensure};
use gpujob_crds::conditions::{find, is_true, job as condition};
use gpujob_e2e::demo::{Delivered, Sample, Scope, Show, fetch, flow};

pub(crate) async fn the_demo(given: Given) -> Result<()> {
    let sample = Sample::digits(&given.lab.paths);
    let run = flow(&given.lab, &sample, Scope::Node, &mut Show::stderr()).await?;

    let status = run.job.status.as_ref().context("a status")?;
    for type_ in [condition::SUCCEEDED, condition::RESULTS_STORED] {
        ensure!(is_true(&status.conditions, type_), "{type_} is {:?}", find(&status.conditions, type_));
    }
    for type_ in [condition::RECONCILING, condition::STALLED, condition::RUNNING] {
        let condition = find(&status.conditions, type_).with_context(|| format!("{type_} is not told"))?;
        ensure!(condition.status == "False", "{type_} is {condition:?}");
    }
    ensure!(status.observed_generation == run.job.metadata.generation, "the status is of another generation");
    ensure!(status.state.as_deref() == Some("Succeeded"), "the table says {:?}", status.state);

    ensure!(status.attempts.len() == 1, "{} attempts", status.attempts.len());
    let attempt = &status.attempts[0];
    ensure!(attempt.exit_code == Some(0) && attempt.storage.as_deref() == Some("Committed"), "{attempt:?}");
    let offer = attempt.offer.as_ref().context("the attempt names what was bought")?;
    let bought = run.node.status.as_ref().and_then(|status| status.instance.as_ref()).context("an instance")?;
    ensure!((&offer.instance_type, &offer.zone) == (&bought.instance_type, &bought.zone), "{offer:?} against {bought:?}");

    let receipt = status.receipt.as_ref().context("a receipt")?;
    let dollars = receipt.dollars.context("the receipt has dollars")?.dollars();
    // EC2 bills 60 s at least, and the idle window is the pool's: the job's own share is below the bill.
    ensure!(dollars > 0.0 && dollars <= run.dollars, "the job says ${dollars}, EC2 billed ${}", run.dollars);
    let names: Vec<&str> = run.delivered.files.iter().map(|file| file.path.as_str()).collect();
    ensure!(names == ["confusion-matrix.png", "metrics.json", "model.bin"], "{names:?}");
    ensure!(run.delivered.file("confusion-matrix.png").is_some_and(|png| png.starts_with(b"\x89PNG")), "the picture is no PNG");
    for name in names {
        ensure!(run.folder.join(name).exists(), "{name} was not downloaded");
    }
    let keys = given.lab.s3().list(&sample.bucket, &sample.results).await?;
    let log = format!("{}.gpujob/logs/", sample.results);
    ensure!(keys.iter().any(|key| key.starts_with(&log)), "no log is kept: {keys:?}");
    tampered(&given, &sample, &run.delivered).await
}

/// The check that the demo trusts sees one changed bit, a missing file, and one too many.
async fn tampered(given: &Given, sample: &Sample, delivered: &Delivered) -> Result<()> {
    let store = given.lab.s3();
    let key = format!("{}model.bin", sample.results);
    let whole = delivered.file("model.bin").context("model.bin")?.to_vec();
    let mut changed = whole.clone();
    changed[20] ^= 1;
    let check = async |expected: &str| -> Result<()> {
        let error = fetch(&store, &sample.bucket, &sample.results).await.err().with_context(|| format!("not seen: {expected}"))?;
        ensure!(error.to_string().contains(expected), "{error:#} does not say {expected:?}");
        Ok(())
    };
    store.put(&sample.bucket, &key, &changed).await?;
    check("differs").await?;
    store.delete(&sample.bucket, &key).await?;
    check("not in the store").await?;
    store.put(&sample.bucket, &key, &whole).await?;
    let stray = format!("{}stray", sample.results);
    store.put(&sample.bucket, &stray, b"?").await?;
    check("not in the manifest").await?;
    store.delete(&sample.bucket, &stray).await?;
    fetch(&store, &sample.bucket, &sample.results).await.map(drop)
}
