//! The table of PROTOCOLS' rules: who finds what, and what is done.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::spec::JobRef;

fn me(attempt: u32) -> Actor {
    actor("u", attempt, &format!("pod{attempt}"))
}

fn actor(uid: &str, attempt: u32, pod: &str) -> Actor {
    let job = JobRef {
        uid: uid.into(),
        namespace: "ns".into(),
        name: if uid == "foreign" { "other".into() } else { "job".into() },
        spec_hash: "h".into(),
        cluster: "c".into(),
    };
    Actor { job, index: 0, attempt, pod_uid: pod.into(), nonce: format!("n-{uid}-{attempt}") }
}

fn at(holder: &Actor, state: State) -> Epoch {
    let verdict = matches!(state, State::Committing | State::Committed).then_some(won(holder.attempt));
    let plan =
        matches!(state, State::Sealed | State::Committing | State::Committed).then(|| PlanRef { key: "p".into(), sha256: "s".into() });
    Epoch { state, seq: 7, verdict, plan, ..holder.running(None) }
}

fn won(attempt: u32) -> Verdict {
    Verdict { attempt, outcome: Ended::Succeeded, exit_code: Some(0) }
}

fn policy(on_existing: OnExisting, occupied: bool) -> Policy<'static> {
    Policy { on_existing, abandoned: &[], occupied }
}

fn word(decision: &Decision) -> String {
    match decision {
        Decision::Write(e) => format!("write {:?} {}", e.state, e.attempt),
        Decision::Refuse(Refusal::NotEmpty(_)) => "not empty".into(),
        Decision::Refuse(Refusal::InUse(_)) => "in use".into(),
        other => format!("{other:?}").split(['(', ' ']).next().unwrap().to_lowercase(),
    }
}

const STATES: [State; 6] = [State::Running, State::Sealed, State::Committing, State::Committed, State::Revoked, State::Released];

fn row(f: impl Fn(State) -> Decision) -> Vec<String> {
    STATES.iter().map(|s| word(&f(*s))).collect()
}

#[test]
fn a_higher_attempt_takes_over_and_a_lower_one_is_revoked() {
    let p = policy(OnExisting::Refuse, true);
    let taken = "write Running 2";
    assert_eq!(row(|s| claim(&me(2), Some(&at(&me(1), s)), p)), [taken, taken, "rollforward", "committed", taken, taken]);
    assert_eq!(row(|s| claim(&me(1), Some(&at(&me(2), s)), p)), ["revoked", "revoked", "rollforward", "committed", "revoked", "revoked"]);
}

#[test]
fn the_same_pod_may_claim_again_only_while_running_and_another_pod_never() {
    let p = policy(OnExisting::Refuse, true);
    assert_eq!(
        row(|s| claim(&me(1), Some(&at(&me(1), s)), p)),
        ["write Running 1", "revoked", "rollforward", "committed", "revoked", "revoked"]
    );
    let twin = actor("u", 1, "another-pod");
    assert_eq!(word(&claim(&twin, Some(&at(&me(1), State::Running)), p)), "revoked");
}

#[test]
fn an_empty_destination_is_claimed_and_a_full_one_only_by_overwrite() {
    for (on, occupied, want) in [
        (OnExisting::Refuse, false, "write Running 1"),
        (OnExisting::Reuse, false, "write Running 1"),
        (OnExisting::Refuse, true, "not empty"),
        (OnExisting::Reuse, true, "not empty"),
        (OnExisting::Overwrite, true, "write Running 1"),
    ] {
        assert_eq!(word(&claim(&me(1), None, policy(on, occupied))), want, "{on:?} {occupied}");
    }
}

#[test]
fn another_jobs_destination() {
    let other = actor("foreign", 3, "p");
    let refuse = policy(OnExisting::Refuse, false);
    assert_eq!(
        row(|s| claim(&me(1), Some(&at(&other, s)), refuse)),
        ["in use", "in use", "rollforward", "not empty", "in use", "write Running 1"]
    );
    let over = policy(OnExisting::Overwrite, true);
    assert_eq!(
        row(|s| claim(&me(1), Some(&at(&other, s)), over)),
        ["in use", "in use", "rollforward", "write Running 1", "in use", "write Running 1"]
    );
    // The operator has seen that the other job is gone: what it had not committed is taken over.
    let gone = ["foreign".to_string()];
    let taken = Policy { abandoned: &gone, ..refuse };
    assert_eq!(
        row(|s| claim(&me(1), Some(&at(&other, s)), taken)),
        ["write Running 1", "write Running 1", "rollforward", "not empty", "write Running 1", "write Running 1"]
    );
}

#[test]
fn a_deleted_job_of_the_same_name_is_gone_in_the_same_cluster_only() {
    let before = actor("older", 4, "p");
    let p = policy(OnExisting::Refuse, false);
    assert_eq!(word(&claim(&me(1), Some(&at(&before, State::Running)), p)), "write Running 1");
    assert_eq!(word(&claim(&me(1), Some(&at(&before, State::Committed)), p)), "not empty");
    let mut elsewhere = at(&before, State::Running);
    elsewhere.job.cluster = "another cluster".into();
    assert_eq!(word(&claim(&me(1), Some(&elsewhere), p)), "in use");
    // Nor is it by the operator's word: it has looked in its own cluster.
    let gone = ["older".to_string()];
    assert_eq!(word(&claim(&me(1), Some(&elsewhere), Policy { abandoned: &gone, ..p })), "in use");
    assert_eq!(word(&resolve(&me(1), Some(&elsewhere), Policy { abandoned: &gone, ..p })), "in use");
}

#[test]
fn reuse_takes_an_equal_jobs_success_and_nothing_else() {
    let p = policy(OnExisting::Reuse, true);
    let done = at(&actor("older", 1, "p"), State::Committed);
    assert_eq!(claim(&me(1), Some(&done), p), Decision::Reused(won(1)));
    assert_eq!(resolve(&me(1), Some(&done), p), Decision::Reused(won(1)));
    let mut changed = done.clone();
    changed.job.spec_hash = "other".into();
    assert_eq!(word(&claim(&me(1), Some(&changed), p)), "not empty");
    let mut failed = done;
    failed.verdict = Some(Verdict { attempt: 1, outcome: Ended::Failed, exit_code: Some(3) });
    assert_eq!(word(&claim(&me(1), Some(&failed), p)), "write Running 1");
}

#[test]
fn the_sidecar_stands_until_it_is_revoked() {
    let holds = ["holds", "holds", "revoked", "revoked", "revoked", "revoked"];
    assert_eq!(row(|s| standing(&me(1), Some(&at(&me(1), s)))), holds);
    assert!(row(|s| standing(&me(1), Some(&at(&me(2), s)))).iter().all(|w| w == "revoked"));
    assert_eq!(word(&standing(&me(1), None)), "revoked");
}

#[test]
fn sealing() {
    let plan = PlanRef { key: "p2".into(), sha256: "s2".into() };
    let sealed = "write Sealed 1";
    assert_eq!(row(|s| seal(&me(1), Some(&at(&me(1), s)), &plan)), [sealed, sealed, "revoked", "revoked", "revoked", "revoked"]);
    let same = PlanRef { key: "p".into(), sha256: "s".into() };
    assert_eq!(seal(&me(1), Some(&at(&me(1), State::Sealed)), &same), Decision::Holds);
    // The answer to the seal was lost while the commit went on.
    for state in [State::Committing, State::Committed] {
        assert_eq!(seal(&me(1), Some(&at(&me(1), state)), &same), Decision::Holds, "{state:?}");
        assert_eq!(word(&seal(&actor("u", 1, "another-pod"), Some(&at(&me(1), state)), &same)), "revoked");
    }
    // The zombie cannot seal over its successor.
    assert_eq!(word(&seal(&me(1), Some(&at(&me(2), State::Running)), &plan)), "revoked");
}

#[test]
fn committing_waits_for_the_seal_and_never_takes_another_attempt() {
    assert_eq!(
        row(|s| begin(&me(1), Some(&at(&me(1), s)), won(1))),
        ["wait", "write Committing 1", "rollforward", "committed", "revoked", "revoked"]
    );
    assert!(row(|s| begin(&me(1), Some(&at(&me(2), s)), won(1))).iter().all(|w| w == "revoked"));
    assert!(row(|s| begin(&me(2), Some(&at(&me(1), s)), won(2))).iter().all(|w| w == "wait"));
    assert_eq!(word(&begin(&me(1), None, won(1))), "wait");
    let Decision::Write(begun) = begin(&me(1), Some(&at(&me(1), State::Sealed)), won(1)) else { panic!() };
    assert_eq!((begun.verdict, begun.seq), (Some(won(1)), 8));
    assert!(begun.plan.is_some());
}

#[test]
fn finishing_and_losing() {
    let subject = at(&me(1), State::Committing);
    assert_eq!(word(&finish("n", Some(&subject), &subject)), "write Committed 1");
    assert_eq!(word(&finish("n", Some(&at(&me(1), State::Committed)), &subject)), "holds");
    assert_eq!(word(&finish("n", Some(&at(&me(2), State::Running)), &subject)), "revoked");
    assert_eq!(word(&lose("n", Some(&subject), &subject)), "write Revoked 1");
    assert_eq!(word(&lose("n", Some(&at(&me(1), State::Committed)), &subject)), "committed");
    assert_eq!(word(&lose("n", Some(&at(&me(2), State::Running)), &subject)), "revoked");
}

#[test]
fn discard_touches_only_its_own_attempt_and_never_past_the_point_of_no_return() {
    let gone = "write Revoked 1";
    assert_eq!(row(|s| revoke(&me(1), Some(&at(&me(1), s)), false)), [gone, gone, "rollforward", "committed", "holds", "holds"]);
    let free = "write Released 1";
    assert_eq!(row(|s| revoke(&me(1), Some(&at(&me(1), s)), true)), [free, free, "rollforward", "committed", free, "holds"]);
    assert!(row(|s| revoke(&me(1), Some(&at(&me(2), s)), true)).iter().all(|w| w == "holds"));
    assert!(row(|s| revoke(&me(2), Some(&at(&me(1), s)), false)).iter().all(|w| w == "holds"));
    assert!(row(|s| revoke(&me(9), Some(&at(&actor("foreign", 1, "p"), s)), true)).iter().all(|w| w == "holds"));
}

#[test]
fn a_job_gives_up_what_an_earlier_attempt_of_it_holds_and_none_of_its_attempts_gets_it_back() {
    let free = "write Released 2";
    assert_eq!(row(|s| revoke(&me(2), Some(&at(&me(1), s)), true)), [free, free, "rollforward", "committed", free, "holds"]);
    let Decision::Write(released) = revoke(&me(2), Some(&at(&me(1), State::Sealed)), true) else { panic!("it is written") };
    assert_eq!((released.pod_uid.as_str(), released.plan.as_ref()), ("pod2", None));
    let p = policy(OnExisting::Refuse, false);
    for late in [me(1), me(2)] {
        assert_eq!(word(&claim(&late, Some(&released), p)), "revoked");
    }
    assert_eq!(word(&claim(&actor("foreign", 1, "p"), Some(&released), p)), "write Running 1");
}

#[test]
fn resolving() {
    let p = policy(OnExisting::Refuse, true);
    let gone = "write Revoked 1";
    for asker in [me(1), me(2), actor("u", 1, "another-pod")] {
        assert_eq!(row(|s| resolve(&asker, Some(&at(&me(1), s)), p)), [gone, gone, "rollforward", "committed", "holds", "holds"]);
    }
    assert_eq!(word(&resolve(&me(1), Some(&at(&me(2), State::Running)), p)), "revoked");
    assert_eq!(word(&resolve(&me(1), None, policy(OnExisting::Refuse, false))), "holds");
}
