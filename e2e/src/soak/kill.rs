//! The leading operator is killed at random moments while jobs run. No double launch, no orphan, all results whole, zero at the end.

use super::given;
use crate::demo::fetch;
use crate::lab::Lab;
use crate::operator::{self, End};
use crate::progress::until;
use anyhow::{Context, Result, ensure};
use gpujob_crds::GpuNode;
use gpujob_transfer::receipt::Ended;
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use rand::{Rng, SeedableRng};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const POOL: &str = "kill";
/// How long an instance that nobody owns may live.
const ORPHAN: Duration = Duration::from_secs(60);
/// For all jobs of one run: between kills there is often nobody who leads.
const LIMIT: Duration = Duration::from_secs(1200);

/// How much.
#[derive(Debug, Clone, clap::Args)]
pub struct Plan {
    /// How often all of it is done
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// Jobs at once in each run
    #[arg(long, default_value_t = 20)]
    pub jobs: usize,
    /// The most kills in each run; they stop earlier when all jobs have ended
    #[arg(long, default_value_t = 1000)]
    pub kills: usize,
    /// For the moments and the ways of the kills; printed, so that a run can be asked for again
    #[arg(long)]
    pub seed: Option<u64>,
}

impl Default for Plan {
    fn default() -> Self {
        Self { runs: 5, jobs: 20, kills: 1000, seed: None }
    }
}

/// What held.
#[derive(Debug, Default)]
pub struct Summary {
    seed: u64,
    runs: usize,
    jobs: usize,
    kills: usize,
    instances: usize,
    files: usize,
    /// The longest that an instance lived without an owner.
    unowned: Duration,
    seconds: f64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "soak kill: {} runs, {} jobs, {} kills, {} instances; no double launch, no instance unowned for more than {:.0} s, {} files of \
             {} results whole, EC2 has nothing left; seed {}, {:.0} s",
            self.runs,
            self.jobs,
            self.kills,
            self.instances,
            self.unowned.as_secs_f64(),
            self.files,
            self.jobs,
            self.seed,
            self.seconds
        )
    }
}

/// Runs the plan on an installed lab.
///
/// # Errors
/// What did not hold, with the seed.
pub async fn run(lab: &Lab, plan: &Plan) -> Result<Summary> {
    let seed = plan.seed.unwrap_or_else(rand::random);
    eprintln!("  seed {seed}");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
    let (mut summary, started) = (Summary { seed, ..Summary::default() }, Instant::now());
    let client = lab.client().await?;
    given::inputs(lab, &client).await?;
    let size = json!({"instances": {"types": [given::FOUR_GPUS], "models": null}, "limits": {"nodes": 3}});
    given::pool(lab, &client, POOL, &size).await?;
    for number in 0..plan.runs {
        let again = || format!("run {number}; again with --seed {seed}");
        once(lab, &client, plan, number, &mut random, &mut summary).await.with_context(again)?;
    }
    operator::whole(&client, Duration::from_secs(180)).await?;
    given::close(&client, POOL, Duration::from_secs(60)).await?;
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

async fn once(lab: &Lab, client: &kube::Client, plan: &Plan, number: usize, random: &mut impl Rng, summary: &mut Summary) -> Result<()> {
    operator::whole(client, Duration::from_secs(180)).await?;
    let names: Vec<String> = (0..plan.jobs).map(|job| format!("kill-{number}-{job}")).collect();
    let before = given::instances(lab, POOL).await?.len();
    for name in &names {
        given::forget(client, given::NAMESPACE, name, Duration::from_secs(60)).await?;
        crate::cluster::apply(client, &given::trainer(name, POOL).to_string()).await?;
    }
    let (begun, over) = (Instant::now(), AtomicBool::new(false));
    let work = async {
        let kills = tokio::time::timeout(LIMIT, disturb(client, plan, &names, random)).await;
        let kills = kills.with_context(|| format!("not all jobs ended within {} s", LIMIT.as_secs()))??;
        given::zero(lab, ORPHAN + Duration::from_secs(60)).await?;
        over.store(true, Ordering::Relaxed);
        anyhow::Ok(kills)
    };
    let (kills, unowned) = tokio::try_join!(work, owned(lab, client, &over))?;
    ensure!(kills > 0 || plan.kills == 0, "the jobs ended before the first kill: nothing was shown");

    let files = whole(lab, client, &names).await?;
    let launched = given::instances(lab, POOL).await?.split_off(before);
    let mut intents = BTreeSet::new();
    for instance in &launched {
        let uid = instance["tags"]["gpujob.dev/node-uid"].as_str().context("an instance of ours is tagged")?;
        ensure!(intents.insert(uid.to_owned()), "GpuNode {uid} was launched twice: {launched:?}");
    }
    // With nothing to disturb an attempt, more launches than jobs would be doubles by another name.
    ensure!(launched.len() <= names.len(), "{} instances for {} jobs", launched.len(), names.len());
    for name in &names {
        given::forget(client, given::NAMESPACE, name, Duration::from_secs(60)).await?;
    }
    eprintln!(
        "  run {number}: {} jobs, {kills} kills, {} instances, unowned for at most {:.1} s, {files} files whole, {:.0} s",
        names.len(),
        launched.len(),
        unowned.as_secs_f64(),
        begun.elapsed().as_secs_f64()
    );
    summary.runs += 1;
    summary.jobs += names.len();
    summary.kills += kills;
    summary.instances += launched.len();
    summary.files += files;
    summary.unowned = summary.unowned.max(unowned);
    Ok(())
}

/// Kills whoever leads, a random moment after it began to, until every job has ended. Returns how often.
async fn disturb(client: &kube::Client, plan: &Plan, names: &[String], random: &mut impl Rng) -> Result<usize> {
    let mut kills = 0;
    let mut next: Option<(u32, Instant)> = None;
    loop {
        let mut ended = 0;
        for name in names {
            let status = given::status(client, given::NAMESPACE, name).await?;
            ensure!(status.state.as_deref() != Some("Failed"), "{name} failed: {:?}", status.conditions);
            ended += usize::from(status.completion_time.is_some());
        }
        if ended == names.len() {
            return Ok(kills);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(leader) = operator::leader(client).await.ok().filter(|_| kills < plan.kills) else { continue };
        let (pid, at) = *next.get_or_insert_with(|| (leader.pid, Instant::now() + Duration::from_millis(random.random_range(200..12_000))));
        if pid != leader.pid {
            next = None;
        } else if Instant::now() >= at {
            let how = if random.random_bool(0.5) { End::Lost } else { End::Killed };
            operator::end(client, &leader, how).await?;
            kills += 1;
            next = None;
            eprintln!("  {how:?}: {} ({ended} of {} jobs have ended)", leader.pod, names.len());
        }
    }
}

/// Looks until `over` that no live instance is without the GpuNode that its tag names for long. Returns the longest.
async fn owned(lab: &Lab, client: &kube::Client, over: &AtomicBool) -> Result<Duration> {
    let (mut since, mut longest): (BTreeMap<String, Instant>, Duration) = (BTreeMap::new(), Duration::ZERO);
    let nodes: Api<GpuNode> = Api::all(client.clone());
    while !over.load(Ordering::Relaxed) {
        // EC2 first: a GpuNode exists before its instance does.
        let instances = given::instances(lab, POOL).await?;
        let uids: Vec<String> = nodes.list(&ListParams::default()).await?.iter().filter_map(ResourceExt::uid).collect();
        let costs = |state: &str| matches!(state, "pending" | "running");
        let orphans = instances.iter().filter(|i| i["state"].as_str().is_some_and(costs)).filter(|i| {
            let uid = i["tags"]["gpujob.dev/node-uid"].as_str().unwrap_or_default();
            !uids.iter().any(|known| known == uid)
        });
        let orphans: BTreeSet<String> = orphans.filter_map(|i| i["id"].as_str().map(str::to_owned)).collect();
        since.retain(|id, _| orphans.contains(id));
        for id in orphans {
            let lived = since.entry(id.clone()).or_insert_with(Instant::now).elapsed();
            longest = longest.max(lived);
            ensure!(lived < ORPHAN, "instance {id} has lived without a GpuNode for {:.0} s", lived.as_secs_f64());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(longest)
}

/// Every job has succeeded and its program has run once, and what it delivered is as its manifest says. Returns how many files.
async fn whole(lab: &Lab, client: &kube::Client, names: &[String]) -> Result<usize> {
    let mut files = 0;
    for name in names {
        let status = given::state(client, given::NAMESPACE, name, &["Succeeded"], Duration::ZERO).await?;
        // A kubelet may refuse a pod whose label it does not see yet; but what ran is not run again because an operator died.
        let ran = status.attempts.iter().filter(|attempt| attempt.start_time.is_some()).count();
        ensure!(ran == 1, "{name} ran {ran} times: {:?}", status.attempts);
        let delivered = fetch(&lab.s3(), given::BUCKET, &given::results(name)).await.with_context(|| format!("results of {name}"))?;
        ensure!(delivered.manifest.outcome == Ended::Succeeded, "{name}: the manifest says {:?}", delivered.manifest.outcome);
        let receipt = status.receipt.and_then(|receipt| receipt.manifest_sha256);
        ensure!(receipt.as_ref() == Some(&delivered.manifest_sha256), "{name}: the receipt names another manifest");
        ensure!(delivered.files.len() == 3, "{name}: {} files", delivered.files.len());
        files += delivered.files.len();
    }
    // The reservations are gone too: nothing holds a node for a job that has ended.
    until("the end of all reservations", Duration::from_secs(30), || async {
        let held: Vec<_> = given::nodes(client, POOL).await?.into_iter().filter(|node| !node.reservations().is_empty()).collect();
        ensure!(held.is_empty(), "{} GpuNodes are reserved", held.len());
        Ok(())
    })
    .await?;
    Ok(files)
}
