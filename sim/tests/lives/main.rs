//! Every scenario once, without faults: the real operator takes each to its expectation.

mod data;
mod real;

use gpujob_operator::clock::Clock;
use gpujob_operator::run::{Parts, operate};
use gpujob_operator::settings::Settings;
use gpujob_sim::clock::SimClock;
use gpujob_sim::cloud::FakeCloud;
use gpujob_sim::kube::FakeKube;
use gpujob_sim::scenario::catalog;
use gpujob_sim::scenario::{Scenario, Stage};
use gpujob_sim::world::{Run, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// How often the end is looked for.
const LOOK: Duration = Duration::from_secs(10);

/// A client of the API server that hears nothing any more once `cut` is set.
fn client(kube: &FakeKube, cut: &Arc<AtomicBool>) -> kube::Client {
    let (service, cut) = (kube.service(), cut.clone());
    let gated = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let (service, cut) = (service.clone(), cut.clone());
        async move {
            if cut.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            service.oneshot(request).await
        }
    });
    kube::Client::new(gated, "default")
}

fn parts(kube: &FakeKube, cloud: &FakeCloud, clock: &Arc<dyn Clock>, identity: String, cut: &Arc<AtomicBool>) -> Parts {
    Parts {
        client: client(kube, cut),
        clock: clock.clone(),
        clouds: cloud.clouds_of(&identity),
        requests: Default::default(),
        identity,
        lease: Duration::from_secs(15),
        settings: Settings {
            transfer_image: "gpujob-transfer".into(),
            transfer_image_pull_policy: None,
            cluster: "cluster".into(),
            namespace: "gpujob-system".into(),
        },
    }
}

/// Plays a scenario to its end, and says what is not as it must be.
async fn live(scenario: &Scenario) -> Vec<String> {
    lived(scenario).await.0
}

/// The same, and what ran, and for how long all of it went.
async fn lived(scenario: &Scenario) -> (Vec<String>, Vec<Run>, Duration) {
    let clock: Arc<dyn Clock> = Arc::new(SimClock::new());
    let kube = FakeKube::new(clock.clone());
    let cloud = catalog::cloud(clock.clone(), scenario);
    let client = kube.client();
    scenario.apply(&client).await.expect("the scenario's objects");
    let world = Arc::new(World::start(client.clone(), Arc::new(cloud.clone()), clock.clone(), scenario.script.clone()));
    let stop = CancellationToken::new();
    let cuts: Vec<Arc<AtomicBool>> = (0..scenario.replicas).map(|_| Arc::default()).collect();
    let named = cuts.iter().enumerate().map(|(n, cut)| parts(&kube, &cloud, &clock, format!("operator-{n}"), cut));
    // Joined rather than spawned: the compiler cannot show that an operator's future is Send.
    let operators = futures::future::join_all(named.map(|parts| operate(parts, stop.clone(), |_| {})));
    let fake = kube.clone();
    let lose_leader = Arc::new(move || {
        let holder = fake.objects("leases").iter().find_map(|l| l["spec"]["holderIdentity"].as_str().map(str::to_owned));
        let number = holder.and_then(|h| h.strip_prefix("operator-").and_then(|n| n.parse::<usize>().ok())).unwrap_or(0);
        cuts[number].store(true, Ordering::SeqCst);
    });
    let stage = Stage { client, cloud, world: world.clone(), lose_leader };
    let controllers = kube.clone();
    tokio::spawn(async move { controllers.controllers().await });
    let start = Instant::now();
    let watched = async {
        let (played, steps) = (stage.clone(), scenario.steps.clone());
        let steps = tokio::spawn(async move { played.play(&steps).await });
        let mut missing = vec!["nothing was looked at".to_owned()];
        while start.elapsed() < scenario.horizon && !missing.is_empty() {
            sleep(LOOK).await;
            if steps.is_finished() {
                missing = scenario.expect.missing(&stage, true).await;
            }
        }
        missing
    };
    let missing = tokio::select! {
        biased;
        missing = watched => missing,
        _ = operators => vec!["an operator has ended".to_owned()],
    };
    println!("{}: {} virtual seconds, {} writes", scenario.name, start.elapsed().as_secs(), kube.write_count());
    if std::env::var_os("SHOW").is_some() || !missing.is_empty() {
        for write in kube.writes() {
            let name =
                format!("{}{}", write.name, if write.subresource.is_empty() { String::new() } else { format!("/{}", write.subresource) });
            println!(
                "{:>4} {} {} {} {name} [{}]",
                write.number,
                write.at.strftime("%H:%M:%S%.3f"),
                write.verb,
                write.resource,
                write.manager
            );
        }
    }
    stop.cancel();
    (missing, world.runs(), start.elapsed())
}

macro_rules! lives {
    ($($test:ident = $name:literal),+ $(,)?) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $test() {
                let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
                let scenario = catalog::named($name).expect("a scenario of that name");
                assert_eq!(live(&scenario).await, Vec::<String>::new());
            }
        )+

        #[test]
        fn no_scenario_is_forgotten() {
            let tested = [$($name),+];
            let all: Vec<&str> = catalog::all().iter().map(|s| s.name).collect();
            assert_eq!(all, tested);
        }
    };
}

lives! {
    plain = "plain",
    failing = "failing",
    interrupted = "interrupted",
    never_joins = "never-joins",
    gpu_never_appears = "gpu-never-appears",
    no_capacity = "no-capacity",
    delete_in_flight = "delete-in-flight",
    pool_deleted = "pool-deleted",
    two_jobs_one_gpu = "two-jobs-one-gpu",
    leader_lost = "leader-lost",
    quota = "quota",
    namespace_deleted = "namespace-deleted",
    gpunode_deleted = "gpunode-deleted",
    node_deleted = "node-deleted",
    suspended = "suspended",
    fails_then_succeeds = "fails-then-succeeds",
    silent_kubelet = "silent-kubelet",
    exits_zero_when_told = "exits-zero-when-told",
    exits_zero_unseen = "exits-zero-unseen",
    no_results = "no-results",
    results_exist = "results-exist",
    impostor = "impostor",
    doomed = "doomed",
    checkpoints = "checkpoints",
    late = "late",
    late_committing = "late-committing",
    late_sealing = "late-sealing",
    replaced = "replaced",
    abandoned = "abandoned",
    abandoned_long_ago = "abandoned-long-ago",
    last_moment = "last-moment",
    forgotten_end = "forgotten-end",
    created_but_failed = "created-but-failed",
    template_gone = "template-gone",
    rebalanced = "rebalanced",
    quota_full = "quota-full",
    unprepared = "unprepared",
    without_volumes = "without-volumes",
}
