//! What must hold of each reader, whatever it is given.

use std::io::{BufReader, Cursor, Read};
use std::ops::ControlFlow;

use super::fuzz;
use crate::checkpoint::head::{self, Head, Kept, Move, Writer};
use crate::checkpoint::set::Set;
use crate::checksum::sha256_hex;
use crate::epoch::{self, Actor, Decision, Epoch, PlanRef, Policy};
use crate::manifest::Manifest;
use crate::plan::{Landing, Plan, landing};
use crate::receipt::{Ended, FIXED_LIMIT, Receipt, Verdict};
use crate::spec::{JobRef, OnExisting, TransferSpec};
use crate::store::location::Location;
use crate::store::s3::endpoint::Endpoint;
use crate::store::s3::framing::{self, Framing};
use crate::store::s3::{sign, xml};

/// What a reader with that buffer makes of it: the head, the body, whether it ended well, and how much is left for the next
/// answer.
fn answer(input: &[u8], capacity: usize) -> (Option<framing::Head>, Vec<u8>, bool, usize) {
    let mut reader = BufReader::with_capacity(capacity, Cursor::new(input));
    let Ok(head) = framing::head(&mut reader) else { return (None, vec![], false, 0) };
    let mut body = vec![];
    let whole = head.framing("GET").is_ok_and(|framing| {
        let whole = framing::body(&mut reader, framing, &mut |piece| {
            body.extend_from_slice(piece);
            ControlFlow::Continue(())
        });
        if let Framing::Length(length) = framing {
            assert!(body.len() as u64 <= length, "more than was announced");
            assert_eq!(whole.is_ok(), body.len() as u64 == length, "a short body passes for a whole one");
        }
        whole.is_ok()
    });
    let mut rest = vec![];
    reader.read_to_end(&mut rest).expect("memory can be read");
    (Some(head), body, whole, rest.len())
}

#[test]
fn http_answers() {
    fuzz!("http", |input| {
        let one = answer(input, 1 << 16);
        // No border of a buffer may matter.
        for capacity in [1, 7, 64] {
            let other = answer(input, capacity);
            assert_eq!((&one.0, one.2), (&other.0, other.2));
            if one.2 {
                assert_eq!((&one.1, one.3), (&other.1, other.3));
            }
        }
    });
}

#[test]
fn xml_documents() {
    fn depth(element: &xml::Element) -> usize {
        1 + element.children.iter().map(depth).max().unwrap_or(0)
    }
    fuzz!("xml", |input| {
        if let Some(root) = xml::parse(input) {
            assert!(depth(&root) <= 17);
        }
        // What is written is read back, whatever an ETag is.
        let tag: String = String::from_utf8_lossy(input).chars().filter(|c| !c.is_control()).collect();
        let written = xml::complete([(tag.as_str(), None), ("\"second\"", Some("c3Vt"))].into_iter());
        let read = xml::parse(written.as_bytes()).expect("what is written is XML");
        let tags: Vec<_> = read.children.iter().map(|part| part.get("ETag").to_string()).collect();
        assert_eq!(tags, [tag, "\"second\"".into()]);
    });
}

#[test]
fn urls() {
    fuzz!("urls", |input| {
        let text = String::from_utf8_lossy(input);
        assert_eq!(xml::url_decode(&sign::encode(&text, false)), text);
        let _ = xml::url_decode(&text);
        if let Ok(place) = Location::parse(&text) {
            assert!(!place.key.starts_with('/') && !place.key.split('/').any(|part| part == ".."));
            assert!(place.bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)));
        }
        if let Ok(endpoint) = Endpoint::parse(&text) {
            assert!(!endpoint.host.is_empty() && !endpoint.host.contains(['/', '@', '?']));
        }
    });
}

fn actor() -> Actor {
    let job = JobRef { uid: "u".into(), namespace: "n".into(), name: "j".into(), ..JobRef::default() };
    Actor { job, index: 0, attempt: 2, pod_uid: "p".into(), nonce: "nonce".into() }
}

#[test]
fn epochs() {
    let plan = PlanRef { key: "k".into(), sha256: "s".into() };
    let verdict = Verdict { attempt: 2, outcome: Ended::Succeeded, exit_code: Some(0) };
    fuzz!("epoch", |input| {
        let Ok(found) = serde_json::from_slice::<Epoch>(input) else { return };
        let (me, found) = (actor(), Some(&found));
        for on_existing in [OnExisting::Refuse, OnExisting::Overwrite, OnExisting::Reuse] {
            let policy = Policy { on_existing, abandoned: &[], occupied: false };
            let subject = found.expect("just read");
            for decision in [
                epoch::claim(&me, found, policy),
                epoch::resolve(&me, found, policy),
                epoch::standing(&me, found),
                epoch::seal(&me, found, &plan),
                epoch::begin(&me, found, verdict),
                epoch::finish(&me.nonce, found, subject),
                epoch::lose(&me.nonce, found, subject),
                epoch::revoke(&me, found, true),
            ] {
                if let Decision::Write(next) = decision {
                    // A write must be told from what it replaces.
                    assert!(!subject.is_write(&next));
                    assert_eq!(serde_json::from_slice::<Epoch>(&serde_json::to_vec(&next).expect("JSON")).expect("an epoch"), next);
                }
            }
        }
    });
}

#[test]
fn plans_and_manifests() {
    fuzz!("plan", |input| {
        let reference = PlanRef { key: "k".into(), sha256: sha256_hex(input) };
        if let Ok(plan) = Plan::decode(input, &reference) {
            let (bytes, reference) = plan.encode("k".into());
            // All but the summary, whose numbers may be rounded in their last digit: what is committed does not depend on it.
            let again = Plan::decode(&bytes, &reference).expect("what is written is a plan");
            assert_eq!(Plan { summary: None, ..again }, Plan { summary: None, ..plan.clone() });
            for item in &plan.items {
                // Nothing is at the key: it has not landed.
                assert!(matches!(landing(&item.file, true, None), Landing::Lost));
            }
            let verdict = Verdict { attempt: plan.attempt, outcome: Ended::Failed, exit_code: None };
            let manifest = Manifest::of(&plan, verdict);
            assert_eq!(serde_json::from_slice::<Manifest>(&manifest.encode()).expect("a manifest"), manifest);
        }
        let _ = serde_json::from_slice::<Manifest>(input);
    });
}

#[test]
fn checkpoints() {
    let me = Writer { attempt: 2, pod_uid: "p".into(), process: "process".into() };
    let new = Kept { attempt: 2, number: 9, manifest: "m".into(), sha256: "s".into(), files: 1, bytes: 1 };
    fuzz!("checkpoint", |input| {
        if let Ok(found) = serde_json::from_slice::<Head>(input) {
            let damaged: Vec<String> = found.kept.iter().take(1).map(|kept| kept.manifest.clone()).collect();
            for step in [
                head::claim(&me, Some(&found), true),
                head::claim(&me, Some(&found), false),
                head::publish(&me, Some(&found), &new, 2),
                head::drop_damaged(&me, Some(&found), &damaged),
            ] {
                if let Move::Write(next) = step {
                    assert!(!found.is_write(&next) && next.attempt >= found.attempt);
                }
            }
        }
        if let Ok(set) = Set::decode(input, &sha256_hex(input)) {
            assert!(set.entries.iter().all(|entry| !entry.path.split('/').any(|part| part == "..") && !entry.path.starts_with('/')));
            let (bytes, sum) = set.encode();
            assert_eq!((Set::decode(&bytes, &sum).as_ref(), set.bytes() > 0), (Ok(&set), set.files().any(|file| file.size > 0)));
        }
    });
}

#[test]
fn receipts_and_specs() {
    fuzz!("receipt", |input| {
        let text = String::from_utf8_lossy(input);
        let _ = serde_json::from_str::<TransferSpec>(&text);
        if let Ok(receipt) = Receipt::parse(&text) {
            for containers in [1, 4, 12] {
                let encoded = receipt.encode(containers);
                assert!(encoded.len() <= 4096.min(12288 / containers) || encoded.len() <= FIXED_LIMIT, "{} bytes", encoded.len());
                let _ = Receipt::parse(&encoded).expect("a receipt that is cut is one still");
            }
        }
    });
}
