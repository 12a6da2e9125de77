//! How quick the installed operator is. Prints figures; `gpujob-lab measure` on a lab that is up and installed.

mod exit;
mod launch;
mod notice;
mod prefetch;
mod refusal;
mod writes;

use crate::lab::Lab;
use crate::operator;
use anyhow::{Context, Result};
use std::time::Duration;

const NAMESPACE: &str = "default";
/// After the last change, so that what the start allocated has settled.
const SETTLE: Duration = Duration::from_secs(60);

/// Measures and prints.
///
/// # Errors
/// The lab is not up and installed, or something does not come.
pub async fn run() -> Result<()> {
    let lab = Lab::default();
    let client = lab.client().await?;
    let launches = launch::launches(&lab, &client).await?;
    print("apply to CreateFleet", &launches);
    let (by_log, by_status) = exit::exits(&lab, &client).await?;
    print("the program's last line to Succeeded", &by_log);
    print("its end in the pod's status (whole seconds) to Succeeded", &by_status);
    println!(
        "the operator's writes for one job with inputs and results, from apply to deletion and zero nodes: {}",
        writes::writes(&lab, &client).await?
    );
    print("a refused offer's CreateFleet to the next one's", &refusal::refusals(&lab, &client).await?);
    let notices = notice::notices(&lab, &client).await?;
    print("a spot notice to the cordoned Node", &notices.cordoned);
    print("a spot notice to the replacement's CreateFleet", &notices.replaced);
    print("a spot notice to the pod told to end", &notices.told);
    let starts = prefetch::starts(&lab, &client).await?;
    print("apply to Running, 500 MB image, pulled by the kubelet", &starts.alone);
    print("the same, pulled while the instance booted", &starts.prefetched);
    eprintln!("  …  {} s of quiet", SETTLE.as_secs());
    tokio::time::sleep(SETTLE).await;
    println!("operator RSS, idle: {:.1} MiB", resident(operator::leader(&client).await?.pid)? / 1024.0);
    Ok(())
}

fn print(what: &str, seconds: &[f64]) {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let milli = |index: usize| sorted.get(index).map_or(f64::NAN, |seconds| seconds * 1e3);
    let (last, middle) = (sorted.len().saturating_sub(1), sorted.len() / 2);
    println!("{what}: median {:.0} ms, least {:.0} ms, most {:.0} ms (of {})", milli(middle), milli(0), milli(last), sorted.len());
}

/// Resident memory in KiB.
fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("a process has VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
