//! What a sidecar saves while a program runs, and restores before the next attempt's: how far the program has come.
//!
//! A save is one object, so it is whole or not there. Each pod has its own: an attempt that nobody told of its end saves on for a
//! while, and takes nothing away from the one that has gone further.

use super::super::kubelet::{Orders, run_program};
use super::super::script::Program;
use super::Store;
use crate::signal::Receiver;
use gpujob_crds::names;
use gpujob_transfer::spec::TransferSpec;
use kube::ResourceExt;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The checkpoints of one attempt's program.
#[derive(Clone, Debug)]
pub(in crate::world) struct Checkpoints {
    store: Store,
    to: String,
    key: String,
    interval: Duration,
}

impl Checkpoints {
    /// None: the job saves nothing.
    pub(in crate::world) fn of(store: &Store, spec: &TransferSpec, pod_uid: &str) -> Option<Self> {
        let asked = spec.checkpoints.as_ref()?;
        let to = format!("{}.gpujob/checkpoints/{}-{}/", asked.to, spec.job.uid, spec.index);
        let key = format!("{to}{}-{pod_uid}", spec.attempt);
        Some(Checkpoints { store: store.clone(), to, key, interval: Duration::from_secs(asked.interval_seconds) })
    }

    /// Runs what is left of the program after the furthest save, and saves at every interval, whenever the operator asks for it, and when
    /// it is told to end.
    pub(in crate::world) async fn around(self, program: Program, term: &CancellationToken, mut orders: Receiver<Orders>) -> i32 {
        let before = self.restored().await.min(program.runs_for);
        let began = Instant::now();
        let reached = || before + began.elapsed().as_secs();
        let rest = run_program(Program { runs_for: program.runs_for - before, ..program }, term);
        tokio::pin!(rest);
        loop {
            tokio::select! {
                biased;
                code = &mut rest => {
                    if term.is_cancelled() {
                        self.save(reached()).await;
                    }
                    return code;
                }
                () = asked(&mut orders) => self.save(reached()).await,
                () = tokio::time::sleep(self.interval) => self.save(reached()).await,
            }
        }
    }

    async fn restored(&self) -> u64 {
        let mut furthest = 0;
        for key in self.store.below(&self.to) {
            let found = self.store.get(&key).await.and_then(|(bytes, _)| String::from_utf8(bytes).ok()?.parse().ok());
            furthest = furthest.max(found.unwrap_or(0));
        }
        furthest
    }

    async fn save(&self, seconds: u64) {
        self.store.put(&self.key, seconds.to_string().as_bytes()).await;
    }
}

/// Waits until the pod is asked for a checkpoint anew.
async fn asked(orders: &mut Receiver<Orders>) {
    let last = |orders: &Receiver<Orders>| orders.borrow().pod.as_ref().and_then(|pod| pod.annotations().get(names::CHECKPOINT).cloned());
    let before = last(orders);
    while last(orders) == before {
        if orders.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signal;
    use gpujob_transfer::spec;

    fn checkpoints(store: &Store, attempt: u32) -> Checkpoints {
        let spec = TransferSpec {
            job: spec::JobRef::default(),
            index: 0,
            attempt,
            inputs: vec![],
            results: None,
            checkpoints: Some(spec::Checkpoints { path: "/c".into(), to: "s3://bucket/c/".into(), interval_seconds: 60, keep: 3 }),
            integrity: None,
            abandoned: vec![],
        };
        Checkpoints::of(store, &spec, "pod").expect("it saves")
    }

    async fn run(store: &Store, attempt: u32, told: Option<u64>) -> (i32, u64) {
        let (term, began) = (CancellationToken::new(), Instant::now());
        let order = term.clone();
        tokio::spawn(async move {
            if let Some(after) = told {
                tokio::time::sleep(Duration::from_secs(after)).await;
                order.cancel();
            }
        });
        let code = checkpoints(store, attempt).around(Program::ok(300), &term, signal::channel(Orders::default()).1).await;
        (code, began.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_attempt_goes_on_where_the_last_one_was_told_to_end() {
        let store = Store::new(Duration::ZERO);
        assert_eq!(run(&store, 1, Some(100)).await, (143, 101));
        assert_eq!(run(&store, 2, None).await, (0, 199));
    }

    #[tokio::test(start_paused = true)]
    async fn power_that_fails_costs_what_was_done_since_the_last_interval() {
        let store = Store::new(Duration::ZERO);
        let term = CancellationToken::new();
        let (_orders, told) = signal::channel(Orders::default());
        let cut = tokio::time::timeout(Duration::from_secs(130), checkpoints(&store, 1).around(Program::ok(300), &term, told)).await;
        assert!(cut.is_err());
        assert_eq!(run(&store, 2, None).await, (0, 180));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_asked_for_comes_between_two_intervals() {
        let store = Store::new(Duration::ZERO);
        let (term, (orders, told)) = (CancellationToken::new(), signal::channel(Orders::default()));
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(100)).await;
            let mut pod = k8s_openapi::api::core::v1::Pod::default();
            pod.metadata.annotations = Some([(names::CHECKPOINT.to_owned(), "now".to_owned())].into());
            orders.send_modify(|orders| orders.pod = Some(pod.into()));
            tokio::time::sleep(Duration::from_secs(1000)).await;
        });
        let cut = tokio::time::timeout(Duration::from_secs(110), checkpoints(&store, 1).around(Program::ok(300), &term, told)).await;
        assert!(cut.is_err());
        assert_eq!(run(&store, 2, None).await, (0, 200));
    }
}
