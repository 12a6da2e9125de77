use super::*;
use crate::world::store::Delivered;
use gpujob_transfer::receipt::Ended;
use gpujob_transfer::spec::{JobRef, OnExisting, Results};

const TO: &str = "s3://bucket/run/";

fn process(store: &Store, job: &str, attempt: u32, nonce: &str) -> Process {
    let job = JobRef { uid: job.into(), namespace: "lab".into(), name: job.into(), spec_hash: "h".into(), cluster: "c".into() };
    let results = Results {
        path: "/results".into(),
        to: TO.into(),
        summary: None,
        on_existing: OnExisting::Refuse,
        include: vec![],
        exclude: vec![],
        keep_on_failure_seconds: 600,
    };
    let spec = TransferSpec {
        job,
        index: 0,
        attempt,
        inputs: vec![],
        results: Some(results),
        checkpoints: None,
        integrity: None,
        abandoned: vec![],
    };
    Process { spec, pod_uid: format!("pod-{attempt}"), nonce: nonce.into(), publish: Duration::ZERO, store: store.clone() }
}

fn files(attempt: u32) -> BTreeMap<String, Vec<u8>> {
    BTreeMap::from([("result.txt".to_owned(), format!("attempt {attempt} pod pod-{attempt} exit 0\n").into_bytes())])
}

fn verdict(attempt: u32) -> Verdict {
    Verdict { attempt, outcome: Ended::Succeeded, exit_code: Some(0) }
}

fn store() -> Store {
    Store::new(Duration::from_millis(20))
}

fn winner(store: &Store) -> Option<u32> {
    match store.delivered(TO) {
        Delivered::Exactly { attempt, .. } => Some(attempt),
        Delivered::Nothing => None,
        other => panic!("{other:?}"),
    }
}

async fn sealed(store: &Store, job: &str, attempt: u32) -> Receipt {
    let name = format!("{job}-{attempt}");
    let fetched = process(store, job, attempt, &format!("{name}-fetch")).fetch(Duration::from_secs(1)).await;
    if fetched.exit_code() != 0 {
        return fetched;
    }
    process(store, job, attempt, &format!("{name}-stage")).stage(files(attempt), Duration::from_secs(2)).await
}

#[tokio::test(start_paused = true)]
async fn an_attempt_delivers_exactly_what_it_left() {
    let store = store();
    assert_eq!(sealed(&store, "a", 1).await.outcome, Outcome::Sealed);
    assert_eq!(winner(&store), None, "sealed is not visible");
    let receipt = process(&store, "a", 1, "commit").commit(verdict(1), Duration::from_secs(60)).await;
    assert_eq!((receipt.outcome, receipt.files), (Outcome::Committed, 1));
    assert_eq!(winner(&store), Some(1));
    assert!(store.below(&format!("{TO}.gpujob/staging/")).is_empty());
    let again = process(&store, "a", 1, "again").commit(verdict(1), Duration::from_secs(60)).await;
    assert_eq!(again.manifest, receipt.manifest);
}

#[tokio::test(start_paused = true)]
async fn a_zombie_neither_overwrites_nor_commits() {
    let store = store();
    let zombie = process(&store, "a", 1, "stage-1");
    assert_eq!(process(&store, "a", 1, "fetch-1").fetch(Duration::ZERO).await.outcome, Outcome::Done);
    assert_eq!(process(&store, "a", 1, "resolve").resolve().await.outcome, Outcome::Free);
    assert_eq!(sealed(&store, "a", 2).await.outcome, Outcome::Sealed);
    assert_eq!(zombie.clone().stage(files(1), Duration::ZERO).await.outcome, Outcome::Revoked);
    assert_eq!(process(&store, "a", 1, "commit-1").commit(verdict(1), Duration::ZERO).await.outcome, Outcome::Revoked);
    process(&store, "a", 2, "commit-2").commit(verdict(2), Duration::ZERO).await;
    assert_eq!(zombie.stage(files(1), Duration::ZERO).await.outcome, Outcome::Revoked);
    assert_eq!(winner(&store), Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_dies_anywhere_is_rolled_forward_or_never_began() {
    for cut in 0..60 {
        let store = store();
        sealed(&store, "a", 1).await;
        let commit = process(&store, "a", 1, "commit").commit(verdict(1), Duration::from_secs(60));
        // Each request takes 20 ms: a cut between two of them.
        let done = tokio::time::timeout(Duration::from_millis(20 * cut + 10), commit).await.is_ok();
        let answer = process(&store, "a", 1, "resolve").resolve().await;
        match winner(&store) {
            Some(1) => assert!(matches!(answer.outcome, Outcome::AlreadyCommitted | Outcome::RolledForward), "{cut}: {answer:?}"),
            None => assert!(answer.outcome == Outcome::Free && !done, "{cut}: {answer:?}"),
            other => panic!("{cut}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_jobs_destination_is_refused_and_not_touched() {
    let store = store();
    sealed(&store, "a", 1).await;
    let refused = sealed(&store, "b", 1).await;
    assert_eq!((refused.reason.as_str(), refused.retryable), (reason::DESTINATION_IN_USE, false));
    process(&store, "a", 1, "commit").commit(verdict(1), Duration::ZERO).await;
    assert_eq!(sealed(&store, "b", 1).await.reason, reason::DESTINATION_NOT_EMPTY);
    assert_eq!(winner(&store), Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_commit_waits_for_the_seal() {
    let store = store();
    process(&store, "a", 1, "fetch").fetch(Duration::ZERO).await;
    let stage = process(&store, "a", 1, "stage").stage(files(1), Duration::from_secs(30));
    let commit = process(&store, "a", 1, "commit").commit(verdict(1), Duration::from_secs(60));
    let (staged, committed) = tokio::join!(stage, commit);
    assert_eq!((staged.outcome, committed.outcome), (Outcome::Sealed, Outcome::Committed));
    let late = process(&store, "b", 1, "late").commit(verdict(1), Duration::from_secs(5)).await;
    assert_eq!(late.outcome, Outcome::Revoked);
}
