//! Candidates over one Lease, in virtual time: one leads, never two, and there is always one soon.

use super::*;
use crate::clock::Clock;
use jiff::Timestamp;
use kube::client::Body;
use serde_json::{Value, json};
use std::sync::Mutex;

const LEASE: Duration = Duration::from_secs(15);
const BLINK: Duration = Duration::from_millis(50);

/// The one Lease, with the API server's manners: a version that moves with every write, and 409 for an older one.
#[derive(Default)]
struct Server {
    lease: Mutex<Option<Value>>,
    writes: Mutex<u64>,
}

/// What is between a candidate and the server.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Open,
    /// Nothing is ever answered, nothing arrives.
    Cut,
    /// Refused at once.
    Refused,
    /// It arrives, and the answer comes this much later.
    Late(Duration),
}

impl Server {
    fn serve(&self, method: &str, body: &[u8]) -> (u16, Value) {
        let (mut lease, mut writes) = (self.lease.lock().expect("lock"), self.writes.lock().expect("lock"));
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let conflict = (409, json!({"kind": "Status", "status": "Failure", "code": 409, "reason": "Conflict", "message": "changed"}));
        let answer = match (method, lease.as_mut()) {
            ("GET", Some(lease)) => return (200, lease.clone()),
            ("GET", None) => {
                return (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no"}));
            }
            ("PATCH", Some(lease)) => {
                lease["metadata"]["annotations"] = body["metadata"]["annotations"].clone();
                lease
            }
            ("POST", None) => lease.insert(body),
            ("PUT", Some(lease)) if lease["metadata"]["resourceVersion"] == body["metadata"]["resourceVersion"] => {
                *lease = body;
                lease
            }
            _ => return conflict,
        };
        *writes += 1;
        answer["metadata"]["resourceVersion"] = json!(writes.to_string());
        (200, answer.clone())
    }

    /// As the drain does: another field, another version, the same record.
    fn annotate(&self, text: &str) {
        let body = json!({"metadata": {"annotations": {names::DRAINING: text}}});
        assert_eq!(self.serve("PATCH", body.to_string().as_bytes()).0, 200);
    }
}

struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        Timestamp::UNIX_EPOCH.checked_add(self.0.elapsed()).expect("time")
    }
}

struct Replica {
    way: Arc<Mutex<Way>>,
    candidate: Arc<Candidate>,
    leadership: Leadership,
    campaign: tokio::task::JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Replica {
    fn start(server: &Arc<Server>, name: &str) -> Self {
        let way = Arc::new(Mutex::new(Way::Open));
        let (to, between) = (server.clone(), way.clone());
        let service = tower::service_fn(move |request: http::Request<Body>| {
            let (server, way) = (to.clone(), *between.lock().expect("lock"));
            async move {
                match way {
                    Way::Cut => std::future::pending().await,
                    Way::Refused => return Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
                    Way::Open | Way::Late(_) => {}
                }
                let method = request.method().to_string();
                let body = request.into_body().collect_bytes().await.map_err(std::io::Error::other)?;
                let (status, answer) = server.serve(&method, &body);
                if let Way::Late(by) = way {
                    tokio::time::sleep(by).await;
                }
                let answer = Body::from(answer.to_string().into_bytes());
                http::Response::builder().status(status).body(answer).map_err(std::io::Error::other)
            }
        });
        let client = kube::Client::new(service, "gpujob-system");
        let candidate = Arc::new(Candidate {
            api: Api::namespaced(client, "gpujob-system"),
            identity: name.into(),
            lease: LEASE,
            clock: Arc::new(Virtual(Instant::now())),
        });
        let shutdown = CancellationToken::new();
        let (leadership, campaign) = candidate.run(shutdown.clone());
        Self { way, candidate, leadership, campaign, shutdown }
    }

    fn leads(&self) -> bool {
        self.leadership.is_leader()
    }

    fn put(&self, way: Way) {
        *self.way.lock().expect("lock") = way;
    }
}

/// Looks every blink until `until` holds; never may both lead. Returns how long it took.
async fn watch_until(limit: Duration, replicas: [&Replica; 2], until: impl Fn() -> bool) -> Duration {
    let start = Instant::now();
    while !until() {
        assert!(!(replicas[0].leads() && replicas[1].leads()), "both lead after {:?}", start.elapsed());
        assert!(start.elapsed() < limit, "it did not come within {limit:?}");
        tokio::time::sleep(BLINK).await;
    }
    start.elapsed()
}

async fn two() -> (Arc<Server>, Replica, Replica) {
    let server = Arc::new(Server::default());
    let first = Replica::start(&server, "a");
    tokio::time::sleep(Duration::from_millis(700)).await;
    let second = Replica::start(&server, "b");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(first.leads() && !second.leads());
    (server, first, second)
}

#[tokio::test(start_paused = true)]
async fn of_two_candidates_one_leads_and_goes_on_leading() {
    let (server, first, second) = two().await;
    let end = Instant::now() + Duration::from_secs(600);
    while Instant::now() < end {
        assert!(first.leads() && !second.leads());
        tokio::time::sleep(BLINK).await;
    }
    let lease = server.serve("GET", b"").1;
    assert_eq!(lease["spec"]["leaseTransitions"], 0, "{lease}");
}

#[tokio::test(start_paused = true)]
async fn a_killed_leader_is_followed_within_twenty_seconds() {
    for died_after in 0..8 {
        let (_server, first, second) = two().await;
        tokio::time::sleep(Duration::from_millis(331 * died_after)).await;
        first.campaign.abort();
        first.put(Way::Cut);
        let took = watch_until(Duration::from_secs(20), [&first, &second], || second.leads()).await;
        assert!(took > Duration::from_secs(12), "{took:?}: it was not silent for a lease yet");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_has_stopped_before_another_follows() {
    let ways = [Way::Cut, Way::Refused, Way::Late(Duration::from_secs(4)), Way::Late(Duration::from_secs(9))];
    for (way, wait) in ways.into_iter().flat_map(|way| (0..6).map(move |n| (way, n * 450))) {
        let (_server, first, second) = two().await;
        tokio::time::sleep(Duration::from_millis(wait)).await;
        first.put(way);
        // What arrives late may keep the lease: then there is nobody to follow, and never are there two.
        if matches!(way, Way::Late(_)) {
            let end = Instant::now() + Duration::from_secs(120);
            while Instant::now() < end {
                assert!(!(first.leads() && second.leads()), "{way:?}: both lead");
                tokio::time::sleep(BLINK).await;
            }
            continue;
        }
        let took = watch_until(Duration::from_secs(20), [&first, &second], || second.leads()).await;
        assert!(!first.leads(), "{way:?} after {took:?}");
        first.put(Way::Open);
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(!first.leads() && second.leads(), "{way:?}: who comes back follows");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_hands_over_within_three_seconds() {
    for stopped_after in 0..8 {
        let (_server, first, second) = two().await;
        tokio::time::sleep(Duration::from_millis(331 * stopped_after)).await;
        first.shutdown.cancel();
        (&mut { first.campaign }).await.expect("it ends");
        assert!(!first.leadership.is_leader(), "it acts no more, and only then gives up");
        first.candidate.release().await;
        let start = Instant::now();
        while !second.leads() {
            assert!(start.elapsed() < Duration::from_secs(2));
            tokio::time::sleep(BLINK).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_order_to_drain_reaches_both_survives_renewals_and_keeps_no_dead_leader_in_office() {
    let (server, first, second) = two().await;
    server.annotate("1970-01-01T00:00:05Z");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(first.leadership.is_draining() && second.leadership.is_draining());
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert!(first.leads() && first.leadership.is_draining(), "renewed twenty times meanwhile");
    first.campaign.abort();
    first.put(Way::Cut);
    let start = Instant::now();
    let mut renewed = 0;
    while !second.leads() {
        assert!(start.elapsed() < Duration::from_secs(20), "the drain's own writes looked like the leader's");
        renewed += 1;
        server.annotate(&format!("1970-01-01T00:02:{renewed:02}Z"));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert!(second.leadership.is_draining());
    tokio::time::sleep(Duration::from_secs(62)).await;
    assert!(second.leads() && !second.leadership.is_draining(), "nobody renews it: it is over");
}

#[tokio::test(start_paused = true)]
async fn once_drained_nobody_leads_and_the_next_install_does_at_once() {
    let (server, first, second) = two().await;
    server.annotate("1970-01-01T00:00:05Z");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(first.leads());
    server.annotate(crate::drain::DRAINED);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!first.leads() && !second.leads());
    assert_eq!(server.serve("GET", b"").1["spec"]["holderIdentity"], "");
    let next = Replica::start(&server, "c");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(next.leads() && !next.leadership.is_draining());
    assert!(!first.leads() && !second.leads());
}
