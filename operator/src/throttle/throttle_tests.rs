//! Calls through the buckets, in virtual time.

use super::*;
use crate::clouds_test::{Scripted, scope};
use gpujob_provider_core::{LaunchCall, Launched, MachineProvider, NoticeSource, ProviderError, Rate, Rates};
use tokio::time::Instant;

fn call(node: &str) -> LaunchCall {
    LaunchCall { request: serde_json::json!({}), cluster: "c".into(), node: node.into(), node_uid: node.into(), ordinal: 1 }
}

/// As whoever launches does it.
async fn send(provider: &dyn MachineProvider, node: &str) -> Result<Launched, ProviderError> {
    provider.turn(node).await;
    provider.launch(&call(node)).await
}

fn clouds(scripted: &Arc<Scripted>) -> Arc<Throttled> {
    Arc::new(Throttled::new(scripted.clone(), Arc::default()))
}

#[tokio::test(start_paused = true)]
async fn launches_are_paced_in_their_own_scope_and_delay_nothing_else() {
    let scripted = Arc::new(Scripted::default());
    let clouds = clouds(&scripted);
    let (here, there) = (clouds.machines(&scope("here")).await.expect("ready"), clouds.machines(&scope("there")).await.expect("ready"));
    let start = Instant::now();
    let Rate { each, burst } = Rates::default().launch;
    let many: Vec<_> = (0..burst + 20)
        .map(|n| {
            let here = here.clone();
            tokio::spawn(async move { send(&*here, &format!("gn-{n}")).await.map(drop) })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(scripted.count("launch"), burst as usize, "a burst goes at once");
    let _ = send(&*there, "other").await;
    let _ = here.list("c").await;
    assert!(start.elapsed() < Duration::from_millis(10), "{:?}", start.elapsed());
    for one in many {
        let _ = one.await.expect("no panic");
    }
    // The jitter of the last is less than one turn.
    assert!((20 * each..=21 * each + Duration::from_millis(50)).contains(&start.elapsed()), "20 more, a turn each: {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn launches_that_are_given_up_delay_nobody() {
    let scripted = Arc::new(Scripted::default());
    let clouds = clouds(&scripted);
    let here = clouds.machines(&scope("here")).await.expect("ready");
    let Rate { each, burst } = Rates::default().launch;
    let deleted: Vec<_> = (0..burst + 1000)
        .map(|n| {
            let here = here.clone();
            tokio::spawn(async move { here.turn(&format!("gn-{n}")).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1)).await;
    let start = Instant::now();
    deleted.iter().for_each(|turn| turn.abort());
    let _ = send(&*here, "wanted").await;
    // The head of the queue had its token already.
    assert!(start.elapsed() < 3 * each, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_complaint_slows_calls_down_and_every_silent_call_ends() {
    let scripted = Arc::new(Scripted::default());
    let clouds = clouds(&scripted);
    let provider = clouds.machines(&scope("here")).await.expect("ready");
    scripted.answer(ErrorClass::Throttled);
    assert!(send(&*provider, "a").await.is_err());
    let start = Instant::now();
    let _ = send(&*provider, "b").await;
    assert!(start.elapsed() > Rates::default().launch.each, "{:?}", start.elapsed());

    scripted.hang();
    let silent: ErrorClass = send(&*provider, "c").await.expect_err("no answer").class;
    assert_eq!(silent, ErrorClass::Unknown, "it may have been heard");
    for (limit, source) in [(5, NoticeSource::Poll), (30, NoticeSource::Queue("https://q".into()))] {
        let start = Instant::now();
        assert!(provider.notices(&source).await.is_err());
        assert_eq!(start.elapsed().as_secs(), limit);
    }
    let unknown = clouds.machines(&scope("elsewhere")).await.map(drop).expect_err("the connection hangs too");
    assert_eq!(unknown.class, ErrorClass::Throttled, "nothing was sent");
}

#[test]
fn jitter_is_reproducible_and_spreads() {
    let within = Duration::from_secs(1);
    let all: std::collections::BTreeSet<Duration> = (0..100).map(|n| jitter(&format!("gn-{n}"), within)).collect();
    assert!(all.len() > 95 && all.iter().all(|j| *j < within));
    assert_eq!(jitter("gn-1", within), jitter("gn-1", within));
}
