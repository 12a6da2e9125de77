//! The world against a real API server, in real time: `KUBECONFIG=... cargo test -p gpujob-sim --test lives -- --ignored real`.
//!
//! All it needs is an API server with our CRDs and without admission plugin ServiceAccount: the world plays scheduler,
//! controller manager and kubelets. What holds here holds for load tests too.

use gpujob_operator::clock::{Clock, SystemClock};
use gpujob_operator::run::{Parts, operate};
use gpujob_operator::settings::Settings;
use gpujob_sim::cloud::{Boot, FakeCloud, Places};
use gpujob_sim::scenario::objects::{NAMESPACE, job, namespace, pool};
use gpujob_sim::scenario::{Act, End, Expect, JobExpect, Scenario, Stage, Step, When, catalog};
use gpujob_sim::world::{Program, Script, World};
use gpujob_transfer::receipt::Ended;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Everything a tenth as long, so that a life takes a minute.
fn quick() -> Script {
    Script {
        boot: seconds(1),
        ready: seconds(1),
        gpu: seconds(2),
        pull: seconds(1),
        fetch: seconds(1),
        stage: seconds(1),
        phase_lag: seconds(1),
        node_grace: seconds(4),
        pod_gc: seconds(4),
        namespaces: true,
        ..Script::default()
    }
}

fn calm(cloud: &FakeCloud) {
    cloud.set_boot(&Places::all(), Boot::After(seconds(1)));
    cloud.set_shutdown(seconds(1));
}

fn scenario(programs: &[Program], steps: Vec<Step>, attempts: i32, launches: usize) -> Scenario {
    let mut pool = pool(&["g6.xlarge"], &["spot"]);
    pool["spec"]["idleAfter"] = json!("5s");
    Scenario {
        objects: vec![namespace(), pool, job("train", programs)],
        script: quick(),
        cloud: calm,
        steps,
        expect: Expect {
            jobs: vec![JobExpect {
                name: "train",
                end: End::Succeeded,
                attempts: attempts..=attempts,
                failures: 0,
                delivered: Some(Ended::Succeeded),
            }],
            instances_at_end: 0,
            launches: launches..=launches,
            pool: true,
        },
        horizon: seconds(240),
        ..catalog::named("plain").expect("there")
    }
}

async fn live(scenario: Scenario) -> Vec<String> {
    let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let client = kube::Client::try_default().await.expect("KUBECONFIG");
    let cloud = catalog::cloud(clock.clone(), &scenario);
    scenario.apply(&client).await.expect("the scenario's objects");
    let world = Arc::new(World::start(client.clone(), Arc::new(cloud.clone()), clock.clone(), scenario.script.clone()));
    let stop = CancellationToken::new();
    let parts = Parts {
        client: client.clone(),
        clock,
        clouds: cloud.clouds(),
        identity: "operator".into(),
        lease: seconds(15),
        requests: Default::default(),
        settings: Settings {
            transfer_image: "gpujob-transfer".into(),
            transfer_image_pull_policy: None,
            cluster: "cluster".into(),
            namespace: NAMESPACE.into(),
        },
    };
    let operator = operate(parts, stop.clone(), |_| {});
    let stage = Stage { client, cloud, world, lose_leader: Arc::new(|| {}) };
    let watched = async {
        let start = Instant::now();
        let (played, steps) = (stage.clone(), scenario.steps.clone());
        let steps = tokio::spawn(async move { played.play(&steps).await });
        let mut missing = vec!["nothing was looked at".to_owned()];
        while start.elapsed() < scenario.horizon && !missing.is_empty() {
            sleep(seconds(1)).await;
            if steps.is_finished() {
                missing = scenario.expect.missing(&stage, true).await;
            }
        }
        println!("{} s", start.elapsed().as_secs());
        stop.cancel();
        missing
    };
    // Joined rather than spawned: the compiler cannot show that the operator's future is Send.
    tokio::join!(operator, watched).1
}

#[tokio::test]
#[ignore = "needs an API server that nobody else uses"]
async fn a_plain_job() {
    assert_eq!(live(scenario(&[Program::ok(3)], vec![], 1, 1)).await, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs an API server that nobody else uses"]
async fn a_machine_is_taken() {
    let step = Step { when: When::Runs { job: "train", nth: 1, later: seconds(2) }, act: Act::Interrupt("train", seconds(3)) };
    assert_eq!(live(scenario(&[Program::ok(60), Program::ok(3)], vec![step], 2, 2)).await, Vec::<String>::new());
}

#[tokio::test]
#[ignore = "needs an API server that nobody else uses"]
async fn a_namespace_is_deleted() {
    let step = Step { when: When::Runs { job: "train", nth: 1, later: seconds(2) }, act: Act::DeleteNamespace };
    let mut scenario = scenario(&[Program::ok(60)], vec![step], 1, 1);
    scenario.expect.jobs = catalog::named("namespace-deleted").expect("there").expect.jobs;
    assert_eq!(live(scenario).await, Vec::<String>::new());
}
