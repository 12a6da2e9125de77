//! Stores that refuse conditional writes, or accept and ignore them: each attempt publishes below a folder of its own.

use gpujob_transfer::plan::PART;
use gpujob_transfer::store::ObjectStore;
use serde_json::json;

use crate::attempt::{Attempt, noise};
use crate::double::{Conditions, Double, Manners};

const WITHOUT: [Conditions; 2] = [Conditions::Refuses, Conditions::Ignores];

fn double(conditions: Conditions) -> Double {
    Double::new(Manners { conditions, checks: &["content-md5"], ..Manners::default() })
}

fn attempt(uid: &str, number: u32, double: &Double) -> Attempt {
    let mut attempt = Attempt::new(uid, number, "bucket");
    attempt.env.insert("AWS_ENDPOINT_URL_S3", double.endpoint());
    attempt
}

fn visible(double: &Double) -> Vec<String> {
    double.keys().into_iter().filter(|key| !key.contains(".gpujob/")).collect()
}

#[test]
fn an_attempt_publishes_below_its_own_folder_and_says_so() {
    for conditions in WITHOUT {
        let double = double(conditions);
        let job = attempt("alone", 1, &double);
        job.write("small.txt", b"small");
        job.write("large.bin", &noise(PART as usize + 7, 1));
        let fetched = job.run(&["fetch"]);
        assert_eq!(fetched.says(), (0, "Done"), "{}", fetched.log);
        assert_eq!(fetched.receipt().published_under.as_deref(), Some("attempt-1/"));
        assert_eq!(double.keys(), ["out/attempt-1/.gpujob/epoch"]);
        let staged = job.stage();
        assert_eq!(staged.says(), (0, "Sealed"), "{}", staged.log);
        assert!(visible(&double).is_empty());
        for _ in 0..2 {
            let committed = job.commit();
            assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
            assert_eq!(committed.receipt().published_under.as_deref(), Some("attempt-1/"));
            let manifest = committed.receipt().manifest.as_ref().expect("a manifest");
            assert_eq!(manifest.key, "attempt-1/.gpujob/manifest.json");
            assert_eq!(visible(&double), ["out/attempt-1/large.bin", "out/attempt-1/small.txt"]);
        }
        assert_eq!(attempt("alone", 1, &double).run(&["resolve"]).says(), (93, "AlreadyCommitted"));
        let next = attempt("alone", 2, &double).run(&["fetch"]);
        assert_eq!(next.says(), (93, "AlreadyCommitted"), "{}", next.log);
        // Another job sees results there.
        let other = attempt("other", 1, &double).run(&["fetch"]);
        assert_eq!(other.says(), (2, "DestinationNotEmpty"), "{}", other.log);
    }
}

#[test]
fn a_next_attempt_revokes_the_last_one_and_never_touches_its_folder() {
    for conditions in WITHOUT {
        let double = double(conditions);
        let first = attempt("again", 1, &double);
        first.write("x.txt", b"first");
        first.seal();
        let resolved = first.run(&["resolve"]);
        assert_eq!(resolved.says(), (0, "Free"), "{}", resolved.log);
        assert_eq!(first.commit().says(), (2, "Revoked"));
        let second = attempt("again", 2, &double);
        second.write("x.txt", b"second");
        second.seal();
        let committed = second.commit();
        assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
        assert_eq!(visible(&double), ["out/attempt-2/x.txt"]);
    }
}

#[test]
fn a_claim_without_resolve_revokes_too_and_finishes_what_had_begun() {
    let double = double(Conditions::Ignores);
    let first = attempt("lost", 1, &double);
    first.seal();
    let second = attempt("lost", 2, &double);
    assert_eq!(second.run(&["fetch"]).says(), (0, "Done"));
    assert_eq!(first.commit().says(), (2, "Revoked"));
    assert_eq!(second.run(&["discard"]).says(), (0, "Discarded"));
    assert_eq!(second.commit().says(), (2, "Revoked"));
}

#[test]
fn somebodys_files_are_refused_there_too() {
    let double = double(Conditions::Refuses);
    double.store(&[]).put("out/precious.txt", b"mine").unwrap();
    assert_eq!(attempt("full", 1, &double).run(&["fetch"]).says(), (2, "DestinationNotEmpty"));
    let mut job = attempt("full", 1, &double);
    job.spec["results"]["onExisting"] = json!("Overwrite");
    job.write("new.txt", b"new");
    job.seal();
    assert_eq!(job.commit().says(), (0, "Committed"));
    assert_eq!(visible(&double), ["out/attempt-1/new.txt", "out/precious.txt"]);
}

#[test]
fn a_store_that_checks_nothing_is_checked_by_its_etags() {
    let double = Double::new(Manners::default());
    let job = attempt("unchecked", 1, &double);
    let (small, large) = (noise(5000, 1), noise(PART as usize + 7, 2));
    job.write("small.bin", &small);
    job.write("large.bin", &large);
    double.change(|manners| manners.damages = 2);
    job.seal();
    let committed = job.commit();
    assert_eq!(committed.says(), (0, "Committed"), "{}", committed.log);
    assert_eq!(committed.receipt().published_under, None);
    let read = |key: &str| gpujob_transfer::store::read(&double.store(&[]), key, 1 << 30).unwrap().unwrap().0;
    assert!(read("out/small.bin") == small && read("out/large.bin") == large, "damage was delivered");
}
