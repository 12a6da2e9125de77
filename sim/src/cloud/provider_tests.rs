use super::*;
use crate::cloud::fixture::{Buyer, CLUSTER, cloud, machines, pool};
use crate::cloud::machine::ANNOUNCED;
use crate::cloud::shown::CONSOLE;
use crate::cloud::{Boot, Fault, Place, Places, RECLAIMED, ZONES};
use gpujob_crds::Market;
use gpujob_provider_core::{NoticeKind, Scope};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);

async fn ids(provider: &dyn MachineProvider) -> Vec<String> {
    provider.list(CLUSTER).await.expect("a list").instances.into_iter().map(|i| i.id).collect()
}

#[tokio::test(start_paused = true)]
async fn an_answer_is_lost_before_the_effect_or_after_it() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.fault(Fault::next(Operation::Launch, Failure::Lost(When::Before)));
    assert_eq!(buyer.buy("a", 1).await.expect_err("lost").class, ErrorClass::Unknown);
    assert!(cloud.instances().is_empty());
    cloud.fault(Fault::next(Operation::Launch, Failure::Lost(When::After)));
    assert_eq!(buyer.buy("a", 1).await.expect_err("lost").class, ErrorClass::Unknown);
    let made = cloud.instances()[0].id.clone();
    assert_eq!(buyer.buy("a", 1).await.expect("the same call").id, made);
}

#[tokio::test(start_paused = true)]
async fn a_call_may_hang_with_or_without_its_effect() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    for (when, made) in [(When::Before, 0), (When::After, 1)] {
        cloud.fault(Fault::next(Operation::Launch, Failure::Hangs(when)));
        assert!(timeout(SECOND * 100_000, buyer.buy("a", 1)).await.is_err());
        assert_eq!(cloud.instances().len(), made);
    }
    let outcomes: Vec<String> = cloud.calls().into_iter().filter(|c| c.operation == Operation::Launch).map(|c| c.outcome).collect();
    assert_eq!(outcomes, ["hangs, nothing happened", "hangs"]);
}

#[tokio::test(start_paused = true)]
async fn the_effect_comes_half_way_and_whoever_leaves_does_not_undo_it() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_latency(Operation::Launch, SECOND * 2);
    cloud.fault(Fault::next(Operation::Launch, Failure::Slow(SECOND * 2)));
    assert!(timeout(SECOND, buyer.buy("early", 1)).await.is_err());
    assert!(timeout(SECOND * 3 / 2, buyer.buy("late", 1)).await.is_err());
    assert_eq!(cloud.instances().len(), 1, "the first was slower");
    let start = Instant::now();
    buyer.buy("whole", 1).await.expect("bought");
    assert_eq!(start.elapsed(), SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn writes_are_told_when_they_have_happened_and_before_the_answer() {
    let cloud = cloud();
    let told = Arc::new(Mutex::new(vec![]));
    let (seen, truth) = (told.clone(), cloud.clone());
    cloud.on_write(move |write| {
        let line = format!("{} {:?} {} of {}", write.process, write.operation, truth.instances().len(), truth.templates().len());
        seen.lock().expect("one thread").push(line);
    });
    let buyer = Buyer::new(&cloud).await;
    cloud.fault(Fault::next(Operation::Launch, Failure::Hangs(When::After)));
    assert!(timeout(SECOND, buyer.buy("gn", 1)).await.is_err());
    let launched = buyer.buy("gn", 1).await.expect("a replay");
    for _ in 0..2 {
        buyer.provider.terminate(&launched.id).await.expect("ended");
        buyer.provider.prepare(&pool(), CLUSTER).await.expect("prepared");
        buyer.provider.release("pool-uid", CLUSTER).await.expect("released");
        buyer.provider.release("pool-uid", CLUSTER).await.expect("released");
    }
    let expected = ["Prepare 0 of 1", "Launch 1 of 1", "Terminate 1 of 1", "Release 1 of 0", "Prepare 1 of 1", "Release 1 of 0"];
    assert_eq!(*told.lock().expect("one thread"), expected.map(|line| format!("operator {line}")), "each once, replays not at all");
}

#[tokio::test(start_paused = true)]
async fn a_useless_instance_is_named() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.fault(Fault::next(Operation::Launch, Failure::Useless));
    let error = buyer.buy("gn", 1).await.expect_err("useless");
    assert_eq!(error.class, ErrorClass::CreatedButFailed { instance: cloud.instances()[0].id.clone() });
}

#[tokio::test(start_paused = true)]
async fn an_end_can_be_forgotten_once() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let id = buyer.buy("gn", 1).await.expect("bought").id;
    sleep(SECOND * 5).await;
    cloud.fault(Fault::next(Operation::Terminate, Failure::Forgotten));
    assert_eq!(buyer.provider.terminate(&id).await.expect("agreed"), Terminated::InProgress);
    assert!(cloud.instances()[0].ending.is_none());
    assert_eq!(buyer.provider.terminate(&id).await.expect("agreed"), Terminated::InProgress);
    assert!(cloud.instances()[0].ending.is_some());
}

#[tokio::test(start_paused = true)]
async fn calls_are_throttled_refused_and_logged_by_process() {
    let cloud = cloud();
    let (one, two) = (machines(&cloud, "one").await, machines(&cloud, "two").await);
    cloud.fault(Fault::every_call(Failure::Refused(ErrorClass::Unauthorized)).of("two"));
    cloud.limit(Operation::List, SECOND, 1);
    one.list(CLUSTER).await.expect("a list");
    assert_eq!(one.list(CLUSTER).await.expect_err("throttled").class, ErrorClass::Throttled);
    sleep(SECOND).await;
    assert_eq!(two.list(CLUSTER).await.expect_err("revoked").class, ErrorClass::Unauthorized);
    assert_eq!(two.terminate("i-1").await.expect_err("revoked").class, ErrorClass::Unauthorized);
    cloud.calm();
    two.list(CLUSTER).await.expect("a list");
    let log: Vec<_> = cloud.calls().into_iter().map(|c| format!("{} {:?} {}", c.process, c.operation, c.outcome)).collect();
    assert_eq!(log, ["one List ok", "one List Throttled", "two List Unauthorized", "two Terminate Unauthorized", "two List ok"]);
}

#[tokio::test(start_paused = true)]
async fn lists_lag_break_off_and_lie() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_lag(SECOND * 10);
    let launched = buyer.buy("a", 1).await.expect("bought");
    assert_eq!(launched.instance, None, "not shown yet");
    assert!(ids(&*buyer.provider).await.is_empty());
    sleep(SECOND * 10).await;
    assert_eq!(ids(&*buyer.provider).await, [launched.id.as_str()]);
    cloud.set_lag(Duration::ZERO);
    buyer.buy("b", 1).await.expect("bought");
    cloud.fault(Fault::next(Operation::List, Failure::Incomplete(1)));
    let listing = buyer.provider.list(CLUSTER).await.expect("a list");
    assert_eq!((listing.instances.len(), listing.complete), (1, false));
    sleep(SECOND * 20).await;
    cloud.fault(Fault::next(Operation::List, Failure::Stale(SECOND * 16)));
    let states: Vec<_> = buyer.provider.list(CLUSTER).await.expect("a list").instances.into_iter().map(|i| i.state).collect();
    assert_eq!(states, [InstanceState::Pending, InstanceState::Pending], "as it was");
}

#[tokio::test(start_paused = true)]
async fn what_belongs_to_others_is_not_listed() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let place = Place { instance_type: "p5.48xlarge".into(), zone: ZONES[0].into(), market: Market::OnDemand };
    let theirs = cloud.plant(&place, BTreeMap::from([(names::CLUSTER_TAG.to_owned(), "another".to_owned())]));
    assert!(ids(&*buyer.provider).await.is_empty());
    sleep(SECOND * 20_000).await;
    assert!(cloud.instance(&theirs).is_some_and(|m| m.is_alive()), "and it has no timer of ours");
}

#[tokio::test(start_paused = true)]
async fn an_end_takes_its_time_and_can_be_asked_again() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_id_lag(SECOND * 3);
    let id = buyer.buy("a", 1).await.expect("bought").id;
    assert_eq!(buyer.provider.terminate(&id).await.expect("not found"), Terminated::Gone, "though it runs: too new to be found");
    assert!(cloud.instance(&id).is_some_and(|m| m.is_alive()));
    sleep(SECOND * 3).await;
    assert_eq!(buyer.provider.terminate(&id).await.expect("ended"), Terminated::InProgress);
    assert_eq!(buyer.provider.terminate(&id).await.expect("ended"), Terminated::InProgress);
    sleep(SECOND * 20).await;
    assert_eq!(buyer.provider.terminate(&id).await.expect("gone"), Terminated::Gone);
    assert_eq!(buyer.provider.terminate("i-nobody").await.expect("unknown"), Terminated::Gone);
    assert_eq!(ids(&*buyer.provider).await, [id.as_str()], "the dead are shown");
    sleep(SECOND * 3600).await;
    assert!(ids(&*buyer.provider).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn interruptions_are_polled_and_queued_and_come_true() {
    let cloud = cloud();
    cloud.set_tells_ends(false);
    let buyer = Buyer::new(&cloud).await;
    let id = buyer.buy("a", 1).await.expect("bought").id;
    sleep(SECOND * 30).await;
    let queue = NoticeSource::Queue(QUEUE.into());
    let start = Instant::now();
    assert!(buyer.provider.notices(&queue).await.expect("nothing").is_empty());
    assert_eq!(start.elapsed(), LONG_POLL);
    let (reader, shutter) = (buyer.provider.clone(), cloud.clone());
    let waiting = tokio::spawn(async move { reader.notices(&NoticeSource::Queue(QUEUE.into())).await });
    sleep(SECOND).await;
    let start = Instant::now();
    assert!(shutter.interrupt(&id, SECOND * 40));
    let read = waiting.await.expect("ran").expect("read");
    assert_eq!((start.elapsed(), read[0].instance.as_str(), read[0].kind), (Duration::ZERO, id.as_str(), NoticeKind::Interruption));
    assert_eq!(read[0].at, Some(cloud.now() + ANNOUNCED), "what EC2 says, not what it will do");
    let polled = buyer.provider.notices(&NoticeSource::Poll).await.expect("polled");
    assert_eq!((polled[0].instance.as_str(), polled[0].receipt.as_deref()), (id.as_str(), None));
    buyer.provider.acknowledge(&queue, &read).await.expect("forgotten");
    buyer.provider.acknowledge(&queue, &read).await.expect("forgotten");
    sleep(SECOND * 39).await;
    assert!(cloud.instance(&id).is_some_and(|m| m.is_alive()));
    sleep(SECOND).await;
    assert_eq!(cloud.instance(&id).and_then(|m| m.why).as_deref(), Some(RECLAIMED));
    assert!(buyer.provider.notices(&queue).await.expect("nothing").is_empty());
    assert_eq!(buyer.provider.notices(&NoticeSource::Poll).await.expect("polled")[0].code, "instance-terminated-no-capacity");
    sleep(SECOND * 600).await;
    assert!(buyer.provider.notices(&NoticeSource::Poll).await.expect("polled").is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_told_of_every_end() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let id = buyer.buy("a", 1).await.expect("bought").id;
    cloud.end(&id);
    sleep(SECOND * 20).await;
    let read = buyer.provider.notices(&NoticeSource::Queue(QUEUE.into())).await.expect("read");
    assert_eq!(
        read.iter().map(|n| (n.instance.as_str(), n.code.as_str())).collect::<Vec<_>>(),
        [(&*id, "shutting-down"), (&*id, "terminated")]
    );
    assert!(buyer.provider.notices(&NoticeSource::Poll).await.expect("polled").is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_spot_is_taken_and_without_notice_nothing_is_said() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let place = Place { instance_type: "g6.xlarge".into(), zone: ZONES[0].into(), market: Market::OnDemand };
    let on_demand = cloud.plant(&place, BTreeMap::new());
    assert!(!cloud.interrupt(&on_demand, SECOND) && !cloud.rebalance(&on_demand) && !cloud.interrupt("i-nobody", SECOND));
    let id = buyer.buy("a", 1).await.expect("bought").id;
    assert!(cloud.interrupt(&id, Duration::ZERO));
    assert!(cloud.instance(&id).is_some_and(|m| !m.is_alive() && m.noticed.is_none()));
    assert!(buyer.provider.notices(&NoticeSource::Poll).await.expect("polled").is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_image_is_prefetched_once_its_template_shows() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_template_lag(SECOND * 5);
    let pool = pool();
    let ask = async || buyer.provider.prefetch(&pool, &buyer.prepared, "registry/big:1", CLUSTER).await.expect("an answer");
    assert_eq!(ask().await, None);
    sleep(SECOND * 5).await;
    let variant = ask().await.expect("visible");
    assert_ne!(variant, buyer.prepared);
    let with = Buyer { provider: buyer.provider.clone(), prepared: variant, offers: buyer.offers.clone() };
    let id = with.buy("a", 1).await.expect("bought").id;
    assert_eq!(cloud.instance(&id).and_then(|m| m.prefetch).as_deref(), Some("registry/big:1"));
    assert_eq!(cloud.templates().len(), 2, "made once");
    cloud.set_prefetch(false);
    assert_eq!(ask().await, None);
}

#[tokio::test(start_paused = true)]
async fn leftovers_are_shown_and_removed() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let id = buyer.buy("a", 1).await.expect("bought").id;
    cloud.leave_volume(&id);
    let template = buyer.provider.leftovers(CLUSTER).await.expect("leftovers");
    assert_eq!(template.iter().map(|l| (l.kind, l.pool_uid.as_deref())).collect::<Vec<_>>(), [(LeftoverKind::Template, Some("pool-uid"))]);
    cloud.end(&id);
    sleep(SECOND * 30).await;
    let both = buyer.provider.leftovers(CLUSTER).await.expect("leftovers");
    assert_eq!((both[0].kind, both[0].node_uid.as_deref()), (LeftoverKind::Volume, Some("uid-a")));
    assert!(buyer.provider.leftovers("another").await.expect("leftovers").is_empty());
    for leftover in both.iter().chain(&both) {
        buyer.provider.remove(leftover).await.expect("removed");
    }
    assert!(cloud.volumes().is_empty() && cloud.templates().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_console_keeps_its_end() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    let id = buyer.buy("a", 1).await.expect("bought").id;
    assert_eq!(buyer.provider.console(&id).await.expect("nothing"), None);
    cloud.say(&id, &"ü".repeat(2000));
    cloud.say(&id, "x");
    let text = buyer.provider.console(&id).await.expect("read").expect("text");
    assert!(text.len() <= CONSOLE && text.len() > CONSOLE - 4 && text.ends_with("üx"));
    assert_eq!(buyer.provider.console("i-nobody").await.expect("nothing"), None);
}

#[tokio::test(start_paused = true)]
async fn whoever_lives_by_events_is_woken_by_what_happens_by_itself() {
    let cloud = cloud();
    let buyer = Buyer::new(&cloud).await;
    cloud.set_boot(&Places::all(), Boot::After(SECOND * 42));
    let start = Instant::now();
    let id = buyer.buy("a", 1).await.expect("bought").id;
    let launched = cloud.events_after(0).await;
    let booted = cloud.events_after(launched[0].number).await;
    assert_eq!((start.elapsed(), booted[0].instance.as_str(), &booted[0].what), (SECOND * 42, id.as_str(), &crate::cloud::What::Running));
}

#[tokio::test(start_paused = true)]
async fn a_process_begins_afresh_and_other_scopes_are_not_served() {
    let cloud = cloud();
    let clouds = cloud.clouds_of("operator");
    assert!(clouds.ready(&cloud.scope()).is_none());
    clouds.machines(&cloud.scope()).await.expect("served");
    assert!(clouds.ready(&cloud.scope()).is_some() && cloud.clouds_of("operator").ready(&cloud.scope()).is_none());
    let elsewhere = Scope { provider: "aws".into(), region: "eu-west-1".into() };
    assert!(clouds.machines(&elsewhere).await.is_err_and(|e| e.class == ErrorClass::Invalid) && clouds.ready(&elsewhere).is_none());
}
