//! Keys of objects to look at, and the driver that looks: each key once at a time, again when it changed meanwhile, and
//! again at the time that its plan named. Events only say where to look; what to do is read from the caches.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Namespace and name of a GpuJob.
pub type JobKey = (String, String);

/// Where changes are announced. Sending never waits.
#[derive(Clone, Debug)]
pub struct Queues {
    /// GpuJobs.
    pub jobs: mpsc::UnboundedSender<JobKey>,
    /// GpuNodes.
    pub nodes: mpsc::UnboundedSender<String>,
    /// GpuPools.
    pub pools: mpsc::UnboundedSender<String>,
    /// The one scheduler.
    pub scheduler: mpsc::UnboundedSender<()>,
}

/// The other ends.
#[derive(Debug)]
pub struct Receivers {
    /// GpuJobs.
    pub jobs: mpsc::UnboundedReceiver<JobKey>,
    /// GpuNodes.
    pub nodes: mpsc::UnboundedReceiver<String>,
    /// GpuPools.
    pub pools: mpsc::UnboundedReceiver<String>,
    /// The one scheduler.
    pub scheduler: mpsc::UnboundedReceiver<()>,
}

impl Queues {
    /// Fresh queues.
    #[must_use]
    pub fn new() -> (Self, Receivers) {
        let (jobs, jobs_end) = mpsc::unbounded_channel();
        let (nodes, nodes_end) = mpsc::unbounded_channel();
        let (pools, pools_end) = mpsc::unbounded_channel();
        let (scheduler, scheduler_end) = mpsc::unbounded_channel();
        (
            Queues { jobs, nodes, pools, scheduler },
            Receivers { jobs: jobs_end, nodes: nodes_end, pools: pools_end, scheduler: scheduler_end },
        )
    }
}

/// How a look at one object ended.
pub type Looked = Result<Option<Duration>, Box<dyn std::error::Error + Send + Sync>>;

/// Looks of one lane at the same time. The API server judges a custom resource under one lock for all formats: hundreds of writes at
/// once only hand it on to each other (measured: 1,000 nodes at once on two busy cores, 35 writes a second and answers after the time
/// limit). Sixteen keep a server busy, and an answer quick.
const AT_ONCE: usize = 16;

/// What shares the right to look, so that looks which hang delay their own kind at most.
pub trait Lane {
    /// The lane of this key.
    fn lane(&self) -> &str;
}

/// Those of a namespace share its webhooks and quotas.
impl Lane for JobKey {
    fn lane(&self) -> &str {
        &self.0
    }
}

/// Objects of the cluster: nothing but the API server itself stands between them and us.
impl Lane for String {
    fn lane(&self) -> &str {
        ""
    }
}

/// Looks at keys as they come until the queue closes or `shutdown`. A failed look is repeated after 1 s, doubling to 1 min;
/// `pace` is the least time between two looks at the same key, and `limit` how long one may take, its wait for its turn aside.
pub async fn drive<K, F>(
    name: &'static str,
    mut queue: mpsc::UnboundedReceiver<K>,
    pace: Duration,
    limit: Duration,
    shutdown: tokio_util::sync::CancellationToken,
    look: F,
) where
    K: Clone + Ord + Hash + Lane + Send + std::fmt::Debug + 'static,
    F: Fn(K) -> BoxFuture<'static, Looked>,
{
    let mut due: BTreeMap<(Instant, u64), K> = BTreeMap::new();
    let mut when: HashMap<K, (Instant, u64)> = HashMap::new();
    let mut running: BTreeSet<K> = BTreeSet::new();
    let mut again: BTreeSet<K> = BTreeSet::new();
    let mut failures: HashMap<K, u32> = HashMap::new();
    let mut last: HashMap<K, Instant> = HashMap::new();
    let mut tasks: JoinSet<(K, Looked)> = JoinSet::new();
    let mut lanes: HashMap<String, Arc<Semaphore>> = HashMap::new();
    let mut count = 0u64;
    loop {
        let next = due.first_key_value().map(|((at, _), _)| *at);
        let wanted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(done) = tasks.join_next() => match done {
                Ok((key, result)) => {
                    running.remove(&key);
                    last.insert(key.clone(), Instant::now());
                    let wait = match result {
                        Ok(wait) => { failures.remove(&key); wait }
                        Err(error) => {
                            let n = failures.entry(key.clone()).and_modify(|n| *n += 1).or_insert(0);
                            let wait = Duration::from_secs(1 << (*n).min(6)).min(Duration::from_secs(60));
                            tracing::warn!(controller = name, ?key, %error, again_in = wait.as_secs(), "failed");
                            Some(wait)
                        }
                    };
                    if again.remove(&key) {
                        Some((key, Duration::ZERO))
                    } else if let Some(wait) = wait {
                        Some((key, wait))
                    } else {
                        last.remove(&key); // settled: forget it
                        None
                    }
                }
                Err(error) => { tracing::error!(controller = name, %error, "a look ended badly"); None }
            },
            key = queue.recv() => match key {
                Some(key) => Some((key, Duration::ZERO)),
                None => break,
            },
            () = async { match next { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => {
                if let Some((_, key)) = due.pop_first() {
                    when.remove(&key);
                    running.insert(key.clone());
                    if !lanes.contains_key(key.lane()) {
                        // Those that look, and those that wait for it, hold their lane: one that nobody holds may be made anew.
                        lanes.retain(|_, lane| Arc::strong_count(lane) > 1);
                    }
                    let lane = lanes.entry(key.lane().to_owned()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE))).clone();
                    let job = look(key.clone());
                    tasks.spawn(async move {
                        let _turn = lane.acquire_owned().await;
                        // A panic must not leave the key among the running ones: it would never be looked at again.
                        let caught = std::panic::AssertUnwindSafe(tokio::time::timeout(limit, job)).catch_unwind().await;
                        let result = match caught {
                            Ok(Ok(result)) => result,
                            Ok(Err(_)) => Err("took too long".into()),
                            Err(_) => Err("panicked".into()),
                        };
                        (key, result)
                    });
                }
                None
            }
        };
        if let Some((key, wait)) = wanted {
            if running.contains(&key) {
                again.insert(key);
                continue;
            }
            let mut at = Instant::now() + wait;
            if let Some(last) = last.get(&key) {
                at = at.max(*last + pace);
            }
            match when.get(&key) {
                Some((known, _)) if *known <= at => {}
                known => {
                    if let Some(known) = known {
                        due.remove(known);
                    }
                    count += 1;
                    when.insert(key.clone(), (at, count));
                    due.insert((at, count), key);
                }
            }
        }
    }
    tasks.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Each key of its own lane.
    impl Lane for u32 {
        fn lane(&self) -> &str {
            ["0", "1", "2", "3", "4", "5", "6", "7"][*self as usize]
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_looks_at_some_at_once_and_delays_no_other() {
        let (send, receive) = mpsc::unbounded_channel();
        let looks = Arc::new(Mutex::new(vec![]));
        let seen = looks.clone();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let look = move |(namespace, name): JobKey| -> BoxFuture<'static, Looked> {
            let seen = seen.clone();
            Box::pin(async move {
                seen.lock().expect("lock").push((namespace.clone(), name));
                if namespace == "hangs" {
                    tokio::time::sleep(Duration::from_secs(3600)).await;
                }
                Ok(None)
            })
        };
        let driver = tokio::spawn(drive("test", receive, Duration::ZERO, Duration::from_secs(5), shutdown.clone(), look));
        let of = |namespace: &str| looks.lock().expect("lock").iter().filter(|(of, _)| of == namespace).count();
        for number in 0..2 * AT_ONCE {
            send.send(("hangs".to_owned(), number.to_string())).expect("open");
        }
        send.send(("other".to_owned(), "1".to_owned())).expect("open");
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!((of("hangs"), of("other")), (AT_ONCE, 1));
        // The limit of each counts from its own turn.
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(of("hangs") >= 2 * AT_ONCE, "{} looks", of("hangs"));
        shutdown.cancel();
        driver.await.expect("driver");
    }

    #[tokio::test(start_paused = true)]
    async fn looks_again_at_the_named_time_and_once_per_burst() {
        let (send, receive) = mpsc::unbounded_channel();
        let looks = Arc::new(Mutex::new(vec![]));
        let seen = looks.clone();
        let start = Instant::now();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let driver =
            tokio::spawn(drive("test", receive, Duration::from_millis(50), Duration::from_secs(5), shutdown.clone(), move |key: u32| {
                let seen = seen.clone();
                Box::pin(async move {
                    let n = {
                        let mut seen = seen.lock().expect("lock");
                        seen.push((key, start.elapsed().as_millis()));
                        seen.len()
                    };
                    Ok((n == 1).then(|| Duration::from_secs(3)))
                })
            }));
        for _ in 0..10 {
            send.send(7).expect("open");
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        shutdown.cancel();
        driver.await.expect("driver");
        assert_eq!(*looks.lock().expect("lock"), vec![(7, 0), (7, 3000)]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_hangs_delays_no_other() {
        let (send, receive) = mpsc::unbounded_channel();
        let looks = Arc::new(Mutex::new(vec![]));
        let seen = looks.clone();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let driver = tokio::spawn(drive("test", receive, Duration::ZERO, Duration::from_secs(60), shutdown.clone(), move |key: u32| {
            let seen = seen.clone();
            Box::pin(async move {
                if key == 1 {
                    std::future::pending::<()>().await;
                }
                seen.lock().expect("lock").push(key);
                Ok(None)
            })
        }));
        send.send(1).expect("open");
        send.send(2).expect("open");
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(*looks.lock().expect("lock"), vec![2]);
        shutdown.cancel();
        driver.await.expect("driver");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_that_panics_is_repeated() {
        let (send, receive) = mpsc::unbounded_channel();
        let looks = Arc::new(Mutex::new(0));
        let seen = looks.clone();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let look = move |_: u32| -> BoxFuture<'static, Looked> {
            let seen = seen.clone();
            Box::pin(async move {
                let n = {
                    let mut n = seen.lock().expect("lock");
                    *n += 1;
                    *n
                };
                assert!(n > 1, "the first look");
                Ok(None)
            })
        };
        let driver = tokio::spawn(drive("test", receive, Duration::ZERO, Duration::from_secs(5), shutdown.clone(), look));
        send.send(1).expect("open");
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(*looks.lock().expect("lock"), 2);
        shutdown.cancel();
        driver.await.expect("driver");
    }
}
